"""PostgreSQL keeps the contract, on a real server."""

import asyncio
import threading
from collections.abc import Iterator

import pytest

from garrison.core.errors import StoreError
from garrison.store import log
from garrison.store.database import Database
from garrison.store.migrate import HEAD, current, upgrade
from garrison.store.postgresql import check_address, open_postgresql
from tests.store.conftest import OpenStore
from tests.store.contract import DatabaseContract, claim, cold, count
from tests.store.postgresql import SERVER, database
from tests.store.table_contracts import CountersContract, TablesContract

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def migrated() -> Iterator[str]:
    with database() as url:
        upgrade(url)
        yield url


@pytest.fixture
def url(migrated: str) -> str:
    """An empty database with the tables in it."""

    async def empty() -> None:
        store = open_postgresql(migrated)
        names = await cold(
            store, "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'garrison_version'"
        )
        listed = ", ".join(name for (name,) in names)
        await store.write(lambda connection: connection.exec_driver_sql(f"TRUNCATE {listed} RESTART IDENTITY").rowcount)
        await store.close()

    asyncio.run(empty())
    return migrated


@pytest.fixture
def open_store(url: str) -> Iterator[OpenStore]:
    opened: list[Database] = []

    def open_one() -> Database:
        opened.append(open_postgresql(url))
        return opened[-1]

    yield open_one
    for store in opened:
        asyncio.run(store.close())


class TestDatabase(DatabaseContract):
    async def test_news_is_another_number_after_every_commit_and_else_the_same(self, open_store: OpenStore) -> None:
        """Only a query can tell here, so it is another number each time: whoever asks has to look."""
        store = open_store()
        assert len({store.news() for _ in range(5)}) == 5


class TestCounters(CountersContract):
    pass


class TestTables(TablesContract):
    pass


def test_addresses() -> None:
    for right in (
        "postgresql://a:b%40@h:5433/d?sslmode=require",
        "postgres://h/d",
        "postgresql://a@h1:5432,[::1]:5433,h3/d?target_session_attrs=read-write",
        "postgresql:///d?host=/run/postgresql",
    ):
        check_address(right)
    for wrong in (
        *("", "sqlite:///x.db", "postgresql://", "postgresql://h", "postgresql://h/", "mysql://h/d"),
        *("postgresql://h/d/e", "postgresql://a:b/c@h/d", "postgresql://h:port/d", "postgresql://h/d?sslmode=on"),
        *("postgresql://h/d?target_session_attrs=writable", "postgresql://h/d#x"),
    ):
        with pytest.raises(ValueError, match="write postgresql://"):
            check_address(wrong)


def test_of_ten_that_migrate_at_once_one_does() -> None:
    with database() as url:
        assert current(url) is None
        failures: list[BaseException] = []

        def migrate() -> None:
            try:
                upgrade(url)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=migrate) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failures == []
        assert current(url) == HEAD


async def test_a_server_that_is_not_there_is_an_outage_and_names_no_password() -> None:
    store = open_postgresql("postgresql://someone:hidden-word@127.0.0.1:1/nothing")
    for ask in (store.write(count), store.read(count), cold(store)):
        with pytest.raises(StoreError) as raised:
            await ask
        assert raised.value.code == "store_unavailable"
        assert "hidden-word" not in repr(raised.value)
    await store.close()


async def test_a_database_that_is_not_there_is_an_outage(url: str) -> None:
    store = open_postgresql(f"{SERVER}/no_such_database")
    for ask in (store.write(count), store.read(count), cold(store)):
        with pytest.raises(StoreError) as raised:
            await ask
        assert raised.value.code == "store_unavailable"
    await store.close()


async def test_connections_that_the_server_ends_are_made_anew(open_store: OpenStore) -> None:
    store, other = open_store(), open_store()
    await store.write(claim("a"))
    await store.read(count)
    await cold(store)
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await other.write(lambda connection: connection.exec_driver_sql(end).rowcount)
    for ask in (lambda: store.write(count), lambda: store.read(count), lambda: cold(store)):
        for attempt in range(4):
            try:
                assert await ask() in (1, [(1,)])
                break
            except StoreError:
                assert attempt < 3, "it goes on by itself"


async def test_a_change_that_is_held_open_is_not_lost_behind_later_ones(open_store: OpenStore) -> None:
    """Numbers are given in the order of commits, so a cursor passes over nothing, however long one takes."""
    slow, fast, reader = open_store(), open_store(), open_store()
    begun, may_end = threading.Event(), threading.Event()

    def held(connection: object) -> None:
        log.append(connection, "account", "held", 1, 1.0)  # type: ignore[arg-type]
        begun.set()
        assert may_end.wait(10)

    holding = asyncio.create_task(slow.write(held))
    assert await asyncio.to_thread(begun.wait, 10)
    later = [
        asyncio.create_task(
            fast.write(lambda connection, n=n: log.append(connection, "account", f"later {n}", 1, 1.0))  # type: ignore[misc]
        )
        for n in range(100)
    ]
    await asyncio.sleep(0.3)
    assert await cold(reader, log.READ_AFTER, (0, 1000)) == []
    may_end.set()
    await asyncio.gather(holding, *later)
    seen = [subject for _, _, subject, _ in await cold(reader, log.READ_AFTER, (0, 1000))]
    assert seen == ["held", *(f"later {n}" for n in range(100))]
