"""What a token of ours is worth, for whoever shows it to us: verified, what stands behind it still there, and its
scopes those that are left."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from garrison.core.clock import Clock
from garrison.identity.accounts.model import accounts, roles_of
from garrison.identity.clients.queries import find_client
from garrison.identity.clients.tokens import token_id_of
from garrison.identity.oauth.revoked import revoked_tokens
from garrison.identity.sessions.cache import IDENTITY_SCOPES, ScopesOf
from garrison.identity.sessions.model import sessions
from garrison.identity.settings import IdentitySettings
from garrison.identity.signing.jose import TokenRefused, numeric_date, verify
from garrison.identity.signing.keyring import Keyring
from garrison.identity.signing.model import signing_keys
from garrison.identity.signing.service import SigningService
from garrison.identity.tokens.exchanged import links_of
from garrison.identity.tokens.service import ACCESS_TYP
from garrison.store.database import Database


class OwnTokens:
    """Reads our own access tokens, whatever their audience."""

    def __init__(
        self,
        database: Database,
        keyring: Keyring,
        signing: SigningService,
        clock: Clock,
        scopes_of: ScopesOf,
        settings: IdentitySettings,
    ) -> None:
        self._database = database
        self._ring = keyring
        self._signing = signing
        self._clock = clock
        self._scopes_of = scopes_of
        self._issuer = settings.issuer

    async def claims_of(self, token: str) -> tuple[Mapping[str, Any], str] | None:
        """Return the claims of one of our access tokens whose time has not run out, and its key; None for others.

        Raises StoreError.
        """
        await self._signing.keep()
        try:
            claims, kid = verify(token.encode("utf-8", "replace"), self._ring.verifying.get, typ=ACCESS_TYP)
        except TokenRefused:
            return None
        expires_at = numeric_date(claims.get("exp"))
        if claims.get("iss") != self._issuer or expires_at is None or self._clock.now() >= expires_at:
            return None
        return claims, kid

    async def scopes_of(self, claims: Mapping[str, Any], kid: str) -> frozenset[str] | None:
        """Return what verified claims may still, as the guard says it at each request; None where they are in force no
        more, since what stands behind them is not there: key, session and account, or client, and `via`.

        Raises StoreError.
        """
        is_shared, links, now = self._ring.is_shared, links_of(claims), self._clock.now()
        asked = frozenset(str(claims.get("scope", "")).split())

        def read(connection: Connection) -> frozenset[str] | None:
            if links is None:
                return None
            if not is_shared:
                state = connection.execute(select(signing_keys.c.state).where(signing_keys.c.kid == kid)).scalar()
                if state not in ("active", "retired"):
                    return None
            scopes = asked
            for link in links:
                held = _client_scopes(connection, *link)
                if held is None:
                    return None
                scopes &= held
            if "sid" in claims:
                held = self._session_scopes(connection, claims, now)
            else:
                token_id = claims.get("root" if links else "jti")
                held = _client_scopes(connection, claims["sub"], claims.get("epoch", 0), str(token_id))
            return None if held is None else scopes & held

        return await self._database.read(read)

    def _session_scopes(self, connection: Connection, claims: Mapping[str, Any], now: float) -> frozenset[str] | None:
        query = (
            select(accounts.c.roles, sessions.c.client_id, sessions.c.scope)
            .join(sessions, sessions.c.account_id == accounts.c.id)
            .where(
                sessions.c.id == claims["sid"],
                sessions.c.account_id == claims["sub"],
                sessions.c.account_epoch >= accounts.c.epoch,
                sessions.c.expires_at > now,
                accounts.c.status == "active",
            )
        )
        row = connection.execute(query).one_or_none()
        if row is None:
            return None
        scopes = self._scopes_of(roles_of(row.roles))
        return scopes if row.client_id is None else frozenset((row.scope or "").split()) & (scopes | IDENTITY_SCOPES)


def _client_scopes(connection: Connection, client_id: str, epoch: int, jti: str) -> frozenset[str] | None:
    known = find_client(connection, client_id)
    revoked = select(revoked_tokens.c.id).where(revoked_tokens.c.id == token_id_of(jti))
    if (
        known is None
        or known.client.status != "active"
        or epoch < known.client.epoch
        or connection.execute(revoked).one_or_none() is not None
    ):
        return None
    return frozenset(known.client.scopes)
