"""Leases: of several processes one does the sweeping, until it stops renewing.

A lease is advice, not a lock: a holder that was stopped may wake up after its lease has gone to another. What is done
under one must therefore be safe to do twice.
"""

from sqlalchemy import Column, Connection, Double, String, Table, delete, or_

from garrison.store.schema import metadata
from garrison.store.statements import insert_into

leases = Table(
    "leases",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("expires_at", Double, nullable=False),
)


def take(connection: Connection, name: str, holder: str, *, now: float, ttl_s: float) -> bool:
    """Take the lease, or renew one's own; say whether `holder` has it for `ttl_s` from `now`. One statement."""
    insert = insert_into(connection.dialect.name, leases).values(name=name, holder=holder, expires_at=now + ttl_s)
    upsert = insert.on_conflict_do_update(
        index_elements=["name"],
        set_={"holder": insert.excluded.holder, "expires_at": insert.excluded.expires_at},
        where=or_(leases.c.holder == holder, leases.c.expires_at <= now),
    )
    return connection.execute(upsert.returning(leases.c.name)).one_or_none() is not None


def release(connection: Connection, name: str, holder: str) -> bool:
    """Give the lease up, if `holder` has it; say whether it did."""
    statement = delete(leases).where(leases.c.name == name, leases.c.holder == holder)
    return connection.execute(statement).rowcount == 1
