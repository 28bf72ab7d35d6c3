"""From a SQLite database to an empty PostgreSQL one: everything or nothing, counted and compared.

    SQLite, held alone ── rows, in batches ──▶ one transaction of PostgreSQL: schema, rows, sequences
                       ◀── read back: rows and digest of each table are the same ──
    SQLite: marked as moved, committed ── then ──▶ PostgreSQL: committed

The servers are stopped while it runs; one connection that holds the file alone sees to that. A server that went on
reading would go on after the move as well, and what it then wrote to SQLite would be lost without anybody noticing.
For the same reason the file is marked before PostgreSQL commits: no start takes it any more, whatever its settings say,
until `undo`. If PostgreSQL cannot commit, the mark is taken back; a power cut between the two leaves a marked file and
an empty target, which is mended by `undo` and another try.

A table's digest is the sum of the SHA-256 of its rows, modulo 2^256: it depends on no order, since the two stores sort
text differently. What PostgreSQL would not take as it is (NUL in text, numbers beyond a column's range, text beyond its
length: SQLite knows none of these limits) is looked for before anything is copied, and refused by table and column.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Integer,
    LargeBinary,
    String,
    Table,
    func,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from garrison.core.errors import GarrisonError, StoreError
from garrison.store.backup import Progress
from garrison.store.migrate import (
    HEAD,
    MOVED,
    VERSION_TABLE,
    check_known,
    current,
    revision_within,
    upgrade_within,
)
from garrison.store.opening import write_once
from garrison.store.schema import metadata
from garrison.store.sqlite import connect, sqlite_path
from garrison.store.sqlite_errors import store_error_of

BATCH = 2000
"""Rows of one statement: far below the time that a statement may take."""
_BUSY_S = 2.0
_DIGESTS = 1 << 256
_MARK = text(f"UPDATE {VERSION_TABLE} SET version_num = :new WHERE version_num = :old")  # noqa: S608 - a constant
_PERHAPS = (
    "it was cut off in the end, so PostgreSQL may hold everything by now, and this file is taken as moved. Look there:"
    " with GARRISON_DATABASE_URL naming PostgreSQL, garrison account list shows the accounts, or says that there are no"
    " tables. If they are there, go on with PostgreSQL; if not, garrison move --undo comes back to this file, and all"
    " sessions in it end"
)
_NEXT = text("SELECT setval(pg_get_serial_sequence(:name, :column), :highest)")


@dataclass(frozen=True, slots=True)
class Contents:
    """How many rows a table has, and the digest of them all, in any order."""

    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class MovedTable:
    """A table as both stores have it."""

    name: str
    source: Contents
    target: Contents


@dataclass(frozen=True, slots=True)
class Moved:
    """What was moved, and which tables of the file are not Garrison's and stay where they are."""

    tables: tuple[MovedTable, ...]
    left: tuple[str, ...]


def move(path_or_url: str | Path, url: str, progress: Progress) -> Moved:
    """Move everything from the SQLite file to the PostgreSQL database, which must hold nothing of ours.

    Raises GarrisonError: `not_empty` for a target that holds data, `does_not_fit` for values that PostgreSQL does not
    take, `differs` where what was read back is not what was written; StoreError: `store_busy` where a process has the
    file open, `store_schema` where it is not at this version's schema. Then nothing is in the target, and the file is
    as it was.
    """
    path = sqlite_path(path_or_url)
    _demand_head(path)
    with _alone(path) as source:
        left = _foreign_tables(source)
        _demand_that_all_fits(source)
        with _mark(source, url) as mark:

            def work(target: Connection) -> tuple[MovedTable, ...]:
                moved = _copy_all(source, target, progress)
                mark()
                return moved

            try:
                return Moved(write_once(url, work), left)
            except SQLAlchemyError as error:  # its text would hold values
                state = getattr(getattr(error, "orig", None), "sqlstate", None) or type(error).__name__
                raise GarrisonError("does_not_fit", f"PostgreSQL refused what was copied: {state}") from None


def is_moved(path_or_url: str | Path) -> bool:
    """Say whether the contents of this file went to another store. Raises StoreError."""
    found = current(sqlite_path(path_or_url))
    return found is not None and found.endswith(MOVED)


def undo(path_or_url: str | Path) -> bool:
    """Take the mark of a move back, so that the file is used again; say whether there was one. Raises StoreError.

    What it lets in is to be ended before (`identity/restored.py`): the other store has ended some of it since.
    """
    path = sqlite_path(path_or_url)
    found = current(path)
    if found is None or not found.endswith(MOVED):
        return False
    with _alone(path) as connection:
        _set_revision(connection, found, found.removesuffix(MOVED))
    return True


def _demand_head(path: Path) -> None:
    found = current(path)
    check_known(found, of=path)
    if found != HEAD:
        raise StoreError("store_schema", f"{path} is at schema {found}: run garrison migrate first")


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[Connection]:
    """Open the file so that nobody else has it open, nor can open it. Raises StoreError."""
    try:
        with contextlib.closing(connect(path, begin="BEGIN IMMEDIATE", busy_s=_BUSY_S, alone=True)) as connection:
            yield connection
    except (sqlite3.Error, SQLAlchemyError) as error:
        outage = store_error_of(error)
        if outage is None:
            raise
        if outage.code == "store_busy":
            text = f"a process has {path} open: stop the server, and whatever else reads it, first"
            raise StoreError("store_busy", text) from error
        raise outage from error


@contextlib.contextmanager
def _mark(source: Connection, url: str) -> Iterator[Callable[[], None]]:
    """Give a function that marks the file as moved. Where the context ends with an error, the mark is taken back.

    But not where PostgreSQL may hold it all: a commit that was not answered may have been made, and two stores that are
    both taken for the one would be two answers to whether a session has ended.
    """
    marked: list[str] = []

    def mark() -> None:
        _set_revision(source, HEAD, HEAD + MOVED)
        marked.append(HEAD)

    try:
        yield mark
    except BaseException as error:
        if marked and _is_empty(url):
            _set_revision(source, HEAD + MOVED, HEAD)
        elif marked:
            raise GarrisonError("moved_perhaps", _PERHAPS) from error
        raise


def _is_empty(url: str) -> bool:
    """Say whether it is certain that nothing was written there."""
    try:
        write_once(url, _demand_empty)
    except (GarrisonError, SQLAlchemyError):
        return False
    return True


def _set_revision(connection: Connection, old: str, new: str) -> None:
    with connection.begin():
        connection.execute(_MARK, {"old": old, "new": new})


def _copy_all(source: Connection, target: Connection, progress: Progress) -> tuple[MovedTable, ...]:
    """Make the schema, copy every table and compare; in the target's transaction."""
    _demand_empty(target)
    others = set(inspect(target).get_table_names())
    upgrade_within(target)
    undeclared = set(inspect(target).get_table_names()) - others - set(metadata.tables) - {VERSION_TABLE}
    if undeclared:  # a module that nobody imported: its rows would be left behind
        raise StoreError("store_schema", f"nobody declares {', '.join(sorted(undeclared))}")
    with source.begin() as reading:
        tables = metadata.sorted_tables
        whole = 2 * sum(_count(source, table) for table in tables) or 1  # each row is written, and read back
        done = 0

        def counted(batches: Iterable[Sequence[Any]]) -> Iterator[Sequence[Any]]:
            nonlocal done
            for batch in batches:
                yield batch
                done += len(batch)
                progress(done / whole)

        moved = []
        for table in tables:
            written = _copy(table, counted(_batches(source, table)), target)
            moved.append(MovedTable(table.name, written, _contents(counted(_batches(target, table)))))
        _set_sequences(source, target)
        reading.rollback()
    different = [one.name for one in moved if one.source != one.target]
    if different:
        raise GarrisonError("differs", f"what was read back is not what was written: {', '.join(different)}")
    return tuple(moved)


def _copy(table: Table, batches: Iterable[Sequence[Any]], target: Connection) -> Contents:
    statement = insert(table)

    def write() -> Iterator[Sequence[Any]]:
        for batch in batches:
            target.execute(statement, [dict(row._mapping) for row in batch])
            yield batch

    return _contents(write())


def _batches(connection: Connection, table: Table) -> Iterator[Sequence[Any]]:
    options = {"yield_per": BATCH}  # by a cursor of the server's, where it has them
    return connection.execute(select(table), execution_options=options).partitions()


def _contents(batches: Iterable[Sequence[Any]]) -> Contents:
    rows = total = 0
    for batch in batches:
        rows += len(batch)
        for row in batch:
            total += int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest(), "big")
    return Contents(rows, f"{total % _DIGESTS:064x}")


def _count(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.count()).select_from(table)).scalar_one())


def _set_sequences(source: Connection, target: Connection) -> None:
    """Let positions go on behind the highest that was ever given, be its row swept."""
    given = source.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")
    highest: Mapping[str, int] = {str(name): int(seq) for name, seq in given}
    for table in metadata.sorted_tables:
        column = table.autoincrement_column
        if column is not None and highest.get(table.name):
            values = {"name": table.name, "column": column.name, "highest": highest[table.name]}
            target.execute(_NEXT, values)


def _demand_empty(target: Connection) -> None:
    there = set(inspect(target).get_table_names())
    revision = revision_within(target)
    held = [table.name for table in metadata.sorted_tables if table.name in there]
    if revision is not None:
        held = [name for name in held if _count(target, metadata.tables[name])]
    if held:
        raise GarrisonError(
            "not_empty", f"the target holds data already, in {', '.join(held)}: name a new, empty database"
        )


def _foreign_tables(source: Connection) -> tuple[str, ...]:
    there = set(inspect(source).get_table_names())
    source.rollback()
    return tuple(sorted(there - set(metadata.tables) - {VERSION_TABLE}))


def _demand_that_all_fits(source: Connection) -> None:
    """Raise GarrisonError(`does_not_fit`) with every column that holds what PostgreSQL does not take."""
    problems = []
    for table in metadata.sorted_tables:
        columns = list(table.columns)
        counts = ", ".join(f"coalesce(sum({_misfit(column)}), 0)" for column in columns)
        [row] = source.exec_driver_sql(f'SELECT {counts} FROM "{table.name}"').all()  # noqa: S608 - our own names
        problems += [
            f"{table.name}.{column.name}: {count} rows" for column, count in zip(columns, row, strict=True) if count
        ]
    source.rollback()
    if problems:
        text = "PostgreSQL does not take text with NUL, text too long for its column, or numbers out of range: "
        raise GarrisonError("does_not_fit", text + "; ".join(problems))


def _misfit(column: "Column[Any]") -> str:
    """Return an expression of SQLite's that is true for a value which is not one of the column's type."""
    name, kind = f'"{column.name}"', f'typeof("{column.name}")'
    match column.type:
        case Boolean():
            fits = f"{kind} = 'integer' AND {name} IN (0, 1)"
        case BigInteger():
            fits = f"{kind} = 'integer'"
        case Integer():
            fits = f"{kind} = 'integer' AND {name} BETWEEN -2147483648 AND 2147483647"
        case Double():
            fits = f"{kind} = 'real'"
        case LargeBinary():
            fits = f"{kind} = 'blob'"
        case String(length=length):
            fits = f"{kind} = 'text' AND instr({name}, char(0)) = 0"
            if length is not None:
                fits += f" AND length({name}) <= {length}"
        case other:
            raise StoreError("store_schema", f"there is no rule for {other!r}")
    return f"{name} IS NOT NULL AND NOT ({fits})"
