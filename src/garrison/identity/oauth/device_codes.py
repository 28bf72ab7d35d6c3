"""Codes of the device grant, and their table (RFC 8628): one for the device, one that a person types elsewhere.

A person's code has eight letters of twenty, without vowels, so that it spells no word: 34.5 bits. That is enough for
ten minutes only because guesses are counted. A device that asks too often is told to slow down, and then has to.
"""

import secrets
from typing import Literal, NamedTuple

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    Double,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    delete,
    func,
    insert,
    select,
    update,
)

from garrison.store.schema import metadata

DEVICE_PURPOSE, USER_PURPOSE = "device code", "user code"
"""Purposes of the digests, see `core.ids.digest`."""
LIFETIME_S, INTERVAL_S = 600.0, 5.0
MOST_WAITING = 100_000
"""Of all clients, since strangers can ask in the name of a public one: 30 MB, and one guess in 256,000 is right."""
_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
_LENGTH = 8

DeviceState = Literal["pending", "allowed", "denied"]

device_codes = Table(
    "device_codes",
    metadata,
    Column("digest", LargeBinary(32), primary_key=True),
    Column("user_digest", LargeBinary(32), nullable=False, unique=True),
    Column("client_id", String(32), ForeignKey("clients.id", ondelete="CASCADE"), nullable=False),
    Column("scope", Text, nullable=False),
    Column("audience", Text, nullable=False),
    Column("interval_s", Double, nullable=False),
    Column("next_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("state", String(8), nullable=False),
    Column("account_id", String(32), ForeignKey("accounts.id", ondelete="CASCADE"), nullable=True),
    Column("account_version", Integer, nullable=True),
    Column("proved_at", Double, nullable=True),
    Column("session_id", String(32), nullable=True),
    CheckConstraint("state IN ('pending', 'allowed', 'denied')", name="device_codes_state"),
    Index("device_codes_by_expiry", "expires_at"),
    Index("device_codes_by_client", "client_id"),
)


class DeviceCode(NamedTuple):
    """What a pair of codes stands for. `account_id` and the two beside it are there once somebody allowed it."""

    client_id: str
    scope: str
    audience: str
    interval_s: float
    next_at: float
    expires_at: float
    state: DeviceState
    account_id: str | None
    account_version: int | None
    proved_at: float | None
    session_id: str | None


def new_user_code() -> str:
    """Make a code for people, `BCDF-GHJK`."""
    letters = "".join(secrets.choice(_LETTERS) for _ in range(_LENGTH))
    return f"{letters[:4]}-{letters[4:]}"


def read_user_code(typed: str) -> str:
    """Return the code as it was made, however it was typed; empty for what is none."""
    letters = "".join(one for one in typed[:64].upper() if one in _LETTERS)
    return f"{letters[:4]}-{letters[4:]}" if len(letters) == _LENGTH else ""


def insert_device_code(
    connection: Connection,
    digest: bytes,
    user_digest: bytes,
    *,
    client_id: str,
    scope: str,
    audience: str,
    now: float,
) -> bool:
    """Keep a new pair, which waits for a person; say whether there was room. Costs a count of those that wait."""
    waiting = select(func.count()).select_from(device_codes).where(device_codes.c.expires_at > now)
    if connection.execute(waiting).scalar_one() >= MOST_WAITING:
        return False
    connection.execute(
        insert(device_codes).values(
            digest=digest,
            user_digest=user_digest,
            client_id=client_id,
            scope=scope,
            audience=audience,
            interval_s=INTERVAL_S,
            next_at=now,
            expires_at=now + LIFETIME_S,
            state="pending",
        )
    )
    return True


_COLUMNS = tuple(device_codes.c[name] for name in DeviceCode._fields)


def find_device_code(connection: Connection, digest: bytes) -> DeviceCode | None:
    """Return what the device's code stands for, or None."""
    row = connection.execute(select(*_COLUMNS).where(device_codes.c.digest == digest)).one_or_none()
    return None if row is None else DeviceCode._make(row)


def find_by_user_code(connection: Connection, user_digest: bytes, *, now: float) -> DeviceCode | None:
    """Return what the person's code stands for, if it still waits for one."""
    query = select(*_COLUMNS).where(
        device_codes.c.user_digest == user_digest, device_codes.c.state == "pending", device_codes.c.expires_at > now
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else DeviceCode._make(row)


def decide_device_code(
    connection: Connection,
    user_digest: bytes,
    state: DeviceState,
    *,
    account_id: str,
    account_version: int,
    proved_at: float,
    now: float,
) -> tuple[str, str] | None:
    """Note what a person said, if nobody did; return client id and scope if this call did. One of N wins."""
    statement = update(device_codes).where(
        device_codes.c.user_digest == user_digest, device_codes.c.state == "pending", device_codes.c.expires_at > now
    )
    values = {"state": state, "account_id": account_id, "account_version": account_version, "proved_at": proved_at}
    noted = statement.values(**values).returning(device_codes.c.client_id, device_codes.c.scope)
    row = connection.execute(noted).one_or_none()
    return None if row is None else (row.client_id, row.scope)


def wait_longer(connection: Connection, digest: bytes, *, interval_s: float, next_at: float) -> None:
    """Note from when on the device may ask again, and how often."""
    statement = update(device_codes).where(device_codes.c.digest == digest)
    connection.execute(statement.values(interval_s=interval_s, next_at=next_at))


def spend_device_code(connection: Connection, digest: bytes, session_id: str) -> bool:
    """Spend the code, if nobody did; say whether this call did. One statement, so that one of N wins."""
    statement = update(device_codes).where(
        device_codes.c.digest == digest, device_codes.c.state == "allowed", device_codes.c.session_id.is_(None)
    )
    return connection.execute(statement.values(session_id=session_id)).rowcount == 1


def delete_all_device_codes(connection: Connection) -> int:
    """Forget every code, whatever was said to it; return how many there were."""
    return int(connection.execute(delete(device_codes)).rowcount)


def delete_device_codes_of_client(connection: Connection, client_id: str) -> None:
    """Forget every code of this client, whatever was said to it."""
    connection.execute(delete(device_codes).where(device_codes.c.client_id == client_id))
