"""Private Redis servers for tests: skipped, loudly, where there is no program to start."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.redis_server import PROGRAM, RedisServer
from garrison.store.redis import Connection, Redis, redis_address


@contextmanager
def private_redis(*options: str) -> Iterator[RedisServer]:
    """Start one, empty, and end it."""
    if PROGRAM is None:
        pytest.skip("neither redis-server nor valkey-server is there")
    with RedisServer(*options) as server:
        yield server


async def ping(connection: Connection) -> None:
    """Check that the connection is good."""
    await connection.call("PING")


class Watched(Redis):
    """A Redis whose comings and goings are kept: reasons, and the empty text where it was found again."""

    def __init__(self, url: str) -> None:
        self.told: list[str] = []
        super().__init__(redis_address(url), ping, lost=self.told.append, found=lambda: self.told.append(""))

    async def opened(self) -> Connection:
        """Return an open connection of this loop."""
        assert await self.open(wait_s=5.0)
        connection = self.connection()
        assert connection is not None
        return connection


def within(seconds: float) -> Iterator[float]:
    """Yield until so many seconds have passed, and fail then."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield end - time.monotonic()
    raise AssertionError(f"not within {seconds} s")
