"""`POST /oauth/revoke` (RFC 7009) and `POST /oauth/introspect` (RFC 7662), for clients that authenticate.

A client revokes what was issued to it and nothing else; the answer is 200 whatever the token was. It is told about a
token only if it is of the token's audience: `aud` names it, or one of its registered audiences is the token's. Anything
else is `{"active": false}`, so that nobody learns about tokens by asking.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from garrison.core.clock import Clock
from garrison.core.ids import digest
from garrison.guard.endpoint import Endpoint
from garrison.identity.accounts.model import accounts
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.clients.model import Client
from garrison.identity.clients.queries import find_client
from garrison.identity.clients.tokens import token_id_of
from garrison.identity.oauth.client_authentication import ClientAuthentication
from garrison.identity.oauth.endpoint import client_endpoint
from garrison.identity.oauth.errors import NO_STORE, OAuthError
from garrison.identity.oauth.parameters import Parameters
from garrison.identity.oauth.revoked import insert_revoked, revoked_tokens
from garrison.identity.origins import origin_of
from garrison.identity.sessions.model import sessions
from garrison.identity.sessions.service import end_session
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import TokenRefused, verify
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.model import signing_keys
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.model import PURPOSE as REFRESH_PURPOSE
from garrison.identity.tokens.queries import find_presented
from garrison.identity.tokens.service import ACCESS_TYP
from garrison.store.database import Database
from garrison.wire.answer import Answer, json_answer
from garrison.wire.call import Call

_INACTIVE: Mapping[str, Any] = {"active": False}


class RevocationService:
    """Revokes single tokens and says whether one is in force."""

    def __init__(self, changes: Changes, database: Database) -> None:
        self._changes = changes
        self._database = database

    async def revoke(self, claims: Mapping[str, Any], *, origin: Origin = Origin()) -> None:
        """Refuse a client's token from now on. Raises StoreError."""
        token_id = token_id_of(claims["jti"])

        def change(change: Change) -> None:
            if "sid" in claims:  # what a person gave ends as a whole
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

    async def is_in_force(self, claims: Mapping[str, Any], kid: str, *, is_shared: bool) -> bool:
        """Say whether what stands behind verified claims is there: key, session and account, or client.

        Raises StoreError.
        """

        def read(connection: Connection) -> bool:
            if not is_shared:
                state = connection.execute(select(signing_keys.c.state).where(signing_keys.c.kid == kid)).scalar()
                if state not in ("active", "retired"):
                    return False
            if "sid" in claims:
                return _session_lives(connection, claims)
            known = find_client(connection, claims["sub"])
            revoked = select(revoked_tokens.c.id).where(revoked_tokens.c.id == token_id_of(str(claims.get("jti"))))
            return (
                known is not None
                and known.client.status == "active"
                and claims.get("epoch", 0) >= known.client.epoch
                and connection.execute(revoked).one_or_none() is None
            )

        return await self._database.read(read)


def _session_lives(connection: Connection, claims: Mapping[str, Any]) -> bool:
    query = (
        select(accounts.c.status)
        .join(sessions, sessions.c.account_id == accounts.c.id)
        .where(
            sessions.c.id == claims["sid"],
            sessions.c.account_id == claims["sub"],
            sessions.c.account_epoch >= accounts.c.epoch,
        )
    )
    return connection.execute(query).scalar_one_or_none() == "active"


def revocation_endpoints(
    authentication: ClientAuthentication,
    service: RevocationService,
    keyring: Keyring,
    signing: SigningService,
    clock: Clock,
    settings: IdentitySettings,
) -> tuple[Endpoint, ...]:
    """Return the endpoints of this capability."""

    async def revoke(call: Call, client: Client, parameters: Parameters) -> Answer:
        found = await claims_of(_token(parameters))
        if found is not None and found[0].get("client_id") == client.id:
            await service.revoke(found[0], origin=origin_of(call))
        elif found is None:
            await service.revoke_refresh(parameters.one("token"), client.id, origin=origin_of(call))
        return json_answer(200, {}, NO_STORE)

    async def introspect(_call: Call, client: Client, parameters: Parameters) -> Answer:
        if client.is_public:  # it has authenticated itself by nothing
            raise OAuthError("invalid_client")
        found = await claims_of(_token(parameters))
        if found is None:
            return json_answer(200, _INACTIVE, NO_STORE)
        claims, kid = found
        audience = claims.get("aud")
        listed = audience if isinstance(audience, list) else [audience]
        if not {client.id, *client.audiences} & set(listed):
            return json_answer(200, _INACTIVE, NO_STORE)
        if not await service.is_in_force(claims, kid, is_shared=keyring.is_shared):
            return json_answer(200, _INACTIVE, NO_STORE)
        told = ("iss", "sub", "aud", "client_id", "exp", "iat", "jti", "scope", "cnf")
        document = {name: claims[name] for name in told if name in claims}
        kind = "DPoP" if "cnf" in claims else "Bearer"  # RFC 9449 section 6.2: whoever asks has to see the proof
        return json_answer(200, {"active": True, "token_type": kind, **document}, NO_STORE)

    async def claims_of(token: str) -> tuple[Mapping[str, Any], str] | None:
        """Return the claims of one of our access tokens whose time has not run out, and its key."""
        await signing.keep()
        try:
            claims, kid = verify(token.encode("utf-8", "replace"), keyring.verifying.get, typ=ACCESS_TYP)
        except TokenRefused:
            return None
        if claims.get("iss") != settings.issuer or not clock.now() < claims.get("exp", 0):
            return None
        return claims, kid

    return tuple(
        client_endpoint(path, summary, work, authentication, limit=settings.limit_oauth_lookups)
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
