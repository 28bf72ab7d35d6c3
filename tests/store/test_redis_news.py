"""News over Redis: who listens is woken, also after what may have been missed."""

import asyncio
from collections.abc import Iterator

import pytest

from bench.redis_server import RedisServer
from garrison.store.redis_news import CHANNEL, RedisNews
from tests.store.redis_rig import Watched, private_redis

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    monkeypatch.setattr("garrison.store.redis.ANSWER_S", 5.0)  # a busy machine is not the subject
    with private_redis() as server:
        yield server


async def woken(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)
    event.clear()


async def test_who_listens_is_woken_by_others_and_after_an_outage(redis: RedisServer) -> None:
    sender = Watched(redis.url)
    await sender.opened()
    here, there = (RedisNews(sender) for _ in range(2))
    event, other = asyncio.Event(), asyncio.Event()
    await here.listen(event.set, wait_s=5.0)
    await there.listen(other.set, wait_s=5.0)
    await woken(event)  # once it hears: something may have been before
    await woken(other)
    for _ in range(3):
        there.tell()
        await woken(event)
        await woken(other)
    connection = sender.connection()
    assert connection is not None
    assert await connection.call("PUBLISH", CHANNEL, "whatever") == 2
    await woken(event)
    await asyncio.sleep(1.5)  # beyond the look that each connection is given every second
    assert not event.is_set()
    redis.kill()
    redis.start()
    await woken(event)
    await woken(other)
    for _ in range(100):
        there.tell()
        if other.is_set() and event.is_set():
            break
        await asyncio.sleep(0.1)
    assert event.is_set()
    for one in (here, there, sender):
        await one.close()


async def test_telling_without_a_connection_is_no_error(redis: RedisServer) -> None:
    news = RedisNews(Watched(redis.url))
    news.tell()


def test_telling_without_a_loop_is_no_error(redis: RedisServer) -> None:
    RedisNews(Watched(redis.url)).tell()
