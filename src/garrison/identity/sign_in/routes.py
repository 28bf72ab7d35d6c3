"""`POST /auth/sign-in`: by cookie, or by token."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from garrison.core.errors import Denied
from garrison.core.network import bucket
from garrison.guard.endpoint import Endpoint
from garrison.identity.fields import Body, GivenEmail, GivenPassword
from garrison.identity.origins import origin_of
from garrison.identity.sessions.cache import ScopesOf, SessionEntry
from garrison.identity.sessions.carriers import CookieNames, cookie_names
from garrison.identity.sessions.client import describe_client
from garrison.identity.sessions.model import Carrier
from garrison.identity.settings import IdentitySettings
from garrison.identity.sign_in.service import Attempt, SignInService
from garrison.policy.rules import public
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call
from garrison.wire.cookies import find_cookie, set_cookie


def _not_yet(value: Any) -> Any:
    if value == "mixed":
        raise PydanticCustomError("not_available", "mixed needs refresh tokens, which are not served yet")
    return value


class SignInBody(Body):
    """Address and password as given; `device_token` from an earlier token answer, so that the device is known."""

    email: GivenEmail
    password: GivenPassword
    deliver: Annotated[
        Literal["cookie", "token"],
        BeforeValidator(_not_yet),
        Field(description="Where the session goes: a cookie for browsers, a bearer token for everything else."),
    ] = "cookie"
    device_token: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class SignInAnswer(BaseModel):
    """`status` alone, beside the cookies; or all of it, with `deliver: token`."""

    status: Literal["complete"]
    access_token: str | None = None
    token_type: Literal["Bearer"] | None = None
    expires_in: int | None = None
    scope: str | None = None
    device_token: str | None = None


def sign_in_endpoints(sign_in: SignInService, scopes_of: ScopesOf, settings: IdentitySettings) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def handle(call: Call, body: SignInBody) -> Answer:
        names = cookie_names(call, development=settings.development)
        if body.deliver == "cookie":
            return await by_cookie(call, body, names)
        return await by_token(call, body, names)

    async def by_cookie(call: Call, body: SignInBody, names: CookieNames | None) -> Answer:
        if names is None:
            raise Denied("https_required", "cookies need HTTPS here; ask for deliver: token")
        signed_in = await sign_in.sign_in(body.email, body.password, attempt(call, body, "cookie", names))
        session = set_cookie(
            names.session, signed_in.session.secret, max_age_s=int(settings.session_max_s), secure=names.secure
        )
        device = set_cookie(
            names.device, signed_in.device_secret, max_age_s=int(settings.device_lifetime_s), secure=names.secure
        )
        return json_answer(200, {"status": "complete"}, (session, device))

    async def by_token(call: Call, body: SignInBody, names: CookieNames | None) -> Answer:
        signed_in = await sign_in.sign_in(body.email, body.password, attempt(call, body, "token", names))
        document = {
            "status": "complete",
            "access_token": signed_in.session.secret,
            "token_type": "Bearer",
            "expires_in": int(signed_in.session.expires_at - call.now),
            "scope": " ".join(sorted(scopes_of(signed_in.roles))),
            "device_token": signed_in.device_secret,
        }
        return json_answer(200, document)

    def attempt(call: Call, body: SignInBody, carrier: Carrier, names: CookieNames | None) -> Attempt:
        device_secret = body.device_token
        if device_secret is None and names is not None:
            device_secret = find_cookie(call.header(b"cookie"), names.device)
        entry = call.credential
        shown = isinstance(entry, SessionEntry) and entry.principal.via == (
            "session" if carrier == "cookie" else "bearer"
        )
        return Attempt(
            peer=call.peer,
            carrier=carrier,
            device_secret=device_secret,
            replaces=entry.session_id if shown else None,
            client=describe_client(call.header(b"user-agent")),
            network=bucket(call.peer, v4_prefix=24, v6_prefix=64),
            origin=origin_of(call),
        )

    return (
        Endpoint(
            "POST",
            "/auth/sign-in",
            public,
            handle,
            "Sign in with a password",
            body=SignInBody,
            entry=True,
            sets_cookie=True,
            answer=SignInAnswer,
            errors=frozenset({"validation", "invalid_credentials", "rate_limited", "overloaded", "https_required"}),
        ),
    )
