"""Counters in Redis: exact over turns, connections and nodes, by Redis's own clock, and gone when they are empty."""

import asyncio
from collections.abc import Iterator, Sequence

import pytest

from bench.redis_server import RedisServer
from garrison.core.durations import Limit
from garrison.store.redis import Connection
from garrison.store.redis_counters import MOST_HITS, Quota, Turn, beat, bulk, leave
from tests.store.redis_rig import Watched, private_redis

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("patient")]
DAY = 86_400.0


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


@pytest.fixture(autouse=True)
def empty(server: RedisServer) -> None:
    server.ask("FLUSHALL")


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("garrison.store.redis.ANSWER_S", 5.0)


class Node:
    """One connection, and what came of its hits: futures of µs, None where Redis did not say."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.turn: Turn[asyncio.Future[int | None]] = Turn(connection, self._settle)

    def take(self, key: bytes, limit: Limit, hits: int = 1) -> "asyncio.Future[int | None]":
        future: asyncio.Future[int | None] = self.connection.loop.create_future()
        self.turn.take(bulk(key), Quota(limit).asked(hits), future)
        return future

    def _settle(self, futures: "Sequence[asyncio.Future[int | None]]", lefts: Sequence[int] | None) -> None:
        for number, future in enumerate(futures):
            future.set_result(None if lefts is None else lefts[number])


def admitted(lefts: Sequence[int | None]) -> int:
    return sum(left is not None and left >= 0 for left in lefts)


@pytest.mark.parametrize("limit", [Limit(1, DAY), Limit(7, DAY), Limit(100, DAY), Limit(999, DAY + 0.1)])
async def test_a_burst_is_the_count_to_the_hit_in_one_turn(server: RedisServer, limit: Limit) -> None:
    redis = Watched(server.url)
    node = Node(await redis.opened())
    lefts = await asyncio.gather(*(node.take(b"k", limit) for _ in range(limit.count + 9)))
    assert admitted(lefts[: limit.count]) == limit.count
    assert admitted(lefts[limit.count :]) == 0
    assert lefts[limit.count - 1] is not None
    assert abs(lefts[limit.count - 1] or 0) < 60e6, "the last one leaves nothing but what has drained since"
    await redis.close()


async def test_hits_on_several_keys_in_one_turn_are_counted_apart(server: RedisServer) -> None:
    redis = Watched(server.url)
    node = Node(await redis.opened())
    keys = [b"a", b"b", b"a", b"c", b"a", b"b"] * 3
    lefts = await asyncio.gather(*(node.take(key, Limit(4, DAY)) for key in keys))
    for key, expected in ((b"a", 4), (b"b", 4), (b"c", 3)):
        assert admitted([left for one, left in zip(keys, lefts, strict=True) if one == key]) == expected
    await redis.close()


async def test_one_turn_is_one_call_and_a_long_one_a_few(server: RedisServer) -> None:
    redis = Watched(server.url)
    node = Node(await redis.opened())
    await node.take(b"k", Limit(10**6, DAY))  # so that the script is there
    server.ask("CONFIG", "RESETSTAT")
    await asyncio.gather(*(node.take(b"k", Limit(10**6, DAY)) for _ in range(3 * MOST_HITS + 1)))
    assert "cmdstat_evalsha:calls=4," in server.ask("INFO", "commandstats")
    await redis.close()


async def test_nodes_that_ask_at_once_are_admitted_no_more_than_the_limit(server: RedisServer) -> None:
    nodes = [Watched(server.url) for _ in range(4)]
    asked = [Node(await one.opened()) for one in nodes]

    async def ask(node: Node) -> int:
        total = 0
        for _ in range(20):
            total += admitted(await asyncio.gather(*(node.take(b"k", Limit(500, DAY)) for _ in range(16))))
        return total

    assert sum(await asyncio.gather(*map(ask, asked))) == 500
    for one in nodes:
        await one.close()


async def test_hits_taken_together_are_all_or_none(server: RedisServer) -> None:
    redis = Watched(server.url)
    node = Node(await redis.opened())
    limit = Limit(10, DAY)
    asked = [node.take(b"k", limit, hits) for hits in (4, 7, 6, 1)]
    assert [admitted([left]) for left in await asyncio.gather(*asked)] == [1, 0, 1, 0]
    await redis.close()


async def test_a_refusal_says_when_and_moves_nothing(server: RedisServer) -> None:
    redis = Watched(server.url)
    node = Node(await redis.opened())
    limit = Limit(2, 2000)
    await asyncio.gather(*(node.take(b"k", limit) for _ in range(2)))
    before = server.ask("GET", "k")
    for left in await asyncio.gather(*(node.take(b"k", limit) for _ in range(50))):
        assert left is not None
        assert -1000e6 <= left < -900e6
    assert server.ask("GET", "k") == before
    await redis.close()


async def test_a_script_that_was_flushed_is_sent_again_and_the_hits_count_once(server: RedisServer) -> None:
    redis = Watched(server.url)
    node = Node(await redis.opened())
    limit = Limit(6, DAY)
    found: list[int | None] = []
    for _ in range(4):
        server.ask("SCRIPT", "FLUSH")
        found += await asyncio.gather(*(node.take(b"k", limit) for _ in range(2)))
    assert [admitted([one]) for one in found] == [1] * 6 + [0] * 2
    assert redis.told == []
    await redis.close()


async def test_a_counter_is_gone_when_it_is_empty(server: RedisServer) -> None:
    redis = Watched(server.url)
    node = Node(await redis.opened())
    await asyncio.gather(*(node.take(b"k", Limit(100, 6000)) for _ in range(3)))
    assert 170_000 < int(server.ask("PTTL", "k")[1:]) <= 180_000
    await node.take(b"short", Limit(1000, 1))
    await asyncio.sleep(0.02)
    assert server.ask("EXISTS", "short") == ":0\r\n"
    await redis.close()


@pytest.mark.parametrize("stored", ["", "nan", "inf", "1e300"], ids=["an hour ahead", "nan", "inf", "1e300"])
async def test_a_clock_that_was_set_back_locks_nobody_out_and_resets_nothing(server: RedisServer, stored: str) -> None:
    redis = Watched(server.url)
    node = Node(await redis.opened())
    limit = Limit(5, 50)
    assert (await node.take(b"k", limit)) is not None
    seconds = int((await node.connection.call("TIME"))[0])
    server.ask("SET", "k", stored or str((seconds + 3600) * 1_000_000))  # as after a step of an hour back
    for _ in range(2):
        left = await node.take(b"k", limit)
        assert left is not None
        assert -10.1e6 < left < 0, "a full burst from now, which drains as ever; nodes believe the first answer"
    await redis.close()


@pytest.mark.parametrize(("count", "period_s"), [(7, 60), (3, 1), (10**8, 60), (1, 4e9 - 1), (999_999_999, 1)])
def test_an_interval_is_rounded_up_and_the_burst_holds_the_count(count: int, period_s: float) -> None:
    quota = Quota(Limit(count, period_s))
    assert quota.interval_us * count >= period_s * 1e6, "never faster than it was asked for"
    assert (quota.interval_us - 1) * count < period_s * 1e6
    assert quota.burst_us == quota.interval_us * count
    assert quota.burst_us + 4e15 < 2**53


async def test_where_redis_does_not_say_everybody_is_told_so(server: RedisServer) -> None:
    redis = Watched(server.url)
    node = Node(await redis.opened())
    server.ask("LPUSH", "k", "no counter")
    assert await asyncio.gather(*(node.take(key, Limit(5, 60)) for key in (b"a", b"k"))) == [None, None]
    assert not node.connection.is_open
    assert await node.take(b"a", Limit(5, 60)) is None, "later ones, too"
    await redis.close()


@pytest.mark.parametrize("reply", [b"*1\r\n-ERR no\r\n", b"*1\r\n$1\r\n5\r\n", b"*1\r\n*0\r\n", b":5\r\n"])
async def test_a_reply_of_another_kind_is_no_count(reply: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while asked := await reader.read(4096):
            writer.write(b"+PONG\r\n" if b"PING" in asked else reply)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as fake:
        redis = Watched(f"redis://127.0.0.1:{fake.sockets[0].getsockname()[1]}")
        node = Node(await redis.opened())
        async with asyncio.timeout(5):
            assert await node.take(b"a", Limit(5, 60)) is None
        assert not node.connection.is_open
        await redis.close()


async def test_who_lives_is_known_and_so_is_whether_all_was_forgotten(server: RedisServer) -> None:
    redis = Watched(server.url)
    connection = await redis.opened()

    async def beats(member: str) -> tuple[bytes, int]:
        return await beat(connection, b"m", member, b"mark", lifetime_s=60)

    mark, members = await beats("one")
    assert members == 1
    assert await beats("two") == (mark, 2)
    assert await beats("one") == (mark, 2)
    await leave(connection, b"m", "two")
    assert await beats("one") == (mark, 1)
    server.ask("ZADD", "m", "1000000", "long ago")
    assert await beats("one") == (mark, 1)
    server.ask("FLUSHALL")
    another, members = await beats("one")
    assert (another != mark, members) == (True, 1)
    assert await beats("two") == (another, 2), "everybody sees it"
    assert 50_000 < int(server.ask("PTTL", "m")[1:]) <= 60_000
    assert int(server.ask("PTTL", "mark")[1:]) > 86_000_000
    await redis.close()
