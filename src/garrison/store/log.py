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

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Connection,
    Double,
    Index,
    Integer,
    String,
    Table,
    func,
    insert,
    literal,
    select,
)

from garrison.core.errors import StoreError
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
LEAP = 1 << 32
"""By how much positions move when the log of a restored database goes on: more than were ever given since."""

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
    _notify(connection)
    connection.execute(_APPEND, {"kind": kind, "subject": subject, "version": version, "at": now})


def append_all(
    connection: Connection, kind: str, subject: "ColumnElement[str]", version: "ColumnElement[int]", now: float
) -> int:
    """Write one change for each row of the table that `subject` and `version` are columns of; return how many."""
    _notify(connection)
    rows = select(literal(kind), subject, version, literal(now, Double))
    written = insert(changes).from_select(["kind", "subject", "version", "at"], rows)
    return int(connection.execute(written).rowcount)


def leap(connection: Connection) -> None:
    """Let positions go on far ahead of the last one, so that no reader's cursor of another past is ahead of them.

    A database that was restored is behind what its readers have seen: they would wait for positions that are given a
    second time, and hear of nothing until then. Raises StoreError(`store_schema`) for another dialect.
    """
    match connection.dialect.name:
        case "sqlite":
            ahead = "UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'changes'"
            if not connection.exec_driver_sql(ahead, (LEAP,)).rowcount:  # nothing was ever written
                connection.exec_driver_sql("INSERT INTO sqlite_sequence (name, seq) VALUES ('changes', ?)", (LEAP,))
        case "postgresql":
            sequence = func.pg_get_serial_sequence("changes", "position")
            connection.execute(select(func.setval(sequence, func.nextval(sequence) + LEAP)))
        case other:
            raise StoreError("store_schema", f"there is no sequence of {other}")


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


def _notify(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(_NOTIFY)
