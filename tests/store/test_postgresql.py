"""PostgreSQL keeps the contract, on a real server."""

import asyncio
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from garrison.core.errors import StoreError
from garrison.store import log
from garrison.store.migrate import HEAD, current, ensure_schema, upgrade
from garrison.store.postgresql import open_postgresql
from garrison.store.postgresql_aside import MOST_CONNECTIONS
from garrison.store.postgresql_link import check_address
from tests.store.conftest import OpenStore
from tests.store.contract import DatabaseContract, claim, cold, count, news
from tests.store.postgresql import database, empty, server, stores
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

    empty(migrated)
    return migrated


@pytest.fixture
def open_store(url: str) -> Iterator[OpenStore]:
    with stores(url) as open_one:
        yield open_one


class TestDatabase(DatabaseContract):
    pass


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
        *(f"postgresql://h/d?target_session_attrs={lags}" for lags in ("standby", "prefer-standby", "read-only")),
    ):
        with pytest.raises(ValueError, match="write postgresql://"):
            check_address(wrong)


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("postgresql://a:pa@ss@h/d", "%40"),
        ("postgresql://h", "names no database"),
        ("postgresql://h/d?sslmod=require", "sslmod"),
        ("postgresql://h/d?sslmode=on", "verify-full"),
    ],
)
def test_what_is_wrong_with_an_address_is_said_without_it(address: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        check_address(address)
    assert "pa@ss" not in str(caught.value)


def test_a_part_of_a_password_is_no_option() -> None:
    with pytest.raises(ValueError, match="write postgresql://") as caught:
        check_address("postgresql://garrison:123/x?topsecret@db/garrison")
    assert "topsecret" not in str(caught.value)


def test_another_encoding_is_refused_wherever_it_is_opened() -> None:
    with database(template="template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'") as url:
        for work in (partial(upgrade, url), partial(ensure_schema, url, migrate=True)):
            with pytest.raises(StoreError, match="UTF8") as caught:
                work()
            assert caught.value.code == "store_schema"

        async def read() -> None:
            store = open_postgresql(url)
            with pytest.raises(StoreError, match="UTF8"):
                await store.read(lambda connection: connection)
            with pytest.raises(StoreError):
                await store.cold("SELECT 1", ())
            await store.close()

        asyncio.run(read())


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
    store = open_postgresql(f"{server()}/no_such_database")
    for ask in (store.write(count), store.read(count), cold(store)):
        with pytest.raises(StoreError) as raised:
            await ask
        assert raised.value.code == "store_unavailable"
    await store.close()


async def test_connections_that_the_server_ended_while_they_lay_idle_cost_nobody_anything(
    open_store: OpenStore,
) -> None:
    store, other = open_store(), open_store()
    await store.write(claim("a"))
    await store.read(count)
    await store.read(count)
    await cold(store)
    end = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await other.write(lambda connection: connection.exec_driver_sql(end).rowcount)
    for ask in (store.write, store.read, store.read):
        assert await ask(count) == 1
    assert await cold(store) == [(1,)]


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


async def test_who_listens_is_woken_by_a_change_and_after_a_connection_was_lost(open_store: OpenStore) -> None:
    here, there = open_store(), open_store()
    woken = threading.Semaphore(0)

    async def is_woken() -> bool:
        return await asyncio.to_thread(woken.acquire, True, 5)

    here.listen(woken.release)
    assert await is_woken(), "once it hears"
    await there.write(claim("no change"))
    await there.write(lambda connection: log.append(connection, "account", "a", 1, 1.0))
    assert await is_woken()
    assert not woken.acquire(blocking=False), "one change, one call"
    ended = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = current_database()"
    assert await cold(there, f"{ended} AND query LIKE 'LISTEN%'") == [(1,)]
    assert await is_woken(), "something may have been missed"
    await there.write(lambda connection: log.append(connection, "account", "a", 2, 1.0))
    assert await is_woken()


async def test_a_lost_connection_that_lay_idle_costs_a_read_nothing_and_begins_another_history(
    open_store: OpenStore,
) -> None:
    store, other = open_store(), open_store()
    before = await news(store)
    await asyncio.gather(*(cold(store, "SELECT pg_sleep(0.05)") for _ in range(8)))
    end = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    [(ended,)] = await cold(other, end)
    assert ended == 8
    assert await cold(store) == [(0,)]
    assert (await news(store)).history != before.history


async def test_an_asker_who_leaves_costs_no_connection(open_store: OpenStore) -> None:
    store = open_store()
    [(process,)] = await cold(store, "SELECT pg_backend_pid()")
    for _ in range(20):
        asked = asyncio.ensure_future(cold(store))
        await asyncio.sleep(0.001)
        asked.cancel()
    await asyncio.sleep(0.2)
    processes = {(await cold(store, "SELECT pg_backend_pid()"))[0][0] for _ in range(3)}
    assert len(processes) == 1
    found = await cold(
        store, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid = ?", (process,)
    )
    assert found == [(1,)]


async def test_however_many_ask_the_log_is_read_and_news_are_heard(open_store: OpenStore) -> None:
    """A flood of unknown credentials must not make this process deaf: all that it knows would become cold as well."""
    store = open_store()
    assert (await news(store)).state == 0
    flood = [asyncio.ensure_future(cold(store, "SELECT pg_sleep(0.8)", ())) for _ in range(4 * MOST_CONNECTIONS)]
    await asyncio.sleep(0)
    assert (await news(store)).state == 0
    assert await cold(store, log.READ_AFTER, (0, 10)) == []
    assert not any(one.done() for one in flood)
    await asyncio.gather(*flood, return_exceptions=True)
