"""What every store keeps, whatever it is made of. A suite subclasses this and overrides `open_store` (conftest)."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Connection, func, insert, select

from garrison.core.errors import Denied, GarrisonError, StoreError
from garrison.store import log
from garrison.store.database import Database, News
from garrison.store.leases import leases
from garrison.store.statements import insert_new
from tests.store.conftest import OpenStore

COUNT = "SELECT count(*) FROM leases"


def claim(name: str, holder: str = "") -> Callable[[Connection], bool]:
    """A small write of which one can win: a row under a name."""

    def work(connection: Connection) -> bool:
        return insert_new(connection, leases, {"name": name, "holder": holder, "expires_at": 1.0}, unique=("name",))

    return work


def changed(version: int) -> Callable[[Connection], None]:
    """A write that others have to hear of."""
    return lambda connection: log.append(connection, "account", "a", version, 1.0)


def count(connection: Connection) -> int:
    return int(connection.execute(select(func.count()).select_from(leases)).scalar_one())


async def cold(store: Database, sql: str = COUNT, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    rows = store.cold(sql, parameters)
    return rows if isinstance(rows, list) else await rows


async def news(store: Database) -> News:
    told = store.news()
    return told if isinstance(told, News) else await told


class Gate:
    """Work that stops half-way until it is let on, so that a test decides what happens meanwhile."""

    def __init__(self, work: Callable[[Connection], Any]) -> None:
        self._work = work
        self._begun, self._may_end = threading.Event(), threading.Event()

    def __call__(self, connection: Connection) -> Any:
        result = self._work(connection)
        self._begun.set()
        assert self._may_end.wait(10)
        return result

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, 10)

    def open(self) -> None:
        self._may_end.set()


class DatabaseContract:
    @pytest.mark.parametrize("text", ["a\x00", "\ud800"])
    async def test_what_some_store_cannot_hold_is_an_error_of_whoever_sent_it(self, store: Database, text: str) -> None:
        holders = select(leases.c.holder).where(leases.c.name == text)
        for ask in (store.write, store.read):
            with pytest.raises(Denied) as caught:
                await ask(lambda connection: connection.execute(holders).all())
            assert caught.value.code == "bad_request"
        for name, holder in ((text, ""), ("kept", text)):
            with pytest.raises(Denied):
                await store.write(claim(name, holder))
        rows = [{"name": one, "holder": "", "expires_at": 1.0} for one in ("fine", text)]
        with pytest.raises(Denied):
            await store.write(lambda connection: connection.execute(insert(leases), rows))
        assert await store.read(count) == 0
        assert await store.write(claim("\N{SNOWMAN}", "\U0001f600"))

    async def test_what_is_written_is_seen_by_every_way_to_read_and_by_others(self, open_store: OpenStore) -> None:
        here, there = open_store(), open_store()
        assert await there.read(count) == 0
        assert await here.write(claim("a")) is True
        for store in (here, there):
            assert await store.read(count) == 1
            assert await cold(store) == [(1,)]
        assert await cold(there, "SELECT name FROM leases WHERE name = ? AND expires_at = ?", ("a", 1.0)) == [("a",)]

    @pytest.mark.parametrize(
        "error", [ValueError("x"), GarrisonError("x"), Denied("rate_limited"), StoreError("store_busy"), SystemExit(3)]
    )
    async def test_what_the_work_raises_is_raised_and_nothing_is_written(
        self, store: Database, error: BaseException
    ) -> None:
        def work(connection: Connection) -> None:
            claim("a")(connection)
            raise error

        with pytest.raises(type(error)) as raised:
            await store.write(work)
        assert raised.value is error
        assert await store.read(count) == 0
        assert await store.write(claim("a")), "the store goes on"

    async def test_work_that_raises_stop_iteration_does_not_hang_its_asker(self, store: Database) -> None:
        with pytest.raises(RuntimeError):
            await store.write(lambda connection: next(iter(())))

    async def test_a_violated_constraint_is_no_outage_and_writes_nothing(self, store: Database) -> None:
        def work(connection: Connection) -> None:
            claim("a")(connection)
            connection.execute(leases.insert().values(name="a", holder="secret-of-a-parameter", expires_at=1.0))

        with pytest.raises(Exception) as raised:  # noqa: PT011 - which one is the driver's own
            await store.write(work)
        assert not isinstance(raised.value, GarrisonError)
        assert "secret-of-a-parameter" not in str(raised.value)
        assert await store.read(count) == 0

    async def test_of_many_that_insert_the_same_exactly_one_wins(self, open_store: OpenStore) -> None:
        stores = [open_store(), open_store()]
        won = await asyncio.gather(*(stores[n % 2].write(claim("a", f"h{n}")) for n in range(40)))
        assert won.count(True) == 1
        assert await cold(stores[0], "SELECT holder FROM leases") == [(f"h{won.index(True)}",)]

    async def test_writers_exclude_each_other_from_look_to_change(self, open_store: OpenStore) -> None:
        stores = [open_store(), open_store()]

        def one_more(connection: Connection) -> None:
            claim(str(count(connection)))(connection)

        await asyncio.gather(*(stores[n % 2].write(one_more) for n in range(60)))
        assert await stores[0].read(count) == 60

    async def test_a_read_sees_one_moment(self, open_store: OpenStore) -> None:
        store, other = open_store(), open_store()
        gate = Gate(count)

        def twice(connection: Connection) -> tuple[int, int]:
            return gate(connection), count(connection)

        reading = asyncio.create_task(store.read(twice))
        await gate.begun()
        await other.write(claim("a"))
        await store.write(claim("b"))
        gate.open()
        assert await reading == (0, 0)
        assert await store.read(count) == 2

    async def test_a_read_cannot_write(self, store: Database) -> None:
        with pytest.raises(StoreError):
            await store.read(claim("a"))
        assert await store.read(count) == 0

    async def test_a_missing_table_is_a_schema_error(self, store: Database) -> None:
        for ask in (
            store.read(lambda connection: connection.exec_driver_sql("SELECT 1 FROM nothing")),
            store.write(lambda connection: connection.exec_driver_sql("SELECT 1 FROM nothing")),
            cold(store, "SELECT 1 FROM nothing"),
        ):
            with pytest.raises(StoreError) as raised:
                await ask
            assert raised.value.code == "store_schema"
        assert await store.read(count) == 0, "and the connections go on"

    async def test_a_caller_that_is_cancelled_leaves_a_whole_transaction(self, store: Database) -> None:
        gate = Gate(lambda connection: (claim("a")(connection), claim("b")(connection)))
        writing = asyncio.create_task(store.write(gate))
        await gate.begun()
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        gate.open()
        assert await store.write(count) == 2

    async def test_what_is_cancelled_before_its_turn_never_begins(self, store: Database) -> None:
        gate = Gate(count)
        first = asyncio.create_task(store.write(gate))
        await gate.begun()
        second = asyncio.create_task(store.write(claim("a")))
        await asyncio.sleep(0)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        gate.open()
        await first
        assert await store.write(count) == 0

    async def test_cancelling_at_random_leaves_pairs_or_nothing(self, store: Database) -> None:
        def pair(number: int) -> Callable[[Connection], bool]:
            return lambda connection: claim(f"{number}a")(connection) and claim(f"{number}b")(connection)

        tasks = [asyncio.create_task(store.write(pair(number))) for number in range(60)]
        for number, task in enumerate(tasks):
            if number % 3:
                await asyncio.wait({task}, timeout=0.0005 if number % 2 else 0)
                task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await store.write(count)
        names = {name for (name,) in await cold(store, "SELECT name FROM leases")}
        for number, result in enumerate(results):
            assert (f"{number}a" in names) == (f"{number}b" in names)
            assert result is not True or f"{number}a" in names

    async def test_news_is_another_number_after_every_change_and_else_the_same(self, open_store: OpenStore) -> None:
        here, there = open_store(), open_store()
        before = await news(here)
        assert (await news(here))[:2] == before[:2]
        await here.read(count)
        await cold(here)
        assert (await news(here))[:2] == before[:2]
        seen = {before.state}
        for number, store in enumerate((here, there, here, there)):
            await store.write(changed(number))
            seen.add((await news(here)).state)
        assert len(seen) == 5
        assert before.history == (await news(here)).history

    async def test_news_tells_the_store_s_time(self, open_store: OpenStore) -> None:
        assert abs((await news(open_store())).at_s - time.time()) < 5

    async def test_a_closed_store_refuses_and_closing_again_is_fine(self, store: Database) -> None:
        await store.write(claim("a"))
        await store.close()
        await store.close()
        for ask in (store.write, store.read):
            with pytest.raises(StoreError) as raised:
                await ask(count)
            assert raised.value.code == "store_unavailable"
        with pytest.raises(StoreError):
            await cold(store)
        with pytest.raises(StoreError):
            await news(store)

    async def test_closing_finishes_what_is_under_way_and_refuses_what_waits(
        self, store: Database, open_store: OpenStore
    ) -> None:
        gate = Gate(claim("a"))
        first = asyncio.create_task(store.write(gate))
        await gate.begun()
        waiting = [asyncio.create_task(store.write(claim(f"b{n}"))) for n in range(10)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(store.close())
        await asyncio.sleep(0)
        gate.open()
        await closing
        assert await first is True
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, StoreError) for result in results)
        assert await open_store().read(count) == 1

    def test_one_store_serves_many_event_loops(self, store: Database) -> None:
        """As TestClient does: a new loop for each request, and several at once in threads."""
        for number in range(5):
            assert asyncio.run(store.write(claim(f"one by one {number}")))
        failures: list[BaseException] = []

        def loop(name: str) -> None:
            async def ask() -> None:
                for number in range(20):
                    assert await store.write(claim(f"{name} {number}"))
                    assert await cold(store, "SELECT count(*) FROM leases WHERE name = ?", (f"{name} {number}",)) == [
                        (1,)
                    ]
                    await store.read(count)
                    await news(store)

            try:
                asyncio.run(ask())
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=loop, args=(f"thread {n}",)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert failures == []
        assert asyncio.run(store.read(count)) == 85

    async def test_a_loop_that_is_gone_before_its_answer_disturbs_nobody(self, store: Database) -> None:
        gate = Gate(claim("a"))

        def leave() -> None:
            loop = asyncio.new_event_loop()
            asking = loop.create_task(store.write(gate))
            loop.run_until_complete(gate.begun())
            asking.cancel()
            loop.run_until_complete(asyncio.wait({asking}))
            loop.close()

        await asyncio.to_thread(leave)
        gate.open()
        assert await store.write(count) == 1

    async def test_the_log_is_read_in_the_order_of_commits_by_everyone(self, open_store: OpenStore) -> None:
        """A reader that follows its cursor while two stores append misses nothing, whoever wrote it."""
        stores = [open_store(), open_store()]
        reader = open_store()
        total, position = 120, 0
        seen: list[tuple[int, int]] = []

        async def append(number: int) -> None:
            await stores[number % 2].write(
                lambda connection: log.append(connection, "account", f"a{number}", number, 1.0)
            )

        appending = asyncio.gather(*(append(number) for number in range(total)))
        while len(seen) < total:
            done = appending.done()
            rows = await cold(reader, log.READ_AFTER, (position, 7))
            for position, _kind, subject, version in rows:
                assert subject == f"a{version}"
                seen.append((position, version))
            assert rows or not done, "something committed behind the cursor"
            await asyncio.sleep(0)
        await appending
        assert seen == sorted(seen)
        assert {version for _, version in seen} == set(range(total))
