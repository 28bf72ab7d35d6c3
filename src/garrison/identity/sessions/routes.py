"""`/auth/session`, `/auth/sessions`, `/auth/sign-out`, `/auth/sign-out-everywhere`."""

from pydantic import BaseModel

from garrison.core.errors import Denied
from garrison.guard.endpoint import Endpoint
from garrison.identity.origins import origin_of
from garrison.identity.sessions.cache import SessionEntry
from garrison.identity.sessions.carriers import cookie_names
from garrison.identity.sessions.service import SessionService
from garrison.identity.settings import IdentitySettings
from garrison.identity.timestamps import rfc3339
from garrison.policy.rules import allow, public
from garrison.wire.answer import Answer, Header, empty_answer, json_answer
from garrison.wire.call import Call
from garrison.wire.cookies import clear_cookie


class AccountView(BaseModel):
    """The account that is signed in."""

    id: str
    email: str
    roles: list[str]
    scopes: list[str]


class FactorView(BaseModel):
    """One proof of identity and when it was given."""

    kind: str
    proved_at: str


class SessionView(BaseModel):
    """The session that asks."""

    id: str
    created_at: str
    expires_at: str
    factors: list[FactorView]


class SessionAnswer(BaseModel):
    """Who is signed in, and how."""

    account: AccountView
    session: SessionView


class SessionItem(BaseModel):
    """One of the account's sessions. `carrier` is `cookie` or `token`; `client` and `network` are hints."""

    id: str
    current: bool
    carrier: str
    client: str
    network: str
    created_at: str
    last_seen_at: str
    expires_at: str


class SessionsAnswer(BaseModel):
    """The account's live sessions, newest first."""

    items: list[SessionItem]


def session_endpoints(sessions: SessionService, settings: IdentitySettings) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def show(call: Call, _body: None) -> Answer:
        entry = call.credential
        if not isinstance(entry, SessionEntry):
            raise Denied("forbidden")
        principal = entry.principal
        document = {
            "account": {
                "id": principal.id,
                "email": entry.email,
                "roles": sorted(principal.roles),
                "scopes": sorted(principal.scopes),
            },
            "session": {
                "id": entry.session_id,
                "created_at": rfc3339(entry.created_at),
                "expires_at": rfc3339(entry.ends_at),
                "factors": [{"kind": one.kind, "proved_at": rfc3339(one.proved_at)} for one in principal.factors],
            },
        }
        return json_answer(200, document)

    async def list_own(call: Call, _body: None) -> Answer:
        items = [
            {
                "id": session.id,
                "current": session.id == call.principal.session_id,
                "carrier": session.carrier,
                "client": session.client,
                "network": session.network,
                "created_at": rfc3339(session.created_at),
                "last_seen_at": rfc3339(session.seen_at),
                "expires_at": rfc3339(session.expires_at),
            }
            for session in await sessions.list(call.principal.id)
        ]
        return json_answer(200, {"items": items})

    async def revoke(call: Call, _body: None) -> Answer:
        if not await sessions.revoke(call.params["id"], account_id=call.principal.id, origin=origin_of(call)):
            raise Denied("not_found")
        return empty_answer()

    async def sign_out(call: Call, _body: None) -> Answer:
        """Whoever is signed in, no more; with a stale cookie or none, the same answer."""
        if call.principal.session_id is not None:
            await sessions.revoke(call.principal.session_id, account_id=call.principal.id, origin=origin_of(call))
        return empty_answer(headers=cleared(call))

    async def sign_out_everywhere(call: Call, _body: None) -> Answer:
        await sessions.revoke_all(call.principal.id, origin=origin_of(call))
        return empty_answer(headers=cleared(call))

    def cleared(call: Call) -> tuple[Header, ...]:
        """End the session's cookie. The device stays known, and a cookie beside a bearer token is left alone."""
        names = cookie_names(call, development=settings.development)
        if names is None or call.principal.via == "jwt":
            return ()
        return (clear_cookie(names.session, secure=names.secure),)

    first_party = allow(signed_in=True)
    return (
        Endpoint("GET", "/auth/session", first_party, show, "Who is signed in", answer=SessionAnswer),
        Endpoint("GET", "/auth/sessions", first_party, list_own, "One's own sessions", answer=SessionsAnswer),
        Endpoint(
            "DELETE",
            "/auth/sessions/{id}",
            first_party,
            revoke,
            "End one of one's own sessions",
            status=204,
            errors=frozenset({"not_found"}),
            path_parameters={"id": "Id of a session, `ses_…`"},
        ),
        Endpoint(
            "POST",
            "/auth/sign-out",
            public,
            sign_out,
            "End the session that asks, if there is one",
            entry=True,
            sets_cookie=True,
            status=204,
        ),
        Endpoint(
            "POST",
            "/auth/sign-out-everywhere",
            first_party,
            sign_out_everywhere,
            "End every session and token of the account, this one included",
            sets_cookie=True,
            status=204,
        ),
    )
