"""No statement of the product reads a whole table of people's, however many there are: the stores' own plans say so.

Timing decides nothing here. `bench/growth.py` measures, and looks at the same plans in a database as large as one
likes.
"""

import importlib
import inspect
import pkgutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest
from sqlalchemy import Index

import garrison.identity
import garrison.store
from bench import statements
from bench.growth import LARGE_TABLE, SETTINGS, scans_of
from bench.plans import Statement, explain_postgresql, explain_sqlite, is_list
from bench.seed import Filled, Population, fill
from garrison.core.clock import SystemClock
from garrison.core.ids import digest
from garrison.core.sealing import Sealer
from garrison.identity.keys.queries import KEY_READ
from garrison.identity.keys.secret import PURPOSE as KEY_PURPOSE
from garrison.identity.keys.secret import is_well_formed
from garrison.identity.sessions.model import COOKIE_PURPOSE
from garrison.identity.sessions.queries import COLD_READ
from garrison.store.database import Database
from garrison.store.postgresql import open_postgresql
from garrison.store.schema import metadata
from garrison.store.sqlite import open_sqlite
from tests.store.postgresql import database

ACCOUNTS = LARGE_TABLE
PEOPLE = Population("growth", ACCOUNTS, ACCOUNTS, ACCOUNTS // 10)
HELPERS = frozenset({"statements.insert_new", "statements.store_time"})
"""What query functions are made of."""
OF_RESTORE = frozenset(
    {
        *("accounts.queries.raise_all_epochs", "clients.queries.raise_all_epochs", "keys.queries.raise_all_versions"),
        *("clients.queries.disable_all", "keys.queries.expire_all", "issuers.refused.end_known_tokens"),
        *("sessions.queries.delete_all_sessions", "oauth.codes.delete_all_codes"),
        *("oauth.device_codes.delete_all_device_codes", "log.append_all", "log.leap", "audit.last_event_at"),
    }
)
"""What ends everything after a restore: about whole tables by its nature."""
NOT_SQL = frozenset(
    {"migrate.revision_within", "migrate.upgrade_within", "redis_counters.beat", "redis_counters.leave"}
)


def quiet(_text: str) -> None:
    """Say nothing."""


def recorded(store: Database) -> list[Statement]:
    async def work() -> list[Statement]:
        try:
            return await statements.record(store, PEOPLE, SystemClock(), Sealer([b"growth " * 5]), SETTINGS)
        finally:
            await store.close()

    return anyio.run(work)


class Seeded(NamedTuple):
    """A database, what is in it, and every statement of the product."""

    url: str
    filled: list[Filled]
    asked: list[Statement]


@pytest.fixture(scope="module")
def in_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    url = f"sqlite:///{tmp_path_factory.mktemp('growth') / 'large.db'}"
    return Seeded(url, fill(url, PEOPLE, quiet), recorded(open_sqlite(url)))


@pytest.fixture(scope="module")
def in_postgresql() -> Iterator[Seeded]:
    with database() as url:
        yield Seeded(url, fill(url, PEOPLE, quiet), recorded(open_postgresql(url)))


def query_functions() -> set[str]:
    """Names of all public functions that run statements on a connection they are given."""
    found = set()
    for room in (garrison.identity, garrison.store):
        for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
            if ".migrations" in module.name:
                continue
            loaded = importlib.import_module(module.name)
            for name, function in inspect.getmembers(loaded, inspect.isfunction):
                takes = next(iter(inspect.signature(function).parameters), "")
                if function.__module__ == module.name and not name.startswith("_") and takes == "connection":
                    found.add(statements.name_of(function))
    return found


def cold_reads() -> set[str]:
    """All public constants that are a whole SELECT of ours."""
    found = set()
    for room in (garrison.identity, garrison.store):
        for module in pkgutil.walk_packages(room.__path__, room.__name__ + "."):
            if ".migrations" not in module.name:
                constants = vars(importlib.import_module(module.name)).items()
                found |= {
                    one
                    for name, one in constants
                    if name.isupper() and name[0] != "_" and isinstance(one, str) and one.startswith("SELECT ")
                }
    return found


def read_whole(url: str, seeded: Seeded) -> list[str]:
    assert len(seeded.asked) > 100
    found = scans_of(url, seeded.asked, seeded.filled)
    return [f"{scan.of} {scan.tables}: {scan.sql} {scan.lines}" for scan in found]


def driver_of(url: str) -> sqlite3.Connection:
    return sqlite3.connect(url.removeprefix("sqlite:///"))


def copy_of(url: str, path: Path) -> str:
    """A copy of the database that a test may change."""
    with driver_of(url) as source, sqlite3.connect(path) as copy:
        source.backup(copy)
    return f"sqlite:///{path}"


def test_every_query_and_every_cold_read_is_looked_at() -> None:
    sealer = Sealer([b"s" * 32])
    run = {statements.name_of(one.function) for one in statements.every(PEOPLE, kid="kid", sealer=sealer)}
    assert query_functions() - run == HELPERS | OF_RESTORE | NOT_SQL
    assert cold_reads() - {one.sql for one in statements.cold(PEOPLE, kid="kid")} == set()


def test_sqlite_reads_no_table_whole(in_sqlite: Seeded) -> None:
    """Neither with the figures of ANALYZE, nor without any."""
    assert read_whole(in_sqlite.url, in_sqlite) == []


def test_postgresql_reads_no_table_whole(in_postgresql: Seeded) -> None:
    url, _, asked = in_postgresql
    assert read_whole(url, in_postgresql) == []
    plans = explain_postgresql(url, asked, generic=True, prefer_indexes=True)
    whole = [(one.sql, plan) for one, plan in zip(asked, plans, strict=True) if plan.scans and not is_list(one)]
    assert whole == [], "nor would a prepared statement, planned for any parameters"


def test_a_missing_index_is_found(in_sqlite: Seeded, tmp_path: Path) -> None:
    url = copy_of(in_sqlite.url, tmp_path / "copy.db")
    with driver_of(url) as driver:
        for name in ("authorization_codes_by_client", "sessions_by_idle", "api_keys_of_apps"):
            driver.execute(f"DROP INDEX {name}")
    found = scans_of(url, in_sqlite.asked, in_sqlite.filled)
    assert {scan.of: scan.tables for scan in found} == {
        "oauth.codes.delete_codes_of_client": ("authorization_codes",),
        "sweeper.sweep_batch": ("sessions",),
        "keys.queries.count_live_apps": ("api_keys",),
    }


def test_a_missing_index_is_found_in_postgresql(in_postgresql: Seeded) -> None:
    missing = Statement("SELECT id FROM sessions WHERE device_id = ?", ("dev_x",), "nobody")
    filtered = Statement("SELECT code FROM refusals WHERE minute <= ? + 0.5 ORDER BY minute LIMIT 5", (1,), "nobody")
    found = scans_of(in_postgresql.url, [missing, filtered], in_postgresql.filled)
    assert [(scan.sql, scan.tables) for scan in found] == [(missing.sql, ("sessions",)), (filtered.sql, ("refusals",))]


def test_an_index_of_hardly_any_rows_misleads_sqlite(in_sqlite: Seeded) -> None:
    """Why `KEY_READ` is written as it is."""
    where = "k.secret_digest = ? OR k.earlier_digest = ?"
    either = Statement(f"SELECT k.id FROM api_keys k WHERE {where}", (b"", b""), "nobody")
    as_it_is = Statement(KEY_READ, (b"", b"", b""), "cold")
    plans = explain_sqlite(Path(in_sqlite.url.removeprefix("sqlite:///")), [either, as_it_is])
    assert [plan.scans for plan in plans] == [("api_keys",), ()]


def test_what_a_deleted_row_takes_along_is_found_by_an_index(in_sqlite: Seeded) -> None:
    """A foreign key is followed at each deletion of what it points to, which no plan shows."""
    asked = in_sqlite.asked
    deleted = {table.name for table in metadata.tables.values() if any(is_from(one.sql, table.name) for one in asked)}
    assert {"sessions", "clients"} <= deleted
    followed = [
        (table.name, key.parent.name)
        for table in metadata.tables.values()
        for key in table.foreign_keys
        if key.column.table.name in deleted
    ]
    assert ("refresh_tokens", "session_id") in followed
    assert [one for one in followed if one[1] not in first_columns(one[0])] == []


def is_from(sql: str, table: str) -> bool:
    return sql.startswith(f"DELETE FROM {table} ")


def first_columns(name: str) -> set[str]:
    """The columns that an index of the table begins with."""
    table = metadata.tables[name]
    keys: list[Any] = [one for one in table.constraints if type(one).__visit_name__.startswith(("primary", "unique"))]
    indexes: list[Index] = [one for one in table.indexes if one.dialect_options["sqlite"]["where"] is None]
    return {next(iter(one.columns)).name for one in (*keys, *indexes) if len(one.columns)}


def test_what_is_seeded_can_be_used(in_sqlite: Seeded) -> None:
    url, filled, _ = in_sqlite
    assert {one.table: one.rows for one in filled}.items() >= {"accounts": ACCOUNTS, "sessions": ACCOUNTS}.items()
    with driver_of(url) as driver:
        for n in (0, 1, 2, PEOPLE.cookie_sessions() - 1):
            session = PEOPLE.cookie_session(n)
            shown = digest(PEOPLE.session_secret(session), purpose=COOKIE_PURPOSE)
            [row] = driver.execute(COLD_READ, (shown,)).fetchall()
            assert row[:4] == (
                PEOPLE.session_id(session),
                PEOPLE.account_id(PEOPLE.account_of_session(session)),
                1,
                "cookie",
            )
        for n in (0, PEOPLE.keys - 1):
            assert is_well_formed(PEOPLE.key(n).encode())
            [row] = driver.execute(KEY_READ, (digest(PEOPLE.key(n), purpose=KEY_PURPOSE),) * 3).fetchall()
            assert row[:2] == (PEOPLE.key_id(n), PEOPLE.account_id(PEOPLE.account_of_key(n)))
        assert driver.execute("PRAGMA foreign_key_check").fetchall() == []
        assert driver.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
