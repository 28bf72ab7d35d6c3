"""`POST /oauth/token`: client credentials (RFC 6749 section 4.4, RFC 8707, RFC 9068); `grants.py` and `exchange.py`.

A client gets a token for one of the audiences it is registered for (`audience` or `resource`; the first one where it
names none) and for some or all of its scopes. Failed authentications are counted by address, calls by client.
"""

import secrets
from collections.abc import Mapping
from typing import Any

from garrison.core.clock import Clock
from garrison.guard.endpoint import Endpoint
from garrison.identity.clients.model import GRANTS, Client
from garrison.identity.oauth.client_authentication import ClientAuthentication
from garrison.identity.oauth.endpoint import client_endpoint
from garrison.identity.oauth.errors import NO_STORE, NOT_GRANTED, OAuthError
from garrison.identity.oauth.exchange import TokenExchange
from garrison.identity.oauth.grants import Grants
from garrison.identity.oauth.parameters import Parameters, asked_audience, asked_scope
from garrison.identity.oauth.proof import proved_key
from garrison.identity.origins import origin_of
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import sign
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.dpop import Proofs
from garrison.identity.tokens.service import ACCESS_TYP
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call


class TokenEndpoint:
    """The endpoint and what it needs."""

    def __init__(
        self,
        authentication: ClientAuthentication,
        keyring: Keyring,
        signing: SigningService,
        clock: Clock,
        settings: IdentitySettings,
        proofs: Proofs,
        grants: Grants,
        exchange: TokenExchange,
    ) -> None:
        self._authentication = authentication
        self._ring = keyring
        self._signing = signing
        self._clock = clock
        self._settings = settings
        self._proofs = proofs
        self._grants = grants
        self._exchange = exchange

    def endpoint(self) -> Endpoint:
        """Return it as data."""
        return client_endpoint("/oauth/token", "Get a token", self._handle, self._authentication, counts=True)

    async def _handle(self, call: Call, client: Client, parameters: Parameters) -> Answer:
        grant = parameters.one("grant_type")
        if not grant:
            raise OAuthError("invalid_request", "grant_type is missing")
        if grant not in GRANTS:
            raise OAuthError("unsupported_grant_type", "a grant_type that is not served here")
        if grant not in client.grants:
            raise OAuthError("unauthorized_client", NOT_GRANTED)
        jkt, origin, network = proved_key(call, self._proofs), origin_of(call), call.network
        if client.requires_dpop and not jkt:
            raise OAuthError("invalid_dpop_proof", "this client's tokens are bound to a key; send a proof of it")
        match grant:
            case "authorization_code":
                document = await self._grants.by_code(client, parameters, jkt, network=network, origin=origin)
            case "refresh_token":
                document = await self._grants.by_refresh(client, parameters, jkt, origin=origin)
            case "urn:ietf:params:oauth:grant-type:device_code":
                document = await self._grants.by_device_code(client, parameters, jkt, network=network, origin=origin)
            case "urn:ietf:params:oauth:grant-type:token-exchange":
                document = await self._exchange.exchange(client, parameters, jkt)
            case "client_credentials":
                document = await self._client_credentials(client, parameters, jkt)
            case _:  # a name in GRANTS without a line here
                raise OAuthError("unsupported_grant_type")
        return json_answer(200, document, NO_STORE)

    async def _client_credentials(self, client: Client, parameters: Parameters, jkt: str) -> Mapping[str, Any]:
        audience = asked_audience(client, parameters)
        scope = asked_scope(client, parameters)
        await self._signing.keep()
        settings, now = self._settings, self._clock.now()
        claims = {
            "iss": settings.issuer,
            "sub": client.id,
            "aud": audience,
            "client_id": client.id,
            "iat": int(now),
            "exp": int(now + settings.access_ttl_s),
            "jti": secrets.token_urlsafe(16),
            "scope": scope,
            "epoch": client.epoch,
            **({"cnf": {"jkt": jkt}} if jkt else {}),
        }
        return {
            "access_token": sign({"typ": ACCESS_TYP}, claims, self._ring.signing),
            "token_type": "DPoP" if jkt else "Bearer",
            "expires_in": int(settings.access_ttl_s),
            "scope": scope,
        }
