"""The ordered log of changes that other processes have to hear of: what the revocation view is fed from.

The order of reading must be the order of commit: a reader that has seen position 7 must never find a 6 that commits
afterwards, or a revocation is lost behind its cursor. On SQLite the one write lock gives that: the position is taken
and committed under it. On PostgreSQL sequences are handed out before the commit, so every write takes one advisory
lock (`pg_advisory_xact_lock`) first.

Positions only grow (AUTOINCREMENT keeps the highest even when its row was swept). Rows are kept for a day, far longer
than any cached verification lives; whoever was away for longer has no cache left to correct.
"""

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Double, Index, Integer, String, Table, func, insert, select

from garrison.store.schema import metadata

changes = Table(
    "changes",
    metadata,
    Column("position", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("subject", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
    Index("changes_by_time", "at"),
    sqlite_autoincrement=True,
)
CHANNEL = "garrison"
"""PostgreSQL's channel of notifications: only says *look*."""
_APPEND = insert(changes)
_NOTIFY = select(func.pg_notify(CHANNEL, ""))

READ_AFTER = "SELECT position, kind, subject, version FROM changes WHERE position > ? ORDER BY position LIMIT ?"
"""What a poll asks the driver itself, with (position, limit): `store.database.Database.cold` runs it."""
LAST_POSITION = "SELECT coalesce(max(position), 0) FROM changes"
"""Where a process that starts with empty caches begins to read; for `cold`, without parameters."""


POSITION_BEFORE = "SELECT coalesce(max(position), 0) FROM changes WHERE at < ?"
"""Where to begin anew when the store may have gone back to an earlier state; for `cold`, with (Unix seconds,)."""


class LogRow(NamedTuple):
    """One change: `subject` of `kind` (`account`, `session`) is at `version` now."""

    position: int
    kind: str
    subject: str
    version: int


def append(connection: Connection, kind: str, subject: str, version: int, now: float) -> None:
    """Write one change, in the transaction that makes it; PostgreSQL tells who listens once that has committed."""
    if connection.dialect.name == "postgresql":
        connection.execute(_NOTIFY)
    connection.execute(_APPEND, {"kind": kind, "subject": subject, "version": version, "at": now})


def read_after(connection: Connection, position: int, limit: int) -> Sequence[LogRow]:
    """Return up to `limit` changes after `position`, in the order of their commits."""
    query = (
        select(changes.c.position, changes.c.kind, changes.c.subject, changes.c.version)
        .where(changes.c.position > position)
        .order_by(changes.c.position)
        .limit(limit)
    )
    return [LogRow(*row) for row in connection.execute(query)]


def last_position(connection: Connection) -> int:
    """Return the position of the newest row, 0 for none."""
    return int(connection.execute(select(func.coalesce(func.max(changes.c.position), 0))).scalar_one())
