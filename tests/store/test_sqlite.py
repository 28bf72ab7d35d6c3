"""SQLite keeps the contract, and what only a file can do: fill up, vanish, break, be shared, and outlive a kill."""

import asyncio
import signal
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection

from garrison.core.errors import StoreError
from garrison.store.sqlite import SqliteDatabase, open_sqlite, sqlite_path, write_once
from garrison.store.sqlite_errors import store_error_of
from garrison.store.worker import Worker
from tests.store.conftest import Python
from tests.store.contract import DatabaseContract, Gate, claim, cold, count
from tests.store.table_contracts import CountersContract, TablesContract

pytestmark = pytest.mark.anyio


class TestDatabase(DatabaseContract):
    pass


class TestCounters(CountersContract):
    pass


class TestTables(TablesContract):
    pass


@pytest.fixture
def sqlite(path: Path) -> Iterator[SqliteDatabase]:
    store = open_sqlite(path)
    yield store
    asyncio.run(store.close())


# The file


def test_paths_and_urls_name_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sqlite_path("sqlite:///var/garrison.db") == tmp_path / "var/garrison.db"
    assert sqlite_path("var/garrison.db") == tmp_path / "var/garrison.db"
    assert sqlite_path("sqlite:////srv/a b%20.db") == Path("/srv/a b%20.db")
    assert sqlite_path(Path("/srv/x.db")) == Path("/srv/x.db")
    for wrong in (
        *("", ":memory:", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory"),
        *("postgresql://h/d", "sqlite://host/x.db", "sqlite:///x.db?mode=ro", "sqlite:///x\x00.db"),
    ):
        with pytest.raises(ValueError, match=r"sqlite:///path/to/file\.db"):
            sqlite_path(wrong)


async def test_file_and_directory_are_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "x%20y?#.db"
    store = open_sqlite(path)
    await store.write(lambda connection: connection.exec_driver_sql("CREATE TABLE t (x)"))
    assert await cold(store, "SELECT count(*) FROM t") == [(0,)]
    for directory in (path.parent, path.parent.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    files = list(path.parent.iterdir())
    assert {file.name for file in files} == {path.name, path.name + "-wal", path.name + "-shm"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    await store.close()
    assert [file.name for file in path.parent.iterdir()] == [path.name], "closing copies the log into the file"


async def test_every_commit_is_synced_and_foreign_keys_hold(sqlite: SqliteDatabase) -> None:
    def pragmas(connection: Connection) -> dict[str, object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "query_only", "trusted_schema")
        return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names}

    expected = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000, "trusted_schema": 0}
    assert await sqlite.write(pragmas) == {**expected, "query_only": 0}
    assert await sqlite.read(pragmas) == {**expected, "query_only": 1}
    with pytest.raises(StoreError):
        sqlite.cold("DELETE FROM leases", ())


def test_a_directory_that_cannot_be_made_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as raised:
        open_sqlite(tmp_path / "file" / "x.db")
    assert raised.value.code == "store_unavailable"


# Outages, each with its code, and the way back


async def code_of(ask: object) -> str:
    with pytest.raises(StoreError) as raised:
        await ask  # type: ignore[misc]
    return raised.value.code


async def test_a_full_disk_is_store_full_reads_go_on_and_it_recovers(sqlite: SqliteDatabase) -> None:
    def fill(connection: Connection) -> None:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        for number in range(100):
            claim(f"{number}", "x" * 4000)(connection)

    await sqlite.write(claim("before"))
    assert await code_of(sqlite.write(fill)) == "store_full"
    assert await sqlite.read(count) == 1
    assert sqlite.cold("SELECT name FROM leases", ()) == [("before",)]
    assert await sqlite.write(claim("after"))


async def test_a_lock_held_by_another_is_store_busy_and_it_recovers(sqlite: SqliteDatabase, path: Path) -> None:
    await sqlite.write(lambda connection: connection.exec_driver_sql("PRAGMA busy_timeout = 0"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert await code_of(sqlite.write(claim("a"))) == "store_busy"
    assert await sqlite.read(count) == 0, "readers do not wait"
    assert sqlite.cold("SELECT count(*) FROM leases", ()) == [(0,)]
    other.execute("ROLLBACK")
    other.close()
    assert await sqlite.write(claim("a"))


async def test_a_read_only_store_is_an_outage_for_writes_alone(sqlite: SqliteDatabase) -> None:
    def write_where_nothing_can_be_written(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA query_only = ON")
        claim("b")(connection)

    await sqlite.write(claim("a"))
    assert await code_of(sqlite.write(write_where_nothing_can_be_written)) == "store_unavailable"
    assert await sqlite.read(count) == 1


async def test_a_file_that_vanished_is_an_outage_and_never_a_new_empty_database(
    sqlite: SqliteDatabase, path: Path
) -> None:
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)  # noqa: ASYNC240 - nobody else is on this loop
    assert await code_of(sqlite.write(claim("a"))) == "store_unavailable"
    assert await code_of(sqlite.read(count)) == "store_unavailable"
    assert await code_of(cold(sqlite)) == "store_unavailable"
    assert not path.exists()  # noqa: ASYNC240
    elsewhere.rename(path)
    assert await sqlite.write(claim("a"))
    assert await sqlite.read(count) == 1
    assert sqlite.cold("SELECT count(*) FROM leases", ()) == [(1,)]


async def test_a_file_that_is_no_database_is_an_outage(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    path.write_bytes(b"this is no database" * 1000)
    store = open_sqlite(path)
    for ask in (store.write(count), store.read(count), cold(store)):
        assert await code_of(ask) == "store_unavailable"
    await store.close()
    assert path.read_bytes() == b"this is no database" * 1000


async def test_a_connection_that_broke_is_replaced(sqlite: SqliteDatabase) -> None:
    def breaks(connection: Connection) -> None:
        claim("lost")(connection)
        driver = connection.connection.driver_connection
        assert driver is not None
        driver.close()
        claim("too late")(connection)

    assert await code_of(sqlite.write(breaks)) == "store_unavailable"
    assert await sqlite.write(count) == 0


async def test_a_transaction_that_the_driver_ended_by_itself_is_not_taken_for_committed(sqlite: SqliteDatabase) -> None:
    def ends(connection: Connection) -> None:
        claim("lost")(connection)
        connection.exec_driver_sql("ROLLBACK")

    assert await code_of(sqlite.write(ends)) == "store_unavailable"
    assert await sqlite.write(count) == 0


@pytest.mark.parametrize(
    ("sqlite_code", "code"),
    [
        (sqlite3.SQLITE_FULL, "store_full"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, "store_full"),
        (sqlite3.SQLITE_BUSY, "store_busy"),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, "store_busy"),
        (sqlite3.SQLITE_LOCKED, "store_busy"),
        (sqlite3.SQLITE_ERROR, "store_schema"),
        (sqlite3.SQLITE_READONLY_DBMOVED, "store_unavailable"),
        (sqlite3.SQLITE_IOERR_WRITE, "store_unavailable"),
        (sqlite3.SQLITE_CORRUPT, "store_unavailable"),
        (sqlite3.SQLITE_NOTADB, "store_unavailable"),
        (sqlite3.SQLITE_CANTOPEN, "store_unavailable"),
        (sqlite3.SQLITE_CONSTRAINT_UNIQUE, None),
    ],
)
def test_codes_of_sqlite_become_codes_of_ours(sqlite_code: int, code: str | None) -> None:
    error = sqlite3.OperationalError("database is locked, says the text, and nobody listens")
    error.sqlite_errorcode = sqlite_code
    found = store_error_of(error)
    assert (found.code if found else None) == code


def test_what_is_no_error_of_sqlite_is_no_outage() -> None:
    assert store_error_of(ValueError("database is locked")) is None


def test_a_single_transaction_needs_no_loop_and_has_the_same_codes(path: Path) -> None:
    assert write_once(path, claim("a"))

    def fails(connection: Connection) -> None:
        claim("b")(connection)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_once(path, fails)
    assert write_once(f"sqlite:///{path}", count) == 1
    with pytest.raises(StoreError) as raised:
        write_once(path, lambda connection: connection.exec_driver_sql("SELECT 1 FROM nothing"))
    assert raised.value.code == "store_schema"
    with pytest.raises(StoreError) as raised:
        write_once(path.with_name("missing"), count)
    assert raised.value.code == "store_unavailable"


# The queue


async def test_a_full_queue_refuses_at_once_and_recovers(path: Path) -> None:
    store = open_sqlite(path, most_waiting=3)
    gate = Gate(count)
    first = asyncio.create_task(store.write(gate))
    await gate.begun()
    waiting = [asyncio.create_task(store.write(claim(str(n)))) for n in range(5)]
    done, _ = await asyncio.wait(waiting, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
    assert done
    gate.open()
    await first
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [getattr(result, "code", result) for result in results] == [True] * 3 + ["store_busy"] * 2
    assert await store.write(claim("again"))
    await store.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_if_the_thread_ends_its_askers_are_told_and_the_next_starts_another(sqlite: SqliteDatabase) -> None:
    class Dying(Worker):
        dies = False

        def _next(self) -> object:  # type: ignore[override]
            if self.dies:
                raise SystemExit
            return super()._next()

    writer = sqlite._mine().writer
    worker = Dying("dying", writer._driver, most_waiting=9)
    gate = Gate(count)
    first = asyncio.create_task(worker.run(gate))
    await gate.begun()
    waiting = [asyncio.create_task(worker.run(claim(str(n)))) for n in range(3)]
    await asyncio.sleep(0)
    worker.dies = True
    gate.open()
    assert await first == 0
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [getattr(result, "code", result) for result in results] == ["store_unavailable"] * 3
    worker.dies = False
    assert await worker.run(claim("again"))
    worker.stop()


async def test_opening_starts_no_thread_and_closing_leaves_none(path: Path) -> None:
    others = set(threading.enumerate())  # an app that another test left open has threads, too

    def ours() -> list[str]:
        return [thread.name for thread in set(threading.enumerate()) - others if "garrison-store" in thread.name]

    store = open_sqlite(path)
    assert ours() == []
    await store.write(count)
    await store.read(count)
    assert len(ours()) == 2
    await store.close()
    assert ours() == []


# Several processes


WRITES = """
import asyncio, sys
from garrison.store.sqlite import open_sqlite
from tests.store.contract import claim

async def main():
    store = open_sqlite(sys.argv[1])
    number = 0
    while True:
        await store.write(claim(str(number)))
        print(number, flush=True)
        number += 1

asyncio.run(main())
"""


async def test_what_was_acknowledged_outlives_kill_9(path: Path, python: Python, sqlite: SqliteDatabase) -> None:
    process = python(WRITES)
    assert process.stdout is not None
    for _ in range(25):
        assert process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    last = 24 + len(process.stdout.readlines())
    assert process.wait(10) == -signal.SIGKILL
    names = {int(name) for (name,) in sqlite.cold("SELECT name FROM leases", ())}
    assert names >= set(range(last + 1))
    assert len(names) <= last + 2
    assert sqlite.cold("PRAGMA integrity_check", ()) == [("ok",)]
    assert await sqlite.write(claim("after"))


TAKES = """
import asyncio, sys
from garrison.core.durations import Limit
from garrison.store import counters
from garrison.store.sqlite import open_sqlite

async def main():
    store = open_sqlite(sys.argv[1])
    take = lambda connection: counters.take(connection, [(b"k", Limit(50, 1e6))], 1e9).admitted
    taken = await asyncio.gather(*(store.write(take) for _ in range(40)))
    await store.close()
    print(sum(taken))

asyncio.run(main())
"""


async def test_processes_on_one_file_share_one_count(python: Python) -> None:
    outputs = [process.communicate(timeout=60) for process in [python(TAKES) for _ in range(3)]]
    assert sum(int(out) for out, _ in outputs) == 50, outputs


FORKS = """
import asyncio, os, sys
from garrison.store.sqlite import open_sqlite
from tests.store.contract import claim, count

store = open_sqlite(sys.argv[1])
asyncio.run(store.write(claim("parent")))
store.cold("SELECT 1", ())
child = os.fork()
if child == 0:
    asyncio.run(store.write(claim("child")))
    assert store.cold("SELECT count(*) FROM leases", ()) == [(2,)]
    asyncio.run(store.close())
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
asyncio.run(store.write(claim("parent again")))
print(asyncio.run(store.read(count)))
asyncio.run(store.close())
"""


async def test_a_forked_child_has_connections_of_its_own(python: Python) -> None:
    out, errors = python(FORKS).communicate(timeout=60)
    assert out.strip() == "3", errors
