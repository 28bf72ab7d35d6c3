"""`POST /auth/refresh`: by token in the body, or by the cookie of `mixed`."""

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from garrison.core.errors import Denied
from garrison.guard.endpoint import Endpoint
from garrison.identity.fields import Body
from garrison.identity.origins import origin_of
from garrison.identity.sessions.carriers import cookie_names
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import TokenRefused
from garrison.identity.tokens.answers import refresh_cookie, token_document
from garrison.identity.tokens.dpop import CHALLENGE, Proofs
from garrison.identity.tokens.service import TokenService
from garrison.policy.rules import public
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call
from garrison.wire.cookies import find_cookie

Secret = Annotated[str, Field(min_length=1, max_length=256)]


class RefreshBody(Body):
    """The refresh token, and the `device_token` of the same sign-in; nothing at all after `deliver: mixed`."""

    refresh_token: Secret | None = None
    device_token: Secret | None = None


class TokenAnswer(BaseModel):
    """A token answer. `refresh_token` is left out where it goes into a cookie."""

    access_token: str
    token_type: Literal["Bearer", "DPoP"]
    expires_in: int
    refresh_token: str | None = None
    scope: str
    device_token: str | None = None
    """The one that was shown, if it was shown in the body."""


def proved(proofs: Proofs, call: Call) -> str:
    """Return the thumbprint of the key that the request proves, empty without one. Raises Denied(`invalid_proof`)."""
    if b"dpop" not in call.headers:
        return ""
    try:
        return proofs.verified(call)
    except TokenRefused:
        raise Denied("invalid_proof", headers=(CHALLENGE,)) from None


def token_endpoints(tokens: TokenService, proofs: Proofs, settings: IdentitySettings) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def refresh(call: Call, body: RefreshBody) -> Answer:
        names = cookie_names(call, development=settings.development)
        device = body.device_token
        if body.refresh_token is not None:
            if device is None and names is not None:
                device = find_cookie(call.header(b"cookie"), names.device)
            jkt = proved(proofs, call)
            issued = await tokens.refresh(body.refresh_token, device_secret=device, jkt=jkt, origin=origin_of(call))
            return json_answer(200, token_document(issued, device_token=body.device_token))
        if names is None:
            raise Denied("invalid_grant")
        cookie = call.header(b"cookie")
        token, device = find_cookie(cookie, names.refresh), find_cookie(cookie, names.device)
        if token is None or device is None:
            raise Denied("invalid_grant")
        issued = await tokens.refresh(token, device_secret=device, by_cookie=True, origin=origin_of(call))
        document = token_document(issued)
        del document["refresh_token"]
        return json_answer(200, document, (refresh_cookie(call, issued, names),))

    return (
        Endpoint(
            "POST",
            "/auth/refresh",
            public,
            refresh,
            "Rotate a refresh token",
            body=RefreshBody,
            body_optional=True,
            entry=True,
            sets_cookie=True,
            limit=settings.limit_refresh,
            answer=TokenAnswer,
            errors=frozenset({"invalid_grant", "invalid_proof", "rate_limited"}),
        ),
    )
