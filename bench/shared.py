"""What it costs to count limits for all nodes: the same guarded server with three stores, side by side.

    memory     counted in the process
    redis      counted in Redis, the hits of one event-loop turn in one call
    awaited    counted in Redis by the same script, each hit an awaited call of redis-py's asyncio client

Each request is counted twice, by address and by principal. The Redis is a private one, on the load's core: what a
server pays for it is its own CPU time, and its answers come through the kernel as they would from elsewhere.
"""

import statistics
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from bench.load import Figures, Job, Load, request
from bench.over_tcp import cores
from bench.redis_server import PROGRAM, RedisServer
from bench.server import CHEAP, Server
from garrison.core.durations import Limit
from garrison.guard.shared_limits import SharedLimiter, SharedLimits
from garrison.store.redis_counters import _TAKE, Quota

GOAL = 0.93
"""Redis ÷ memory, of requests a CPU second."""
STORES = ("memory", "redis", "awaited")
CONNECTIONS = (1, 32, 128)


@dataclass(frozen=True, slots=True)
class Row:
    """So many connections at a time; by store, medians over the rounds. A ratio is to memory, median of the rounds'."""

    connections: int
    cpu_us: dict[str, float]
    per_second: dict[str, float]
    median_ms: dict[str, float]
    cpu_ratio: dict[str, float]
    ratio: dict[str, float]


class AwaitedLimits(SharedLimits):
    """As limits in Redis are usually counted: each hit a call of its own. For comparison alone."""

    client: Any = None

    def limiter(self, limit: Limit, *, name: str, share: int = 1, ahead: bool = False) -> SharedLimiter:
        """See `Limits.limiter`."""
        return AwaitedLimiter(self, limit, name, share=share, lease=0)


class AwaitedLimiter(SharedLimiter):
    """Asks redis-py."""

    def __init__(self, limits: AwaitedLimits, limit: Limit, name: str, *, share: int, lease: int) -> None:
        super().__init__(limits, limit, name, share=share, lease=lease)
        self._limits = limits
        self._quota = Quota(limit)

    def take(self, key: str, now: float) -> Awaitable[float]:
        """See `Limiter.take`."""
        return self._ask(f"{self._name}\x00{key}")

    async def _ask(self, key: str) -> float:
        limits = self._limits
        if limits.client is None:
            import redis.asyncio

            address = limits.redis.address
            # a connection for each call that may be on its way: its pool raises beyond its bound, which is 100
            client = redis.asyncio.Redis(host=address.host, port=address.port, max_connections=2 * max(CONNECTIONS))
            limits.client = client.register_script(_TAKE)
        left = await limits.client(keys=[key], args=[self._quota.interval_us, self._quota.burst_us])
        return float(left[0]) / 1e6


def measure(*, rounds: int, seconds: float, said: Callable[[str], None]) -> list[Row]:
    """Return a row for each number of connections; none where there is no Redis to be had."""
    if PROGRAM is None:
        return []
    server_core, load_core = cores()
    rows: list[Row] = []
    with ExitStack() as running:
        load = running.enter_context(Load(load_core))
        redis = running.enter_context(RedisServer(core=load_core))
        environments = {"memory": CHEAP, "redis": {**CHEAP, "GARRISON_REDIS_URL": redis.url}}
        servers = {
            store: running.enter_context(
                Server(
                    "FastAPI",
                    "awaited" if store == "awaited" else "guarded",
                    core=server_core,
                    environment=environments.get(store, environments["redis"]),
                )
            )
            for store in STORES
        }
        texts = {
            store: request("/private", headers=server.credentials()["cookie"]) for store, server in servers.items()
        }
        for connections in CONNECTIONS:
            found: dict[str, list[Figures]] = {store: [] for store in STORES}
            for number in range(rounds + 1):
                said(f"limits, {connections} connections, round {number} of {rounds}")
                for store, server in servers.items():
                    figures = load.run(Job(server.port, texts[store], server.pid, seconds, connections))
                    if set(figures.statuses) != {"200"} or figures.closed:
                        raise RuntimeError(f"limits in {store}: {figures.statuses}, not 200 alone")
                    if number:  # the first is not counted
                        found[store].append(figures)
            rows.append(_row(connections, found))
    return rows


def _row(connections: int, found: dict[str, list[Figures]]) -> Row:
    def median(store: str, of: Callable[[Figures], float]) -> float:
        return statistics.median(of(one) for one in found[store])

    def ratio(store: str, of: Callable[[Figures], float]) -> float:
        return statistics.median(of(one) / of(base) for one, base in zip(found[store], found["memory"], strict=True))

    return Row(
        connections,
        cpu_us={store: median(store, lambda one: one.cpu_us) for store in STORES},
        per_second={store: median(store, lambda one: one.per_second) for store in STORES},
        median_ms={store: median(store, lambda one: one.median_s["200"] * 1e3) for store in STORES},
        cpu_ratio={store: ratio(store, lambda one: 1 / one.cpu_us) for store in STORES},
        ratio={store: ratio(store, lambda one: one.per_second) for store in STORES},
    )
