"""Limits that all nodes share: the same in memory and in Redis, and held when Redis is away, empty or far."""

import asyncio
import gc
import re
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bench.redis_server import RedisServer
from garrison import allow, public
from garrison.core.durations import Limit
from garrison.core.sealing import Sealer
from garrison.guard.endpoint import Endpoint
from garrison.guard.limit_table import LimitTable
from garrison.guard.limiter import Limits, left_of
from garrison.guard.limits import AGGREGATE_FACTOR, address_layer, api_limit_check, endpoint_limit, route_limit, settled
from garrison.guard.settings import GuardSettings
from garrison.guard.shared_limits import SharedLimiter, SharedLimits
from garrison.policy.rules import Rule
from garrison.store.redis import redis_address
from tests.guard.chained import PRODUCTION, Rig, opened
from tests.guard.test_limits import DEVELOPMENT, account, decision, make, nothing, on, route_of
from tests.store.redis_rig import private_redis, within

pytestmark = pytest.mark.anyio
SECRET = b"s" * 32
HOUR = Limit(5, 3600)
ENDPOINT = Endpoint("POST", "/auth/sign-up", public, nothing, "", limit=Limit(2, 3600))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with private_redis() as server:
        yield server


@pytest.fixture
def private() -> Iterator[RedisServer]:
    """One for faults."""
    with private_redis() as server:
        yield server


@pytest.fixture(autouse=True)
def patient(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Replies may take their time but in tests of faults: where the machine is busy, deadlines are not the subject."""
    if "private" not in request.fixturenames:
        monkeypatch.setattr("garrison.store.redis.ANSWER_S", 5.0)
        request.getfixturevalue("server").ask("FLUSHALL")


@asynccontextmanager
async def shared(server: RedisServer, *, secret: bytes = SECRET, lease: int = 0) -> AsyncIterator[SharedLimits]:
    """Give what one process has."""
    limits = SharedLimits(redis_address(server.url), Sealer([secret]), lease=lease)
    assert await limits.open(wait_s=5.0)
    yield limits
    await limits.close()


async def taken(limiter: SharedLimiter, key: str, tries: int, now: float = 1000.0) -> int:
    """Ask so many times in one turn; return how often it was admitted."""
    return sum(left >= 0.0 for left in await asyncio.gather(*(left_of(limiter.take(key, now)) for _ in range(tries))))


async def until_lost(limits: SharedLimits) -> None:
    for _ in within(10):
        if limits.redis.is_lost:
            return
        await asyncio.sleep(0.005)


async def until_back(limits: SharedLimits) -> None:
    for _ in within(10):
        if not limits.redis.is_lost and limits.redis.connection() is not None:
            return
        await asyncio.sleep(0.005)


# As in memory

STEP = st.one_of(st.integers(0, 4), st.lists(st.sampled_from("abc"), min_size=1, max_size=6))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.integers(1, 5), st.lists(STEP, max_size=25))
def test_it_decides_as_memory_does(server: RedisServer, count: int, steps: list[int | list[str]]) -> None:
    """Hits of one turn, and time: Redis's own cannot be set, so passing time is taken off what it has stored.

    Intervals are 100 s and time passes in halves of it and a bit, so the milliseconds that really pass decide nothing.
    """
    limit = Limit(count, count * 100.0)

    async def compare() -> None:
        server.ask("FLUSHALL")
        memory = LimitTable().limiter(limit)
        async with shared(server) as limits:
            limiter = limits.limiter(limit, name="compared")
            connection = limits.redis.connection()
            assert connection is not None
            now = 1000.0
            for step in steps:
                if isinstance(step, int):
                    passed_s = step * 50.0 + 5.0
                    now += passed_s
                    for key in await connection.call("KEYS", "garrison:*[0-9a-f]"):
                        if not key.endswith(b"members"):
                            tat = int(await connection.call("GET", key) or 0)
                            await connection.call("SET", key, tat - int(passed_s * 1e6), "KEEPTTL")
                    continue
                expected = [memory.take(key, now) for key in step]
                found = await asyncio.gather(*(left_of(limiter.take(key, now)) for key in step))
                assert [left >= 0.0 for left in found] == [left >= 0.0 for left in expected]
                assert found == pytest.approx(expected, abs=4.0)

    asyncio.run(compare())


async def test_what_is_told_is_what_memory_tells(server: RedisServer) -> None:
    async with shared(server) as limits:
        limiter, memory = limits.limiter(HOUR, name="x"), LimitTable().limiter(HOUR)
        assert limiter.limit == memory.limit == HOUR
        assert limiter.most_s == memory.most_s
        lefts = [await left_of(limiter.take("a", 0.0)) for _ in range(5)]
        assert [limiter.remaining(left) for left in lefts] == [4, 3, 2, 1, 0]


# Shared by all nodes, and by nobody else


async def test_nodes_share_one_limit_to_the_hit(server: RedisServer) -> None:
    async with shared(server) as one, shared(server) as two, shared(server) as three:
        limiters = [node.limiter(Limit(100, 3600), name="x", share=3) for node in (one, two, three)]
        assert sum(await asyncio.gather(*(taken(each, "key", 90) for each in limiters))) == 100


async def test_limits_of_another_name_figure_or_secret_do_not_meet(server: RedisServer) -> None:
    async with shared(server) as one, shared(server, secret=b"t" * 32) as other:
        limiters = [
            one.limiter(HOUR, name="x"),
            one.limiter(HOUR, name="y"),
            one.limiter(Limit(5, 3601), name="x"),
            one.limiter(Limit(6, 3600), name="x"),
            other.limiter(HOUR, name="x"),
        ]
        assert [await taken(limiter, "key", 9) for limiter in limiters] == [5, 5, 5, 6, 5]
        assert await taken(one.limiter(HOUR, name="x"), "key", 9) == 0, "the same one, asked for again"


async def test_redis_is_told_nothing_of_whom_is_counted(server: RedisServer) -> None:
    async with shared(server) as limits:
        limiter = limits.limiter(HOUR, name="canary-name")
        for key in ("192.0.2.77", "2001:db8:77::/64", "acc_canary", "foreign https://canary.example canary"):
            await left_of(limiter.take(key, 0.0))
        connection = limits.redis.connection()
        assert connection is not None
        kept: list[bytes] = []
        for key in await connection.call("KEYS", "*"):
            assert key.startswith(b"garrison:")
            kind = await connection.call("TYPE", key)
            kept += [
                key,
                *(
                    await connection.call("ZRANGE", key, 0, -1)
                    if kind == b"zset"
                    else [await connection.call("GET", key)]
                ),
            ]
        assert len(kept) == 2 * 4 + 2 + 2, "four counters, who lives, and the mark"
        for canary in (b"canary", b"192.0.2", b"2001:db8", b"c0000"):
            assert not [one for one in kept if canary in one]


# What was refused


async def test_what_was_refused_is_not_asked_again_before_it_would_be_admitted(server: RedisServer) -> None:
    async with shared(server) as limits:
        limiter = limits.limiter(Limit(5, 50), name="x")
        assert await taken(limiter, "key", 9, now=1000.0) == 5
        server.ask("CONFIG", "RESETSTAT")
        for tenths in range(95):
            left = limiter.take("key", 1000.0 + tenths / 10)
            assert isinstance(left, float), "there at once"
            assert left == pytest.approx(tenths / 10 - 10.0, abs=1.0)
        assert "cmdstat_evalsha" not in server.ask("INFO", "commandstats")
        asked = limiter.take("key", 1011.0)
        assert not isinstance(asked, float)
        await asked


async def test_keys_that_are_known_are_bounded(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("garrison.guard.shared_limits.MOST_KNOWN", 50)
    async with shared(server) as limits:
        limiters = [limits.limiter(HOUR, name=name) for name in "xyz"]
        for number in range(300):
            await left_of(limiters[number % 3].take(f"flood {number}", 0.0))
            assert sum(len(one._known) for one in limiters) <= 50
        assert await taken(limiters[0], "flood 0", 9) == 4, "Redis forgot nothing"


# Away


async def test_while_redis_is_away_each_process_takes_a_share_and_says_so_once(private: RedisServer) -> None:
    with capture_logs() as logs:
        async with shared(private) as one, shared(private) as two, shared(private) as three:
            nodes = [one, two, three]
            limiters = [node.limiter(Limit(30, 3600), name="x") for node in nodes]
            for _ in within(10):  # until each knows of all: they say that they live once a second
                if all(node._members == 3 for node in nodes):
                    break
                await asyncio.sleep(0.02)
            private.stop()
            found = await asyncio.gather(*(taken(limiter, "key", 40) for limiter in limiters))
            assert found == [10, 10, 10], "in flight when it was lost"
            for node, limiter in zip(nodes, limiters, strict=True):
                await until_lost(node)
                assert isinstance(limiter.take("key", 1000.0), float)
                assert await taken(limiter, "key", 40) == 0
                assert await taken(limiter, "other", 40) == 10
                assert limiter.limit == Limit(30, 3600)
            await asyncio.sleep(1.0)  # it is tried again and again meanwhile
            private.go_on()
            for node in nodes:
                await until_back(node)
            assert await taken(limiters[0], "third", 40) == 30, "shared again"
    events = [entry["event"] for entry in logs]
    assert events.count("limits_local") == events.count("limits_shared") == 3
    assert {entry["reason"] for entry in logs if entry["event"] == "limits_local"} == {"timed_out"}


async def test_a_start_needs_no_redis_and_the_settings_say_the_share(private: RedisServer) -> None:
    private.kill()
    limits = SharedLimits(redis_address(private.url), Sealer([SECRET]))
    limiter = limits.limiter(Limit(40, 3600), name="x", share=4)
    with capture_logs() as logs:
        assert not await limits.open(wait_s=5.0)
        assert await taken(limiter, "key", 100) == 10
        left = limiter.take("fresh", 0.0)
        assert isinstance(left, float)
        assert limiter.remaining(left) == 9, "told as hits, whatever the share"
        private.start()
        await until_back(limits)
        assert await taken(limiter, "key", 100) == 40
    assert [entry["event"] for entry in logs] == ["limits_local", "limits_shared"]
    await limits.close()


@pytest.mark.parametrize("fault", ["kill", "read-only", "password", "pause", "memory", "hangs"])
async def test_whatever_redis_has_limits_hold_and_it_is_found_again(private: RedisServer, fault: str) -> None:
    async with shared(private) as limits:
        limiter = limits.limiter(Limit(10, 3600), name="x", share=2)
        assert await taken(limiter, "before", 3) == 3
        if fault == "kill":
            private.kill()
        elif fault == "read-only":
            private.ask("REPLICAOF", "127.0.0.1", "1")
        elif fault == "password":
            private.ask("CONFIG", "SET", "requirepass", "another")
            private.ask("CLIENT", "KILL", "TYPE", "normal", password="another")
        elif fault == "pause":
            private.ask("CLIENT", "PAUSE", "700")
        elif fault == "memory":
            private.ask("CONFIG", "SET", "maxmemory", "1")
        else:
            private.stop()
        assert await taken(limiter, "key", 40) == 5
        await until_lost(limits)
        assert await taken(limiter, "key", 40) == 0
        if fault == "kill":
            private.start()
        elif fault == "read-only":
            private.ask("REPLICAOF", "NO", "ONE")
        elif fault == "password":
            private.ask("CONFIG", "SET", "requirepass", "", password="another")
        elif fault == "memory":
            private.ask("CONFIG", "SET", "maxmemory", "0")
        elif fault == "hangs":
            private.go_on()
        await until_back(limits)
        assert await taken(limiter, "later", 40) == 10


async def test_a_flush_is_an_event_and_what_was_refused_stays_refused(server: RedisServer) -> None:
    async with shared(server) as limits:
        limiter = limits.limiter(HOUR, name="x")
        assert await taken(limiter, "key", 9) == 5
        with capture_logs() as logs:
            server.ask("FLUSHALL")
            for _ in within(10):
                if logs:
                    break
                await asyncio.sleep(0.02)
            assert [entry["event"] for entry in logs] == ["limits_forgotten"]
            assert await taken(limiter, "key", 9) == 0
            assert await taken(limiter, "another", 9) == 5


async def test_a_redis_that_comes_back_empty_is_an_event_and_what_it_means_to_people_is_said(
    private: RedisServer,
) -> None:
    limits = SharedLimits(redis_address(private.url), Sealer([SECRET]), keeps_sessions=True)
    assert await limits.open(wait_s=5.0)
    with capture_logs() as logs:
        private.kill()
        await until_lost(limits)
        private.start()
        await until_back(limits)
    await limits.close()
    assert [entry["event"] for entry in logs] == [
        *("limits_local", "sessions_unreachable"),
        *("limits_forgotten", "sessions_forgotten"),
        *("limits_shared", "sessions_reachable"),
    ]


# In advance


@pytest.mark.parametrize("nodes", [1, 4])
async def test_hits_in_advance_exceed_a_limit_by_no_more_than_was_said(server: RedisServer, nodes: int) -> None:
    """Time passes in Redis, so it is short: an interval is 5 ms. What is admitted in it all, against what may be."""
    limit, lease = Limit(100, 0.5), 10
    loop = asyncio.get_running_loop()
    began = loop.time()
    admitted: list[float] = []

    async def hammer(limiter: SharedLimiter) -> None:
        while loop.time() - began < 0.8:
            if await left_of(limiter.take("key", loop.time())) >= 0.0:
                admitted.append(loop.time())
            await asyncio.sleep(0)

    opened = [SharedLimits(redis_address(server.url), Sealer([SECRET]), lease=lease) for _ in range(nodes)]
    for one in opened:
        assert await one.open(wait_s=5.0)
    began = loop.time()
    server.ask("CONFIG", "RESETSTAT")
    await asyncio.gather(*(hammer(one.limiter(limit, name="x", ahead=True)) for one in opened for _ in range(4)))
    took_s = loop.time() - began
    for one in opened:
        await one.close()
    assert 100 < len(admitted) <= 100 + took_s / 0.005 + lease


async def test_hits_in_advance_are_for_busy_keys_and_save_questions(server: RedisServer) -> None:
    async with shared(server, lease=20) as limits:
        limiter = limits.limiter(Limit(600, 60), name="x", ahead=True)
        exact = limits.limiter(Limit(600, 60), name="y")
        server.ask("CONFIG", "RESETSTAT")
        for now in (1000.0, 1010.0, 1020.0):  # slower than it refills
            assert await left_of(limiter.take("slow", now)) == pytest.approx(59.9, abs=0.2)
        lefts: list[bool] = []
        for number in range(20):
            left = limiter.take("busy", 1000.0 + number / 1000)
            lefts.append(isinstance(left, float))
            await left_of(left)
        assert lefts == [False] * 2 + [True] * 18, "the second says that it is busy, and pays for twenty"
        late = limiter.take("busy", 1010.0)
        assert not isinstance(late, float), "what was not used in time is thrown away"
        await late
        for _ in range(20):
            asked = exact.take("busy", 1000.0)
            assert not isinstance(asked, float)
            await asked


# In the chain


async def answered(check: Any, call: Any) -> Any:
    answer = check(call)
    if call.hits is not None:
        assert answer is None
        return await settled(call)
    return await answer if isinstance(answer, Awaitable) else answer


async def test_the_layers_count_in_redis_as_in_memory(server: RedisServer) -> None:
    limit = GuardSettings(development=True, limit_address=Limit(3, 3600), limit_api=Limit(4, 3600))
    rule = allow(signed_in=True, limit=["5/hour", "2/day"])
    get = decision(route_of("/"), "GET", rule)
    outcomes: list[list[Any]] = []

    async def outcome(limits: Limits) -> list[Any]:
        address, api = address_layer(limit, limits), api_limit_check(limit, limits)
        (route,) = route_limit(DEVELOPMENT, limits)(rule)
        (endpoint,) = endpoint_limit(DEVELOPMENT, limits)(ENDPOINT)
        found: list[Any] = []
        for peer in ("192.0.2.1", "2001:db8::1"):
            for check in (address, endpoint):
                found += [await answered(check, make(peer)) for _ in range(5)]
            found += [await answered(route, on(get, peer=peer)) for _ in range(4)]
        for number in range(AGGREGATE_FACTOR * 3 + 5):
            found.append(await answered(address, make(f"2001:db8:0:{number + 9:x}::1")))
        for who in ("acc_a", "acc_b"):
            for _ in range(6):
                call = make(principal=account(who))
                found.append(await answered(api, call))
                found.append(call.added.fields)
            found += [await answered(route, on(get, principal=account(who))) for _ in range(4)]
        return [
            (one.status, dict(one.headers)[b"ratelimit-policy"]) if hasattr(one, "status") else one for one in found
        ]

    outcomes.append(await outcome(LimitTable()))
    async with shared(server) as limits:
        outcomes.append(await outcome(limits))
    assert outcomes[0] == outcomes[1]
    assert len([one for one in outcomes[0] if isinstance(one, tuple) and one[:1] == (429,)]) > 20


async def test_a_chain_waits_for_redis_and_refuses_by_address_and_by_principal(server: RedisServer) -> None:
    limit = replace(PRODUCTION, limit_address=Limit(20, 3600), limit_api=Limit(4, 3600))
    async with chained(server, limit, []) as rig:
        signed_in = {"authorization": "Bearer acc_ada"}
        replies = await asyncio.gather(*(rig.ask("GET", "/mine", signed_in) for _ in range(9)))
        assert sorted(reply.status for reply in replies) == [200] * 4 + [429] * 5
        told = sorted(reply.headers["ratelimit"] for reply in replies if reply.status == 200)
        assert told == [f'"api";r={left}' for left in range(4)]
        replies = await asyncio.gather(*(rig.ask("GET", "/nowhere") for _ in range(20)))
        assert sorted(reply.status for reply in replies) == [404] * 11 + [429] * 9
        assert all('"address"' in reply.headers["ratelimit"] for reply in replies if reply.status == 429)


async def ok(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def chained(server: RedisServer, limit: GuardSettings, ran: list[str]) -> AsyncIterator[Rig]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        ran.append(scope["path"])
        await ok(scope, receive, send)

    async with shared(server) as limits:
        mine = allow(signed_in=True)
        rig = Rig([("GET", "/open", public), ("GET", "/mine", mine)], app, settings=limit, limits=limits)
        rig.person("acc_ada")
        yield rig


def scripts_run(server: RedisServer) -> int:
    return sum(
        int(count) for count in re.findall(r"cmdstat_evalsha:calls=(\d+)", str(server.ask("INFO", "commandstats")))
    )


async def test_the_hits_of_one_request_are_asked_for_together(server: RedisServer) -> None:
    limit = replace(PRODUCTION, limit_address=Limit(20, 3600), limit_api=Limit(20, 3600))
    async with chained(server, limit, []) as rig:
        assert (await rig.ask("GET", "/mine", {"authorization": "Bearer acc_ada"})).status == 200  # the script is known
        before = scripts_run(server)
        for number in range(1, 6):
            reply = await rig.ask("GET", "/mine", {"authorization": "Bearer acc_ada"})
            assert (reply.status, reply.headers["ratelimit"]) == (200, f'"api";r={19 - number}')
            assert scripts_run(server) - before == number


@pytest.mark.parametrize(
    ("path", "headers", "otherwise"),
    [
        ("/open", {}, 200),
        ("/mine", {"authorization": "Bearer acc_ada"}, 200),
        ("/mine", {"authorization": "Bearer nobody"}, 401),
        ("/mine", {}, 401),
        ("/nowhere", {}, 404),
    ],
)
async def test_who_is_over_a_limit_learns_that_and_nothing_else(
    server: RedisServer, path: str, headers: dict[str, str], otherwise: int
) -> None:
    """Seen by other nodes' hits alone, so that this one has to wait for Redis to know."""
    limit = replace(PRODUCTION, limit_address=Limit(3, 3600))
    ran: list[str] = []
    async with chained(server, limit, ran) as rig, chained(server, limit, []) as elsewhere:
        assert [(await rig.ask("GET", path, headers)).status for _ in range(2)] == [otherwise] * 2
        assert (await elsewhere.ask("GET", "/open")).status == 200
        ran.clear()
        reply = await rig.ask("GET", path, headers)
        assert (reply.status, reply.code, ran) == (429, "rate_limited", [])
        assert '"address"' in reply.headers["ratelimit"]


@pytest.mark.parametrize("rule", [public, allow(signed_in=True)])
async def test_a_web_socket_waits_for_its_hits(server: RedisServer, rule: Rule) -> None:
    accepted: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        accepted.append(scope["path"])
        await send({"type": "websocket.accept"})

    limit = replace(PRODUCTION, limit_address=Limit(2, 3600))
    async with shared(server) as limits, chained(server, limit, []) as elsewhere:
        rig = Rig([("WS", "/live", rule)], app, settings=limit, limits=limits)
        assert (await elsewhere.ask("GET", "/open")).status == 200
        answers: list[Any] = []
        for _ in range(2):
            live = await opened(
                rig, "websocket", "/live", {}, until="websocket.accept", extensions={"websocket.http.response": {}}
            )
            await live.task
            answers.append(live.sent[0].get("status", live.sent[0]["type"]))
        assert answers == (["websocket.accept", 429] if rule is public else [401, 429])
        assert accepted == (["/live"] if rule is public else [])


async def test_what_nobody_waits_for_any_more_is_not_asked(server: RedisServer) -> None:
    """An IPv6 address has a second question after the first; where a hit before it is refused, it is dropped."""
    async with shared(server) as limits:
        settings_ = GuardSettings(development=True, limit_address=Limit(1, 3600))
        address = address_layer(settings_, limits)
        (endpoint,) = endpoint_limit(settings_, limits)(ENDPOINT)
        answers: list[Any] = []
        for _ in range(2):
            call = make("2001:db8::1")
            assert address(call) is None
            assert endpoint(call) is None
            answers.append(await settled(call))
            assert call.hits is None
        assert [answer and answer.status for answer in answers] == [None, 429]
        gc.collect()
