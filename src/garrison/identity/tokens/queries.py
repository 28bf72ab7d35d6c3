"""Every statement on `refresh_tokens`, and the guard's cold read of an access token."""

from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from garrison.identity.accounts.model import accounts
from garrison.identity.sessions.model import sessions
from garrison.identity.tokens.model import refresh_tokens

ACCESS_READ = (
    "SELECT s.id, s.account_id, s.account_epoch, s.carrier, s.factors, s.created_at, s.seen_at, s.expires_at,"
    " s.version, a.email, a.roles, a.status, a.epoch, a.version, s.client_id, s.scope,"
    " (SELECT k.state FROM signing_keys k WHERE k.kid = ?)"
    " FROM sessions s JOIN accounts a ON a.id = s.account_id WHERE s.id = ?"
)
"""What the authenticator asks the driver itself, by (kid, session id): session, account and key in one snapshot."""


class Presented(NamedTuple):
    """A refresh token that was shown, with its family and account as they are."""

    session_id: str
    number: int
    expires_at: float
    used_at: float | None
    successor: bytes | None
    acknowledged: bool
    device_id: str | None
    is_bound: bool
    session_expires_at: float
    session_epoch: int
    account_id: str
    roles: str
    status: str
    epoch: int
    jkt: str | None
    client_id: str | None
    scope: str | None
    audience: str | None


def find_presented(connection: Connection, token_digest: bytes) -> Presented | None:
    """Return the token with this digest, or None."""
    query = (
        select(
            refresh_tokens.c.session_id,
            refresh_tokens.c.number,
            refresh_tokens.c.expires_at,
            refresh_tokens.c.used_at,
            refresh_tokens.c.successor,
            refresh_tokens.c.acknowledged,
            sessions.c.device_id,
            sessions.c.is_bound,
            sessions.c.expires_at,
            sessions.c.account_epoch,
            accounts.c.id,
            accounts.c.roles,
            accounts.c.status,
            accounts.c.epoch,
            sessions.c.jkt,
            sessions.c.client_id,
            sessions.c.scope,
            sessions.c.audience,
        )
        .join(sessions, sessions.c.id == refresh_tokens.c.session_id)
        .join(accounts, accounts.c.id == sessions.c.account_id)
        .where(refresh_tokens.c.digest == token_digest)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else Presented._make(row)


def insert_token(
    connection: Connection, token_digest: bytes, *, session_id: str, number: int, expires_at: float
) -> None:
    """Keep a new token of a family."""
    connection.execute(
        insert(refresh_tokens).values(
            digest=token_digest,
            session_id=session_id,
            number=number,
            expires_at=expires_at,
            used_at=None,
            successor=None,
            acknowledged=False,
        )
    )


def use_token(connection: Connection, token_digest: bytes, *, now: float, successor: bytes) -> bool:
    """Rotate the token, if nobody did; say whether this call did. One statement, so that one of N wins."""
    statement = (
        update(refresh_tokens)
        .where(refresh_tokens.c.digest == token_digest, refresh_tokens.c.used_at.is_(None))
        .values(used_at=now, successor=successor)
    )
    return connection.execute(statement).rowcount == 1


def acknowledge(connection: Connection, session_id: str, number: int) -> None:
    """Note that the client has token `number` of the family: every rotation up to it is acknowledged."""
    statement = update(refresh_tokens).where(
        refresh_tokens.c.session_id == session_id,
        refresh_tokens.c.number < number,
        refresh_tokens.c.acknowledged.is_(False),
    )
    connection.execute(statement.values(acknowledged=True))


def bind_family(connection: Connection, session_id: str) -> None:
    """From now on every refresh of the family must show its device."""
    connection.execute(update(sessions).where(sessions.c.id == session_id).values(is_bound=True))
