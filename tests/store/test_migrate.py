"""Migrations make what the models declare, once, in order, also when two start at once."""

import asyncio
import logging
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine

import garrison.identity.accounts.model
import garrison.identity.clients.model
import garrison.identity.devices.model
import garrison.identity.issuers.refused
import garrison.identity.keys.model
import garrison.identity.oauth.assertions
import garrison.identity.oauth.codes
import garrison.identity.oauth.device_codes
import garrison.identity.oauth.revoked
import garrison.identity.providers.model
import garrison.identity.sessions.model
import garrison.identity.signing.model
import garrison.identity.tokens.model  # noqa: F401 - all of these declare tables of the schema
from garrison.core.errors import StoreError
from garrison.store import audit, counters, leases, log, migrate, secret_check  # noqa: F401 - and so do these
from garrison.store.migrate import HEAD, MIGRATIONS, OLDEST, REVISIONS, VERSION_TABLE, current, ensure_schema, upgrade
from garrison.store.opening import write_once
from garrison.store.schema import metadata
from tests.store.conftest import Python
from tests.store.postgresql import database


def statements(path: Path) -> dict[str, list[str] | None]:
    """What SQLite holds of the schema: every CREATE statement."""
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE ?", (f"%{VERSION_TABLE}%",))
    found = {name: sql and parts(sql) for name, sql in rows.fetchall()}
    connection.close()
    return found


def parts(sql: str) -> list[str]:
    """The columns and constraints of a statement in any order: a column that was added later stands behind them."""
    head, _, body = " ".join(sql.split()).partition("(")
    found, depth, start = [head], 0, 0
    for at, character in enumerate(body):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if (character == "," and depth == 0) or depth < 0:
            found.append(body[start:at].strip())
            start = at + 1
    return sorted(found)


def test_the_list_of_revisions_is_that_of_the_files() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    scripts = ScriptDirectory.from_config(config)
    assert tuple(script.revision for script in scripts.walk_revisions())[::-1] == REVISIONS
    assert scripts.get_heads() == [HEAD]


def test_migrations_make_exactly_what_the_models_declare(path: Path, tmp_path: Path) -> None:
    """Checks and keys, too, which Alembic does not compare."""
    engine = create_engine(f"sqlite:///{tmp_path / 'declared.db'}")
    metadata.create_all(engine)
    engine.dispose()
    assert statements(path) == statements(tmp_path / "declared.db")


def test_alembic_finds_no_difference_either(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_development_upgrades_by_itself_and_twice_is_once(tmp_path: Path) -> None:
    path = tmp_path / "var" / "50%" / "garrison.db"
    assert current(path) is None
    assert not path.parent.exists(), "looking makes nothing"
    ensure_schema(f"sqlite:///{path}", migrate=True)
    assert current(path) == HEAD
    before = path.read_bytes()
    ensure_schema(path, migrate=True)
    ensure_schema(path, migrate=False)
    upgrade(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("state", ["missing", "empty", "foreign"])
def test_production_says_what_to_do_and_does_nothing(tmp_path: Path, state: str) -> None:
    path = tmp_path / "garrison.db"
    if state != "missing":
        connection = sqlite3.connect(path)
        if state == "foreign":
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("INSERT INTO alembic_version VALUES ('an app''s own')")
            connection.commit()
        connection.close()
    with pytest.raises(StoreError) as refused:
        ensure_schema(path, migrate=False)
    assert refused.value.code == "store_schema"
    assert "garrison migrate" in str(refused.value)
    assert path.exists() == (state != "missing")
    ensure_schema(path, migrate=True)
    ensure_schema(path, migrate=False)


@pytest.mark.parametrize("call", [upgrade, lambda path: ensure_schema(path, migrate=True)])
def test_a_database_of_a_newer_version_is_left_alone(path: Path, call: object) -> None:
    set_version(path, "9999")
    before = statements(path)
    with pytest.raises(StoreError) as refused:
        call(path)  # type: ignore[operator]
    assert refused.value.code == "store_schema"
    assert "newer" in str(refused.value)
    assert (statements(path), current(path)) == (before, "9999")


def set_version(path: Path, oldest: str) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999', oldest = ?", (oldest,))
    connection.commit()
    connection.close()


@pytest.mark.parametrize("migrates", [True, False])
def test_a_newer_schema_is_served_as_far_as_its_version_says(path: Path, migrates: bool) -> None:
    """Nodes are changed one by one: the old ones go on, and start again after a crash."""
    set_version(path, HEAD)
    ensure_schema(path, migrate=migrates)
    assert current(path) == "9999"
    set_version(path, "9998")
    with pytest.raises(StoreError) as refused:
        ensure_schema(path, migrate=migrates)
    assert refused.value.code == "store_schema"


def test_what_the_oldest_version_in_service_has_is_still_there_and_nothing_more_is_demanded_of_it(
    tmp_path: Path,
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'oldest.db'}")
    with engine.begin() as connection:
        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes.update(connection=connection, version_table=VERSION_TABLE)
        command.upgrade(config, OLDEST)
    old = MetaData()
    old.reflect(engine)
    engine.dispose()
    assert OLDEST in REVISIONS
    for name, table in old.tables.items():
        if name == VERSION_TABLE:
            continue
        now = metadata.tables[name]
        assert set(table.c.keys()) <= set(now.c.keys())
        for column in now.c:
            assert column.name in table.c or column.nullable or column.server_default is not None, f"{name}.{column}"


def test_an_upgrade_gives_way_to_whoever_reads_and_to_those_who_come_later() -> None:
    """A long reader, such as pg_dump, holds up the upgrade; the upgrade must not hold up everybody else meanwhile."""
    with database() as url, ThreadPoolExecutor(1) as aside:

        def older(connection: Connection) -> None:
            config = Config()
            config.set_main_option("script_location", str(MIGRATIONS))
            config.attributes.update(connection=connection, version_table=VERSION_TABLE)
            command.upgrade(config, "0012")

        write_once(url, older)

        async def read() -> float:
            reader, other = await asyncpg.connect(url), await asyncpg.connect(url)
            slowest = 0.0
            async with reader.transaction():
                await reader.execute("SELECT count(*) FROM clients")
                upgrading = aside.submit(upgrade, url)
                until = time.monotonic() + 5
                while time.monotonic() < until:
                    began = time.monotonic()
                    await other.execute("SELECT count(*) FROM clients")
                    slowest = max(slowest, time.monotonic() - began)
                    await asyncio.sleep(0.01)
                assert not upgrading.done()
            await asyncio.to_thread(upgrading.result, 30)
            for connection in (reader, other):
                await connection.close()
            return slowest

        assert 0.3 < asyncio.run(read()) < 4, "it does try, and not for long"
        assert current(url) == HEAD


def test_what_is_no_database_is_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_text("no database at all " * 100)
    for call in (current, upgrade):
        with pytest.raises(StoreError) as refused:
            call(path)
        assert refused.value.code == "store_unavailable"


def test_an_upgrade_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "garrison.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE leases (in_the_way)")  # the last table of the migration but one
    connection.commit()
    connection.close()
    before = statements(path)
    with pytest.raises(StoreError) as refused:
        upgrade(path)
    assert refused.value.code == "store_schema"
    assert statements(path) == before
    assert current(path) is None


def test_processes_that_upgrade_one_new_file_at_once_all_succeed(tmp_path: Path, python: Python) -> None:
    path = tmp_path / "var" / "new.db"
    code = "import sys; from garrison.store.migrate import *; ensure_schema(sys.argv[1], migrate=True)"
    processes = [python(code, of=path) for _ in range(4)]
    results = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert [status for _, status in results] == [0] * 4, results
    assert current(path) == HEAD


def test_a_start_that_finds_the_schema_current_does_not_import_alembic(python: Python) -> None:
    code = (
        "import sys; from garrison.store.migrate import *; from garrison.store.sqlite import *;"
        "ensure_schema(sys.argv[1], migrate=True); open_sqlite(sys.argv[1]).cold('SELECT 1', ());"
        "print('alembic' in sys.modules)"
    )
    out, errors = python(code).communicate(timeout=60)
    assert out.strip() == "False", errors


def test_migrating_says_nothing_to_people_by_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        upgrade(tmp_path / "x.db")
    assert caplog.records == []
