"""`garrison move`: everything that opened something on SQLite opens it on PostgreSQL, and a failure moves nothing."""

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import garrison.serve.start  # noqa: F401 - every table is declared by something in it
from garrison.core.errors import StoreError
from garrison.store.migrate import HEAD, VERSION_TABLE, current
from garrison.store.opening import write_once
from garrison.store.postgresql import LOCK
from garrison.store.schema import metadata
from tests.cli.credentials import ALL, Credentials, command, document, kids
from tests.process import forks
from tests.process.server import GARRISON, PASSWORD, RAISED, Server
from tests.store.postgresql import database
from tests.stores import needs_sqlite_file

pytestmark = needs_sqlite_file

ENVIRONMENT = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}
DATABASE = Path("var/garrison.db")
_HERE = "(SELECT oid FROM pg_database WHERE datname = current_database())"


@pytest.fixture
def url() -> Iterator[str]:
    with database() as url:
        yield url


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a database of one account."""
    done = command(tmp_path, "account", "create", "ada@example.com", "--password-stdin", stdin=PASSWORD + "\n")
    assert done.exit_code == 0, done.stderr
    return tmp_path


def asked(url: str, sql: str) -> list[Any]:
    """Ask PostgreSQL itself."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(url, timeout=5)
        try:
            return [tuple(row) for row in await connection.fetch(sql)]
        finally:
            await connection.close()

    return asyncio.run(ask())


def change(directory: Path, *statements: str) -> None:
    with closing(sqlite3.connect(directory / DATABASE)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def tables_of(url: str) -> set[str]:
    return {name for (name,) in asked(url, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")}


def test_whoever_was_signed_in_stays_so(tmp_path: Path, url: str) -> None:
    """Over HTTP, by server processes: cookie, access and refresh token, API key, client and its token, the JWKS."""
    with Server(tmp_path, environment=ENVIRONMENT) as server:
        held = Credentials.of(server, "ada")
        assert held.alive(server) == ALL
        before = kids(server)
        running = command(tmp_path, "move", url)
        assert (running.exit_code, "stop the server" in running.stderr) == (1, True)
        assert held.alive(server) == ALL
    change(tmp_path, "DELETE FROM changes")  # as the sweeper does; the highest position was given all the same
    with closing(sqlite3.connect(tmp_path / DATABASE)) as connection:
        [(highest,)] = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'changes'").fetchall()
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        ours = {name for name in names if not name.startswith("sqlite_")} - {VERSION_TABLE}
        rows = {name: connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in ours}
    moved = document(server, "move", url)
    assert {one["table"]: one["rows"] for one in moved["tables"]} == rows, "every table, with every row"
    assert moved["left"] == []
    assert moved["to"].partition("//")[2] == url.rpartition("@")[2]
    old = command(tmp_path, "account", "list")
    assert (old.exit_code, "was moved to PostgreSQL" in old.stderr) == (1, True), "no start takes the file any more"
    there = Server(tmp_path, environment={**ENVIRONMENT, "GARRISON_DATABASE_URL": url}, port=server.port)
    with there:
        assert held.alive(there) == ALL
        assert kids(there) == before
        held.sign_in(there)
        document(there, "account", "set-role", held.email, "admin")
        assert asked(url, "SELECT min(position) FROM changes")[0][0] > highest
        ended = document(there, "restored")
        assert ended["accounts"] == 1
        assert held.alive(there) == frozenset(), "as after pg_restore"
        held.sign_in(there)
        refused = command(tmp_path, "backup", "copy.db", environment=there.environment)
        assert (refused.exit_code, "pg_dump" in refused.stderr) == (2, True)
        refused = command(tmp_path, "restore", "copy.db", environment=there.environment)
        assert (refused.exit_code, "pg_restore" in refused.stderr) == (2, True)


def test_a_move_can_be_undone_and_done_again(directory: Path, url: str) -> None:
    assert command(directory, "backup", "copy.db").exit_code == 0
    nothing = command(directory, "move", "--undo")
    assert (nothing.exit_code, "was not moved" in nothing.stderr) == (1, True)
    client = json.loads(command(directory, "client", "create", "--name", "reports", "--json").stdout)
    done = command(directory, "move", url)
    assert done.exit_code == 0, done.stderr
    assert "accounts" in done.stdout
    assert "GARRISON_DATABASE_URL" in done.stderr
    for words in (("move", url), ("migrate",), ("backup", "copy-2.db")):
        refused = command(directory, *words)
        assert (refused.exit_code, "was moved to PostgreSQL" in refused.stderr) == (1, True), words
    refused = command(directory, "restore", "copy.db", "--replace")
    assert (refused.exit_code, "move --undo" in refused.stderr) == (2, True), "or two stores would be the one"
    undone = command(directory, "move", "--undo", "--json")
    assert undone.exit_code == 0, undone.stderr
    assert current(directory / DATABASE) == HEAD
    assert json.loads(undone.stdout)["clients_disabled"] == [client["client_id"]], "it may have been ended there since"
    assert json.loads(command(directory, "client", "list", "--json").stdout)["items"][0]["status"] != "active"
    again = command(directory, "move", url)
    assert (again.exit_code, "holds data already, in accounts" in again.stderr) == (1, True)
    assert current(directory / DATABASE) == HEAD


def test_what_postgresql_does_not_take_is_named_and_nothing_is_moved(directory: Path, url: str) -> None:
    change(
        directory,
        "INSERT INTO refused_subjects VALUES ('i', 'a' || char(0) || 'b', 0, 1.0, 1)",
        "INSERT INTO refused_subjects VALUES ('i', 'ok', 2, 1.0, 3000000000)",
        f"INSERT INTO leases VALUES ('{'x' * 65}', 'holder', 1.0)",
        "INSERT INTO leases VALUES ('blob', x'00', 'late')",
    )
    done = command(directory, "move", url)
    assert done.exit_code == 1
    for named in ("subject: 1", "is_refused: 1", "version: 1"):
        assert f"refused_subjects.{named} rows" in done.stderr
    for named in ("name: 1", "holder: 1", "expires_at: 1"):
        assert f"leases.{named} rows" in done.stderr
    assert tables_of(url) == set()
    assert current(directory / DATABASE) == HEAD


def test_values_at_the_edges_arrive_as_they_were(directory: Path, url: str) -> None:
    change(
        directory,
        "INSERT INTO refused_subjects VALUES ('', 'ü€😀\n\t''\"\\', 1, 0.1, 2147483647)",
        "INSERT INTO refused_subjects VALUES ('x', 'y', 0, 1.7976931348623157e308, -2147483648)",
        "INSERT INTO counters VALUES (x'00ff27', 5e-324, 1e999)",
        "INSERT INTO counters VALUES (x'', -0.0, 1.0)",
    )
    done = command(directory, "move", url)
    assert done.exit_code == 0, done.stderr
    assert ("", "ü€😀\n\t'\"\\", True, 0.1, 2147483647) in asked(url, "SELECT * FROM refused_subjects")
    assert (b"\x00\xff'", 5e-324, float("inf")) in asked(url, "SELECT * FROM counters")


MANGLE = """
CREATE FUNCTION mangle() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {what} END $$;
CREATE FUNCTION watch() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
  IF to_regclass('accounts') IS NOT NULL
     AND NOT EXISTS (SELECT 1 FROM pg_trigger WHERE tgrelid = to_regclass('accounts') AND tgname = 'mangled') THEN
    CREATE TRIGGER mangled BEFORE INSERT ON accounts FOR EACH ROW EXECUTE FUNCTION mangle();
  END IF;
END $$;
CREATE EVENT TRIGGER watching ON ddl_command_end WHEN TAG IN ('CREATE TABLE') EXECUTE FUNCTION watch();
"""


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("NEW.email = upper(NEW.email); RETURN NEW;", "what was read back is not what was written: accounts"),
        ("RETURN NULL;", "what was read back is not what was written: accounts"),
        ("RAISE check_violation;", "PostgreSQL refused what was copied: 23514"),
    ],
)
def test_a_target_that_alters_loses_or_refuses_rows_gets_none(directory: Path, url: str, what: str, says: str) -> None:
    async def prepare() -> None:
        connection = await asyncpg.connect(url, timeout=5)
        await connection.execute(MANGLE.format(what=what))
        await connection.close()

    asyncio.run(prepare())
    done = command(directory, "move", url)
    assert (done.exit_code, says in done.stderr) == (1, True), done.stderr
    assert "ada@example.com" not in done.stderr.lower()
    assert tables_of(url) == set()
    assert current(directory / DATABASE) == HEAD
    assert command(directory, "account", "list").exit_code == 0


def test_a_target_that_cannot_commit_leaves_the_file_in_use(directory: Path, url: str) -> None:
    what = "RETURN NULL; "  # deferred: it is called by COMMIT, when the file is marked already
    deferred = MANGLE.replace("CREATE TRIGGER mangled BEFORE INSERT", "CREATE CONSTRAINT TRIGGER mangled AFTER INSERT")
    deferred = deferred.replace("ON accounts FOR EACH ROW", "ON accounts DEFERRABLE INITIALLY DEFERRED FOR EACH ROW")

    async def prepare() -> None:
        connection = await asyncpg.connect(url, timeout=5)
        await connection.execute(deferred.format(what="RAISE check_violation; " + what))
        await connection.close()

    asyncio.run(prepare())
    done = command(directory, "move", url)
    assert (done.exit_code, "refused" in done.stderr) == (1, True), done.stderr
    assert tables_of(url) == set()
    assert current(directory / DATABASE) == HEAD, "the mark was taken back"


def test_a_commit_that_is_not_answered_may_have_been_made(
    directory: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stores that are both taken for the one would be two answers to whether a session has ended."""

    def lost(address: str, work: Callable[[Any], Any], **more: Any) -> Any:
        result = write_once(address, work, **more)
        if work.__name__ == "work":
            raise StoreError("store_unavailable", "the connection was closed in the middle of operation")
        return result

    monkeypatch.setattr("garrison.store.move.write_once", lost)
    done = command(directory, "move", url)
    assert (done.exit_code, "cut off in the end" in done.stderr) == (1, True), done.stderr
    monkeypatch.undo()
    assert asked(url, "SELECT count(*) FROM accounts") == [(1,)]
    refused = command(directory, "account", "list")
    assert (refused.exit_code, "was moved to PostgreSQL" in refused.stderr) == (1, True)
    assert command(directory, "move", "--undo").exit_code == 0
    assert command(directory, "account", "list").exit_code == 0


def test_a_move_that_is_interrupted_moves_nothing(directory: Path, url: str) -> None:
    with open(os.devnull, "r+b") as nothing, hold_writes(url) as is_waited_for:
        files = {"stdin": nothing.fileno(), "stdout": nothing.fileno(), "stderr": nothing.fileno()}
        moving = forks.start([GARRISON, "move", url], directory, {"PATH": "/usr/bin:/bin"}, **files)
        is_waited_for()
        moving.send_signal(signal.SIGINT)
        time.sleep(0.3)
    assert moving.wait(30) != 0
    assert tables_of(url) == set()
    assert command(directory, "account", "list").exit_code == 0


@contextmanager
def hold_writes(url: str) -> Iterator[Callable[[], None]]:
    """Hold the lock of all writes; give what waits until somebody else waits for it."""
    loop = asyncio.new_event_loop()
    connection = loop.run_until_complete(asyncpg.connect(url, timeout=5))
    waiting = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND database = {_HERE}"

    def wait() -> None:
        end = time.monotonic() + 20
        while loop.run_until_complete(connection.fetchval(waiting)) == 0:
            assert time.monotonic() < end
            time.sleep(0.02)

    try:
        loop.run_until_complete(connection.execute(f"SELECT pg_advisory_lock({LOCK})"))
        yield wait
    finally:
        loop.run_until_complete(connection.close())
        loop.close()


def test_wrong_use_is_told(directory: Path) -> None:
    for words in (("move",), ("move", "postgresql://h/d", "--undo"), ("move", "mysql://h/d"), ("move", "nowhere")):
        assert command(directory, *words).exit_code == 2, words
    gone = command(directory, "move", "postgresql://someone:hidden-word@127.0.0.1:1/nothing")
    assert (gone.exit_code, "hidden-word" in gone.stderr) == (1, False)
    assert current(directory / DATABASE) == HEAD


def test_a_table_that_nobody_declares_stops_the_move(directory: Path, url: str) -> None:
    """As when a command forgets to import a module that declares one: its rows would be left behind."""
    code = (
        "from garrison.store.move import move\n"
        "from garrison.core.errors import StoreError\n"
        f"try: move('var/garrison.db', {url!r}, lambda share: None)\n"
        "except StoreError as error: print(error.detail)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=directory, capture_output=True, text=True, check=True)
    assert "nobody declares" in done.stdout
    assert "accounts" in done.stdout
    assert tables_of(url) == set()


def test_other_tables_of_the_file_stay_where_they_are(directory: Path, url: str) -> None:
    change(directory, "CREATE TABLE tasks (id TEXT)")
    done = command(directory, "move", url, "--json")
    assert json.loads(done.stdout)["left"] == ["tasks"]
    assert tables_of(url) == {*metadata.tables, VERSION_TABLE}
