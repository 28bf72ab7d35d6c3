"""Statements that the dialects spell differently, spelt once: one statement decides, so that one of N wins."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects import postgresql, sqlite

from garrison.core.errors import StoreError

Insert = sqlite.Insert | postgresql.Insert


def insert_into(dialect: str, table: Table) -> Insert:
    """Return an INSERT that knows ON CONFLICT, in a connection's `dialect.name`. Raises StoreError(`store_schema`)."""
    match dialect:
        case "sqlite":
            return sqlite.insert(table)
        case "postgresql":
            return postgresql.insert(table)
        case other:
            raise StoreError("store_schema", f"there are no statements for {other}")


def store_time(connection: Connection) -> float:
    """Return the store's own time, Unix seconds: that of the machine it is on."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(select(func.extract("epoch", func.clock_timestamp()))).scalar_one())
    return time.time()


def insert_new(
    connection: Connection, table: Table, values: Mapping[str, Any], *, unique: Sequence[str] = ("id",)
) -> bool:
    """Insert a row unless one has the same `unique` columns; say whether it was inserted. One statement."""
    statement = insert_into(connection.dialect.name, table).on_conflict_do_nothing(index_elements=list(unique))
    return connection.execute(statement, dict(values)).rowcount == 1
