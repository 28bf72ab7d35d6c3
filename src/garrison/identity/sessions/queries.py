"""Every statement on `sessions`, and the one read of the guard's cold path."""

from collections.abc import Iterable, Sequence

from sqlalchemy import BindParameter, Connection, bindparam, case, delete, insert, select, update

from garrison.core.ids import AccountId, SessionId
from garrison.identity.accounts.model import accounts
from garrison.identity.sessions.model import Carrier, Session, sessions

_SESSION = (
    "SELECT s.id, s.account_id, s.account_epoch, s.carrier, s.factors, s.created_at, s.seen_at, s.expires_at,"
    " s.version, a.email, a.roles, a.status, a.epoch, a.version"
    " FROM sessions s JOIN accounts a ON a.id = s.account_id WHERE"
)
COLD_READ = f"{_SESSION} s.secret_digest = ?"
"""What the authenticator asks the driver itself, by digest; `store.database.Database.cold` runs it."""
COLD_READ_BY_ID = f"{_SESSION} s.id = ?"
"""The same, where Redis said which session it is."""


def insert_session(
    connection: Connection,
    *,
    session_id: SessionId,
    secret_digest: bytes,
    account_id: AccountId,
    carrier: Carrier,
    factors: str,
    device_id: str | None,
    client: str,
    network: str,
    now: float,
    idle_until: float,
    expires_at: float,
    jkt: str | None = None,
    client_id: str | None = None,
    scope: str | None = None,
    audience: str | None = None,
) -> None:
    """Begin a session under the account's epoch as it is in this transaction."""
    epoch = select(accounts.c.epoch).where(accounts.c.id == account_id).scalar_subquery()
    connection.execute(
        insert(sessions).values(
            id=session_id,
            secret_digest=secret_digest,
            account_id=account_id,
            account_epoch=epoch,
            carrier=carrier,
            factors=factors,
            device_id=device_id,
            client=client,
            network=network,
            created_at=now,
            seen_at=now,
            idle_until=idle_until,
            expires_at=expires_at,
            version=1,
            jkt=jkt,
            client_id=client_id,
            scope=scope,
            audience=audience,
        )
    )


def list_sessions(connection: Connection, account_id: str, *, now: float, lag_s: float) -> Sequence[Session]:
    """Return the account's sessions that are alive at `now`, newest first; idle times may be stored `lag_s` late."""
    query = (
        select(
            sessions.c.id,
            sessions.c.account_id,
            sessions.c.carrier,
            sessions.c.client,
            sessions.c.network,
            sessions.c.created_at,
            sessions.c.seen_at,
            sessions.c.expires_at,
        )
        .join(accounts, accounts.c.id == sessions.c.account_id)
        .where(
            sessions.c.account_id == account_id,
            sessions.c.account_epoch >= accounts.c.epoch,
            sessions.c.expires_at > now,
            sessions.c.idle_until > now - lag_s,
        )
        .order_by(sessions.c.created_at.desc(), sessions.c.id)
    )
    return [Session(*row) for row in connection.execute(query)]


def is_alive(connection: Connection, session_id: str, account_id: str) -> bool:
    """Say whether the account's session was not ended; for changes that a session asks for, in their transaction."""
    query = (
        select(sessions.c.id)
        .join(accounts, accounts.c.id == sessions.c.account_id)
        .where(
            sessions.c.id == session_id,
            sessions.c.account_id == account_id,
            sessions.c.account_epoch >= accounts.c.epoch,
        )
    )
    return connection.execute(query).one_or_none() is not None


def delete_session(connection: Connection, session_id: str, *, account_id: str | None = None) -> tuple[str, int] | None:
    """End one session, of this account if one is named; return its account and a version above its own, or None."""
    statement = delete(sessions).where(sessions.c.id == session_id)
    if account_id is not None:
        statement = statement.where(sessions.c.account_id == account_id)
    row = connection.execute(statement.returning(sessions.c.account_id, sessions.c.version)).one_or_none()
    return None if row is None else (row.account_id, row.version + 1)


def delete_sessions(connection: Connection, account_id: str, *, keep: str | None = None) -> int:
    """End every session of the account but `keep`; return how many ended. Call it after the epoch was raised by one.

    `keep` is carried over to the new epoch, if it was valid under the one before: a dead session is not revived.
    """
    statement = delete(sessions).where(sessions.c.account_id == account_id)
    if keep is not None:
        statement = statement.where(sessions.c.id != keep)
        epoch = select(accounts.c.epoch).where(accounts.c.id == account_id).scalar_subquery()
        connection.execute(
            update(sessions)
            .where(sessions.c.id == keep, sessions.c.account_id == account_id, sessions.c.account_epoch >= epoch - 1)
            .values(account_epoch=epoch)
        )
    return int(connection.execute(statement).rowcount)


def delete_beyond(connection: Connection, account_id: str, most: int) -> Sequence[tuple[str, int]]:
    """End the account's oldest sessions beyond `most`; return their ids and a version above each."""
    beyond = (
        select(sessions.c.id)
        .where(sessions.c.account_id == account_id)
        .order_by(sessions.c.created_at.desc(), sessions.c.id)
        .offset(most)
        .limit(100)
    )
    statement = delete(sessions).where(sessions.c.id.in_(beyond)).returning(sessions.c.id, sessions.c.version)
    return [(row.id, row.version + 1) for row in connection.execute(statement)]


def delete_sessions_of_client(connection: Connection, client_id: str) -> Sequence[tuple[str, int]]:
    """End whatever people gave this client; return ids and a version above each."""
    statement = delete(sessions).where(sessions.c.client_id == client_id)
    return [
        (row.id, row.version + 1) for row in connection.execute(statement.returning(sessions.c.id, sessions.c.version))
    ]


def delete_all_sessions(connection: Connection) -> int:
    """End every session of everybody, refresh tokens with them; return how many ended."""
    return int(connection.execute(delete(sessions)).rowcount)


def touch_sessions(connection: Connection, seen: Iterable[tuple[str, float]], idle_s: float) -> None:
    """Move the idle ends of many sessions; never backwards, never beyond their absolute ends."""
    seen_at: BindParameter[float] = bindparam("b_seen_at")
    session_id: BindParameter[str] = bindparam("b_id")
    later = seen_at + bindparam("b_idle_s")
    statement = (
        update(sessions)
        .where(sessions.c.id == session_id, sessions.c.seen_at < seen_at)
        .values(seen_at=seen_at, idle_until=case((later < sessions.c.expires_at, later), else_=sessions.c.expires_at))
    )
    rows = [{"b_id": one, "b_seen_at": at, "b_idle_s": idle_s} for one, at in seen]
    if rows:
        connection.execute(statement, rows)
