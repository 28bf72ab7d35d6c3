"""How a store goes about a statement, and whether it reads a whole table on the way.

    with recorded() as recorder:      what SQLAlchemy sends, on any engine of this process
        …
    for each: the store's own EXPLAIN ▸ the scans in it

A *scan* is a table, or a whole index, that is read from one end to the other: what grows with the number of accounts.
A scan in the order of an index that stops at a LIMIT is none, as long as nothing is filtered on the way, and neither
is one of a partial index, which is there for the few rows that are in it.
SQLite is asked by EXPLAIN QUERY PLAN. PostgreSQL plans with the statement's own parameters, or (`generic`) for any: a
prepared statement is given such a plan once it costs no more than those before.
"""

import asyncio
import contextlib
import json
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import Engine, event

SMALL = frozenset({"signing_keys", "leases", "marks", "garrison_version"})
"""Tables that do not grow with the number of people."""
LISTS = frozenset(
    {"keys.queries.list_keys", "clients.queries.list_clients", "issuers.refused.list_subjects", "audit.list_events"}
)
"""Who is asked for all of a table, or its newest rows: an operator wants just that. With a condition it is no list."""
_READS = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE)\b", re.IGNORECASE)
_OWN = re.compile(r"set_config|pg_catalog|pg_advisory|sqlite_master", re.IGNORECASE)
_SCAN = re.compile(r"SCAN (?!CONSTANT\b|\d)(\w+)")
_SCHEMA = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite%' ORDER BY type = 'index'"
_PLACE = re.compile(r"\?")
_PARTIAL = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indpred IS NOT NULL"
_NUMBERED = re.compile(r"\$(\d+)")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as its driver was given it, with the parameters of its first run. `of`: who ran it."""

    sql: str
    parameters: tuple[Any, ...]
    of: str


@dataclass(frozen=True, slots=True)
class Plan:
    """How a statement is gone about: the store's own words, line by line, and the tables that are read whole."""

    lines: tuple[str, ...]
    scans: tuple[str, ...]


class Recorder:
    """Takes note of every statement on our tables, each text once. `of` is who runs what comes next."""

    def __init__(self) -> None:
        self.of = ""
        self._found: dict[str, Statement] = {}

    @property
    def statements(self) -> list[Statement]:
        """What was recorded, in the order of first runs."""
        return list(self._found.values())

    def note(self, _connection: Any, _cursor: Any, sql: str, parameters: Any, _context: Any, is_many: bool) -> None:
        """Listen to SQLAlchemy's `before_cursor_execute`."""
        if _READS.match(sql) is not None and _OWN.search(sql) is None:
            self._found.setdefault(sql, Statement(sql, tuple(parameters[0] if is_many else parameters), self.of))


@contextlib.contextmanager
def recorded() -> Iterator[Recorder]:
    """Record what SQLAlchemy sends in this process, on whatever engine."""
    recorder = Recorder()
    event.listen(Engine, "before_cursor_execute", recorder.note)
    try:
        yield recorder
    finally:
        event.remove(Engine, "before_cursor_execute", recorder.note)


def is_list(statement: Statement) -> bool:
    """Say whether all of a table is what was asked for."""
    return statement.of in LISTS and "WHERE" not in statement.sql


def explain_sqlite(path: Path, statements: Sequence[Statement], *, prefer_indexes: bool = False) -> list[Plan]:
    """Return SQLite's plan of each statement, none of which is run.

    `prefer_indexes`: as planned for a database with the same tables of which nothing is known, neither rows nor
    figures; then SQLite reads a table whole only where no index serves.
    """
    with (
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as driver,
        contextlib.closing(sqlite3.connect(":memory:")) as empty,
    ):
        if prefer_indexes:
            for (sql,) in driver.execute(_SCHEMA):
                empty.execute(sql)
        asked = empty if prefer_indexes else driver
        return [
            _of_sqlite(one.sql, asked.execute(f"EXPLAIN QUERY PLAN {one.sql}", one.parameters).fetchall())
            for one in statements
        ]


def explain_postgresql(
    url: str, statements: Sequence[Statement], *, generic: bool = False, prefer_indexes: bool = False
) -> list[Plan]:
    """Return PostgreSQL's plan of each statement, none of which is run.

    `prefer_indexes`: a table is read whole only where no index serves. In a small table reading it whole is right, and
    would hide that it is the only way.
    """
    return asyncio.run(_explain_postgresql(url, statements, generic=generic, prefer_indexes=prefer_indexes))


def _of_sqlite(sql: str, rows: Sequence[tuple[Any, ...]]) -> Plan:
    details = [str(row[3]) for row in rows]
    scans = [_table(sql, match[1]) for detail in details if (match := _SCAN.match(detail)) is not None]
    return Plan(tuple(details), tuple(one for one in scans if one not in SMALL))


def _table(sql: str, name: str) -> str:
    """Return the table that a statement calls `name`."""
    match = re.search(rf"\b(?:FROM|JOIN) (\w+) (?:AS )?{name}\b", sql)
    return match[1] if match is not None else name


async def _explain_postgresql(
    url: str, statements: Sequence[Statement], *, generic: bool, prefer_indexes: bool
) -> list[Plan]:
    connection = await asyncpg.connect(url, timeout=10)
    try:
        if prefer_indexes:
            for name in ("enable_seqscan", "enable_hashjoin", "enable_mergejoin"):
                await connection.execute(f"SET {name} = off")
        if generic:
            await connection.execute("SET plan_cache_mode = force_generic_plan")
        partial = frozenset(row[0] for row in await connection.fetch(_PARTIAL))
        return [_of_postgresql(await _plan(connection, one, generic=generic), partial) for one in statements]
    finally:
        await connection.close()


async def _plan(connection: asyncpg.Connection, statement: Statement, *, generic: bool) -> dict[str, Any]:
    numbers = count(1)
    sql = _PLACE.sub(lambda _: f"${next(numbers)}", statement.sql)  # of `Database.cold`; SQLAlchemy's are numbered
    if not generic:
        found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {sql}", *statement.parameters)
        return dict(json.loads(found)[0]["Plan"])
    await connection.execute(f"PREPARE one AS {sql}")
    try:
        places = max((int(number) for number in _NUMBERED.findall(sql)), default=0)
        nothing = f"({', '.join(['NULL'] * places)})" if places else ""
        found = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE one{nothing}")
        return dict(json.loads(found)[0]["Plan"])
    finally:
        await connection.execute("DEALLOCATE one")


def _of_postgresql(plan: dict[str, Any], partial: frozenset[str]) -> Plan:
    lines: list[str] = []
    scans: list[str] = []

    def walk(node: dict[str, Any], depth: int, stops: bool) -> None:
        kind, table, index = node["Node Type"], node.get("Relation Name"), node.get("Index Name")
        condition = node.get("Index Cond")
        words = [kind, *([f"on {table}"] if table else []), *([f"using {index}"] if index else [])]
        lines.append("  " * depth + " ".join(words) + (f" {condition}" if condition else ""))
        is_bounded = condition or index in partial or (stops and "Filter" not in node)
        if kind == "Seq Scan" or (kind in ("Index Scan", "Index Only Scan") and not is_bounded):
            scans.append(str(table))
        if kind == "Bitmap Index Scan" and not is_bounded:
            scans.append(str(index))
        for child in node.get("Plans", ()):
            walk(child, depth + 1, kind == "Limit" or (stops and kind in ("Subquery Scan", "Result", "LockRows")))

    walk(plan, 0, False)
    return Plan(tuple(lines), tuple(one for one in scans if one not in SMALL))
