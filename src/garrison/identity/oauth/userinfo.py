"""`/oauth/userinfo`: who is behind a token that was given `openid` (OpenID Connect Core 1.0 section 5.3)."""

from garrison.core.errors import Denied
from garrison.guard.endpoint import Endpoint
from garrison.identity.oauth.errors import NO_STORE
from garrison.identity.sessions.cache import SessionEntry
from garrison.policy.rules import allow
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call


def userinfo_endpoints() -> tuple[Endpoint, ...]:
    """Return the endpoints: GET and POST, which mean the same."""

    async def show(call: Call, _body: object) -> Answer:
        entry = call.credential
        if not isinstance(entry, SessionEntry) or entry.principal.kind != "account":
            raise Denied("forbidden")
        document: dict[str, object] = {"sub": entry.principal.id}
        if "email" in entry.principal.scopes:
            document |= {"email": entry.email, "email_verified": False}
        return json_answer(200, document, NO_STORE)

    rule = allow(scope="openid", credentials="bearer")
    return (
        Endpoint("GET", "/oauth/userinfo", rule, show, "Who is behind the token", in_openapi=False),
        Endpoint("POST", "/oauth/userinfo", rule, show, "Who is behind the token", is_raw=True, in_openapi=False),
    )
