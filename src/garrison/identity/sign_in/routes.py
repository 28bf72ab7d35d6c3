"""`POST /auth/sign-in`: by cookie, by token, or mixed."""

from dataclasses import replace
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from garrison.core.errors import Denied
from garrison.core.network import bucket
from garrison.guard.endpoint import Endpoint
from garrison.identity.fields import Body, GivenEmail, GivenPassword
from garrison.identity.origins import origin_of
from garrison.identity.sessions.cache import SessionEntry
from garrison.identity.sessions.carriers import CookieNames, cookie_names
from garrison.identity.sessions.client import describe_client
from garrison.identity.sessions.model import Carrier
from garrison.identity.settings import IdentitySettings
from garrison.identity.sign_in.service import Attempt, SignedIn, SignInService
from garrison.identity.tokens.answers import refresh_cookie, token_document
from garrison.identity.tokens.dpop import Proofs
from garrison.identity.tokens.routes import proved
from garrison.identity.tokens.service import Issued, TokenService
from garrison.policy.rules import public
from garrison.wire.answer import Answer, Header, json_answer
from garrison.wire.call import Call
from garrison.wire.cookies import find_cookie, set_cookie


class SignInBody(Body):
    """Address and password as given; `device_token` from an earlier token answer, so that the device is known."""

    email: GivenEmail
    password: GivenPassword
    deliver: Annotated[
        Literal["cookie", "token", "mixed"],
        Field(
            description="Where the session goes: `cookie` for browsers, `token` for everything else, `mixed` for "
            "browsers that call other origins: the access token in the answer, the refresh token in a cookie."
        ),
    ] = "cookie"
    device_token: Annotated[str, Field(min_length=1, max_length=256)] | None = None


class SignInAnswer(BaseModel):
    """`status` alone beside cookies; all of it with `deliver: token`; `mixed` leaves out what is in cookies."""

    status: Literal["complete"]
    access_token: str | None = None
    token_type: Literal["Bearer", "DPoP"] | None = None
    expires_in: int | None = None
    refresh_token: str | None = None
    scope: str | None = None
    device_token: str | None = None


def sign_in_endpoints(
    sign_in: SignInService, tokens: TokenService, proofs: Proofs, settings: IdentitySettings
) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def handle(call: Call, body: SignInBody) -> Answer:
        names = cookie_names(call, development=settings.development)
        if body.deliver == "token":
            return await by_token(call, body, names)
        if names is None:
            raise Denied("https_required", "cookies need HTTPS here; ask for deliver: token")
        return await (by_cookie if body.deliver == "cookie" else mixed)(call, body, names)

    async def by_cookie(call: Call, body: SignInBody, names: CookieNames) -> Answer:
        signed_in = await sign_in.sign_in(body.email, body.password, attempt(call, body, "cookie", names))
        begun = signed_in.session
        value = begun.secret
        if settings.session_format == "jwt":
            value = await tokens.cookie(begun.id, signed_in.account_id, begun.expires_at)
        session = set_cookie(names.session, value, max_age_s=int(settings.session_max_s), secure=names.secure)
        return json_answer(200, {"status": "complete"}, (session, device_cookie(signed_in.device_secret, names)))

    async def by_token(call: Call, body: SignInBody, names: CookieNames | None) -> Answer:
        signed_in, issued = await issue(call, body, names)
        return json_answer(200, {"status": "complete", **token_document(issued, device_token=signed_in.device_secret)})

    async def mixed(call: Call, body: SignInBody, names: CookieNames) -> Answer:
        signed_in, issued = await issue(call, body, names)
        cookies = (refresh_cookie(call, issued, names), device_cookie(signed_in.device_secret, names))
        document = token_document(issued)
        del document["refresh_token"]
        return json_answer(200, {"status": "complete", **document}, cookies)

    async def issue(call: Call, body: SignInBody, names: CookieNames | None) -> tuple[SignedIn, Issued]:
        jkt = proved(proofs, call)  # before the guess: a proof that is wrong costs nobody a hash
        tried = replace(attempt(call, body, "token", names), jkt=jkt)
        signed_in = await sign_in.sign_in(body.email, body.password, tried)
        if signed_in.family is None:
            raise Denied("internal")
        return signed_in, await tokens.issue(signed_in.family)

    def device_cookie(secret: str, names: CookieNames) -> Header:
        return set_cookie(names.device, secret, max_age_s=int(settings.device_lifetime_s), secure=names.secure)

    def attempt(call: Call, body: SignInBody, carrier: Carrier, names: CookieNames | None) -> Attempt:
        device_secret = body.device_token
        if device_secret is None and names is not None:
            device_secret = find_cookie(call.header(b"cookie"), names.device)
        entry = call.credential
        shown = isinstance(entry, SessionEntry) and entry.principal.via == ("session" if carrier == "cookie" else "jwt")
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
            errors=frozenset(
                {"validation", "invalid_credentials", "invalid_proof", "rate_limited", "overloaded", "https_required"}
            ),
        ),
    )
