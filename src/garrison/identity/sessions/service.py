"""Sessions: begin, list, revoke. The routes, the commands and users' own code call the same functions.

Ending one session deletes its row and announces it. Ending all of an account raises its epoch and announces the
account: one log row, however many sessions there were, and nothing begun under the old epoch can come back.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from garrison.core.clock import Clock
from garrison.core.ids import AccountId, SessionId, digest, new_id, new_secret
from garrison.core.principal import Factor
from garrison.identity.accounts.queries import find_account, raise_epoch
from garrison.identity.changes import Change, Changes, Origin
from garrison.identity.sessions.kept import KeptSessions
from garrison.identity.sessions.model import (
    COOKIE_PURPOSE,
    NO_PURPOSE,
    Carrier,
    Session,
    factors_to_text,
)
from garrison.identity.sessions.queries import (
    delete_beyond,
    delete_session,
    delete_sessions,
    insert_session,
    list_sessions,
)
from garrison.identity.settings import IdentitySettings
from garrison.store.database import Database


class Begun(NamedTuple):
    """A new session and its secret, which exists nowhere else from here on; that of a token session opens nothing."""

    id: SessionId
    secret: str
    expires_at: float


class Granted(NamedTuple):
    """What a person gave a client: scopes, separated by spaces, for one audience."""

    client_id: str
    scope: str
    audience: str


class SessionService:
    """Begins, lists and ends sessions."""

    def __init__(
        self,
        changes: Changes,
        database: Database,
        clock: Clock,
        settings: IdentitySettings,
        kept: KeptSessions | None = None,
    ) -> None:
        self._changes = changes
        self._database = database
        self._clock = clock
        self._settings = settings
        self._kept = kept

    async def list(self, account_id: str) -> Sequence[Session]:
        """Return the account's live sessions, newest first; when each was seen last may lag. Raises StoreError."""
        now, lag_s = self._clock.now(), self._settings.touch_every_s

        def read(connection: Connection) -> Sequence[Session]:
            return list_sessions(connection, account_id, now=now, lag_s=lag_s)

        return await self._database.read(read)

    async def revoke(self, session_id: str, *, account_id: str | None = None, origin: Origin = Origin()) -> bool:
        """End one session, of this account only if one is named; say whether there was one. Raises StoreError."""

        def change(change: Change) -> bool:
            return end_session(change, session_id, account_id=account_id)

        return await self._changes.make(change, origin)

    async def revoke_all(self, account_id: str, *, origin: Origin = Origin()) -> bool:
        """End every session and token of the account; say whether there is such an account. Raises StoreError."""

        def change(change: Change) -> bool:
            if find_account(change.connection, account_id) is None:
                return False
            version = raise_epoch(change.connection, account_id)
            ended = delete_sessions(change.connection, account_id)
            change.record("account.sessions_revoked", account_id, ended=ended)
            change.announce("account", account_id, version)
            return True

        return await self._changes.make(change, origin)

    def begin(
        self,
        change: Change,
        account_id: AccountId,
        *,
        carrier: Carrier,
        factors: Sequence[Factor],
        device_id: str | None,
        client: str,
        network: str,
        jkt: str | None = None,
        granted: "Granted | None" = None,
    ) -> Begun:
        """Begin a session within a change. Its identifier and secret are made here; nothing presented is adopted."""
        settings, now = self._settings, change.now
        session_id = SessionId(new_id("ses"))
        secret = new_secret()
        expires_at = now + (settings.session_max_s if carrier == "cookie" else settings.refresh_max_s)
        idle_s = min(settings.session_idle_s, expires_at - now)
        kept = self._kept if carrier == "cookie" else None
        if kept is not None:
            kept.demand()  # or a row would stay that nothing opens
            secret_digest = digest(secret, purpose=COOKIE_PURPOSE)
            change.afterwards.append(lambda: kept.keep(secret_digest, session_id, ttl_s=idle_s))
        opens_by_sql = carrier == "cookie" and kept is None
        insert_session(
            change.connection,
            session_id=session_id,
            secret_digest=digest(secret, purpose=COOKIE_PURPOSE if opens_by_sql else NO_PURPOSE),
            account_id=account_id,
            carrier=carrier,
            factors=factors_to_text(factors),
            device_id=device_id,
            client=client,
            network=network,
            now=now,
            idle_until=now + idle_s,
            expires_at=expires_at,
            jkt=jkt,
            client_id=None if granted is None else granted.client_id,
            scope=None if granted is None else granted.scope,
            audience=None if granted is None else granted.audience,
        )
        change.record("session.created", session_id, actor=account_id, carrier=carrier)
        for ended, version in delete_beyond(change.connection, account_id, settings.max_sessions):
            change.record("session.displaced", ended, actor=account_id)
            change.announce("session", ended, version)
        return Begun(session_id, secret, expires_at)


def end_session(change: Change, session_id: str, *, account_id: str | None = None) -> bool:
    """End one session within a change; say whether there was one."""
    ended = delete_session(change.connection, session_id, account_id=account_id)
    if ended is None:
        return False
    owner, version = ended
    change.record("session.revoked", session_id, account=owner)
    change.announce("session", session_id, version)
    return True
