"""Whether a token of ours is in force, for whoever shows it to us: verified, and what stands behind it still there."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from garrison.core.clock import Clock
from garrison.identity.accounts.model import accounts
from garrison.identity.clients.queries import find_client
from garrison.identity.clients.tokens import token_id_of
from garrison.identity.oauth.revoked import revoked_tokens
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
        self, database: Database, keyring: Keyring, signing: SigningService, clock: Clock, settings: IdentitySettings
    ) -> None:
        self._database = database
        self._ring = keyring
        self._signing = signing
        self._clock = clock
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

    async def are_in_force(self, claims: Mapping[str, Any], kid: str) -> bool:
        """Say whether what stands behind verified claims is there: key, session and account, or client, and `via`.

        Raises StoreError.
        """
        is_shared, links = self._ring.is_shared, links_of(claims)

        def read(connection: Connection) -> bool:
            if links is None:
                return False
            if not is_shared:
                state = connection.execute(select(signing_keys.c.state).where(signing_keys.c.kid == kid)).scalar()
                if state not in ("active", "retired"):
                    return False
            if not all(_client_lives(connection, *link) for link in links):
                return False
            if "sid" in claims:
                return _session_lives(connection, claims)
            token_id = claims.get("root" if links else "jti")
            return _client_lives(connection, claims["sub"], claims.get("epoch", 0), str(token_id))

        return await self._database.read(read)


def _client_lives(connection: Connection, client_id: str, epoch: int, jti: str) -> bool:
    known = find_client(connection, client_id)
    revoked = select(revoked_tokens.c.id).where(revoked_tokens.c.id == token_id_of(jti))
    return (
        known is not None
        and known.client.status == "active"
        and epoch >= known.client.epoch
        and connection.execute(revoked).one_or_none() is None
    )


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
