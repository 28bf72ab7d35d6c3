"""`POST /oauth/revoke` (RFC 7009) and `POST /oauth/introspect` (RFC 7662), for clients that authenticate.

A client revokes what was issued to it and nothing else; the answer is 200 whatever the token was. It is told about a
token only if it is of the token's audience: `aud` names it, or one of its registered audiences is the token's. Anything
else is `{"active": false}`, so that nobody learns about tokens by asking. Scopes are those that are left of its own.
"""

from collections.abc import Mapping
from typing import Any

from garrison.core.ids import digest
from garrison.guard.endpoint import Endpoint
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.clients.model import Client
from garrison.identity.clients.tokens import token_id_of
from garrison.identity.oauth.client_authentication import ClientAuthentication
from garrison.identity.oauth.endpoint import client_endpoint
from garrison.identity.oauth.errors import NO_STORE, OAuthError
from garrison.identity.oauth.exchange import is_of_audience
from garrison.identity.oauth.in_force import OwnTokens
from garrison.identity.oauth.parameters import Parameters
from garrison.identity.oauth.revoked import insert_revoked
from garrison.identity.origins import origin_of
from garrison.identity.sessions.service import end_session
from garrison.identity.settings import IdentitySettings
from garrison.identity.tokens.model import PURPOSE as REFRESH_PURPOSE
from garrison.identity.tokens.queries import find_presented
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call

_INACTIVE: Mapping[str, Any] = {"active": False}


class RevocationService:
    """Revokes single tokens."""

    def __init__(self, changes: Changes) -> None:
        self._changes = changes

    async def revoke(self, claims: Mapping[str, Any], *, origin: Origin = Origin()) -> None:
        """Refuse a client's token from now on. Raises StoreError."""
        token_id = token_id_of(claims["jti"])

        def change(change: Change) -> None:
            if "sid" in claims and "via" not in claims:  # what a person gave ends as a whole
                end_session(change, claims["sid"])
            elif insert_revoked(change.connection, token_id, float(claims["exp"])):
                change.record("token.revoked", token_id, actor=claims["client_id"])
                change.announce("token", token_id, 1)

        await self._changes.make(change, origin)

    async def revoke_refresh(self, token: str, client_id: str, *, origin: Origin = Origin()) -> None:
        """End the family of a refresh token, if it is this client's. Raises StoreError."""
        shown = digest(token, purpose=REFRESH_PURPOSE)

        def change(change: Change) -> None:
            found = find_presented(change.connection, shown)
            if found is not None and found.client_id == client_id:
                end_session(change, found.session_id)

        await self._changes.make(change, origin)


def revocation_endpoints(
    authentication: ClientAuthentication, service: RevocationService, own: OwnTokens, settings: IdentitySettings
) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def revoke(call: Call, client: Client, parameters: Parameters) -> Answer:
        found = await own.claims_of(_token(parameters))
        if found is not None and found[0].get("client_id") == client.id:
            await service.revoke(found[0], origin=origin_of(call))
        elif found is None:
            await service.revoke_refresh(parameters.one("token"), client.id, origin=origin_of(call))
        return json_answer(200, {}, NO_STORE)

    async def introspect(_call: Call, client: Client, parameters: Parameters) -> Answer:
        if client.is_public:  # it has authenticated itself by nothing
            raise OAuthError("invalid_client")
        found = await own.claims_of(_token(parameters))
        if found is None:
            return json_answer(200, _INACTIVE, NO_STORE)
        claims, kid = found
        scopes = await own.scopes_of(claims, kid) if is_of_audience(client, claims) else None
        if scopes is None:
            return json_answer(200, _INACTIVE, NO_STORE)
        told = ("iss", "sub", "aud", "client_id", "exp", "iat", "jti", "cnf", "act")
        document = {name: claims[name] for name in told if name in claims} | {"scope": " ".join(sorted(scopes))}
        kind = "DPoP" if "cnf" in claims else "Bearer"  # RFC 9449 section 6.2: whoever asks has to see the proof
        return json_answer(200, {"active": True, "token_type": kind, **document}, NO_STORE)

    return tuple(
        client_endpoint(path, summary, work, authentication, limit=settings.limit_oauth_lookups, document="unread")
        for path, work, summary in (
            ("/oauth/revoke", revoke, "Revoke a token"),
            ("/oauth/introspect", introspect, "Ask whether a token is in force"),
        )
    )


def _token(parameters: Parameters) -> str:
    token = parameters.one("token")
    if not token:
        raise OAuthError("invalid_request", "token is missing")
    return token
