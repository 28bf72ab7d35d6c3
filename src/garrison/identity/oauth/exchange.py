"""Token exchange (RFC 8693): a service that got a token gets another one for the next service, in the same name.

The client must be granted it, must have authenticated, and must be of the token's audience: what it found somewhere
else it cannot exchange. Scopes only shrink, the end never moves out, and `act` says who acts, through however many
services. What comes out rests on what went in and on this client (`tokens/exchanged.py`). There is no refresh token,
and whoever acts is the client itself: `actor_token` is refused.
"""

import secrets
from collections.abc import Mapping, Set
from typing import Any

from garrison.core.clock import Clock
from garrison.identity.clients.model import Client
from garrison.identity.oauth.errors import OAuthError
from garrison.identity.oauth.in_force import OwnTokens
from garrison.identity.oauth.parameters import Parameters, asked_audience
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import sign
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.exchanged import MOST_LINKS, Link, links_of
from garrison.identity.tokens.service import ACCESS_TYP

_TYPE = "urn:ietf:params:oauth:token-type:"
ACCESS_TOKEN, JWT = _TYPE + "access_token", _TYPE + "jwt"
_TAKEN = (ACCESS_TOKEN, JWT)


class TokenExchange:
    """Exchanges our own access tokens."""

    def __init__(
        self, own: OwnTokens, keyring: Keyring, signing: SigningService, clock: Clock, settings: IdentitySettings
    ) -> None:
        self._own = own
        self._ring = keyring
        self._signing = signing
        self._clock = clock
        self._settings = settings

    async def exchange(self, client: Client, parameters: Parameters, jkt: str) -> Mapping[str, Any]:
        """Return the token answer (section 2.2).

        Raises OAuthError(`invalid_request`, `invalid_scope`, `invalid_target`), StoreError.
        """
        wanted = parameters.one("requested_token_type") or ACCESS_TOKEN
        if parameters.one("subject_token_type") not in _TAKEN or wanted not in _TAKEN:
            raise OAuthError("invalid_request", "access tokens are exchanged for access tokens")
        if parameters.one("actor_token") or parameters.one("actor_token_type"):
            raise OAuthError("invalid_request", "the client itself is who acts; leave actor_token out")
        claims, held = await self._presented(client, parameters.one("subject_token"))
        links = links_of(claims) or ()
        if len(links) >= MOST_LINKS:
            raise OAuthError("invalid_request", "the token was exchanged too often")
        audience = asked_audience(client, parameters)
        most = set(client.scopes) & held
        asked = set(parameters.one("scope").split()) or most
        if not asked or asked - most:
            raise OAuthError(
                "invalid_scope", "no scope that both the client and the subject_token have, or more than those"
            )
        await self._signing.keep()
        now, jti, scope = self._clock.now(), secrets.token_urlsafe(16), " ".join(sorted(asked))
        expires_at = min(int(now + self._settings.access_ttl_s), int(claims["exp"]))
        made: dict[str, Any] = {
            "iss": self._settings.issuer,
            "sub": claims["sub"],
            "aud": audience,
            "client_id": client.id,
            "iat": int(now),
            "exp": expires_at,
            "jti": jti,
            "scope": scope,
            "act": {"sub": client.id, **({"act": claims["act"]} if "act" in claims else {})},
            "via": [Link(client.id, client.epoch, jti), *links],
            **({"cnf": {"jkt": jkt}} if jkt else {}),
        }
        if "sid" in claims:
            made["sid"] = claims["sid"]
        else:
            made |= {"epoch": claims["epoch"], "root": claims.get("root", claims["jti"])}
        return {
            "access_token": sign({"typ": ACCESS_TYP}, made, self._ring.signing),
            "issued_token_type": wanted,
            "token_type": "DPoP" if jkt else "Bearer",
            "expires_in": max(0, expires_at - int(now)),
            "scope": scope,
        }

    async def _presented(self, client: Client, token: str) -> tuple[Mapping[str, Any], Set[str]]:
        """Return the claims of the subject's token and its scopes that are left.

        Raises OAuthError(`invalid_request`), section 2.2.2.
        """
        found = await self._own.claims_of(token)
        if found is not None:
            claims, kid = found
            scopes = await self._own.scopes_of(claims, kid) if is_of_audience(client, claims) else None
            if scopes is not None:
                return claims, scopes
        raise OAuthError("invalid_request", "the subject_token is not one that this client may exchange")


def is_of_audience(client: Client, claims: Mapping[str, Any]) -> bool:
    """Say whether the token is for this client: its id, or one of its registered audiences."""
    audience = claims.get("aud")
    return bool({client.id, *client.audiences} & set(audience if isinstance(audience, list) else [audience]))
