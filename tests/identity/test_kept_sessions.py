"""SESSION_STORE=redis: Redis knows what opens a session, SQL whether it stands; nothing that Redis does revives one."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from redis import Redis
from starlette.testclient import TestClient

from bench.redis_server import RedisServer
from garrison import Garrison, Policy, allow
from garrison.fastapi import Me
from garrison.identity.sessions.queries import COLD_READ
from garrison.identity.settings import PasswordCost
from garrison.serve.settings import Settings
from tests.store.redis_rig import private_redis, within
from tests.stores import store_url

PERSON = {"email": "ada@example.com", "password": "correct horse battery"}
IDLE_S = 600
PREFIX = "garrison:session:"


class Process:
    """One of several that share a database and a Redis."""

    def __init__(self, path: Path, redis: RedisServer) -> None:
        app = FastAPI()

        @app.get("/me")
        async def who(me: Me) -> dict[str, Any]:
            return {"id": me.id}

        settings = Settings(
            database_url=store_url(path / "g.db"),
            redis_url=redis.url,
            session_store="redis",
            session_idle=IDLE_S,
            secret="s" * 40,
            password_cost=PasswordCost(8, 1, 1),
        )
        self.garrison = Garrison(Policy(("GET /me", allow(signed_in=True))), settings=settings)
        self.client = TestClient(
            self.garrison.protect(app), raise_server_exceptions=False, client=("127.0.0.1", 50_000)
        )

    def sign_in(self) -> int:
        self.client.cookies.clear()
        self.client.post("/auth/sign-up", json=PERSON)
        status: int = self.client.post("/auth/sign-in", json=PERSON).status_code
        return status

    def me(self, cookies: Any = None) -> int:
        if cookies is not None:
            self.client.cookies = cookies
        status: int = self.client.get("/me").status_code
        return status

    def wait_for_redis(self) -> None:
        for _ in within(10):
            if self.client.get("/health/ready").json()["parts"]["redis"]:
                return
            time.sleep(0.05)


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    monkeypatch.setattr("garrison.store.redis.ANSWER_S", 5.0)  # a busy machine is not the subject
    with private_redis() as server:
        yield server


@pytest.fixture
def process(tmp_path: Path, redis: RedisServer) -> Iterator[Callable[[], Process]]:
    with ExitStack() as stack:

        def start() -> Process:
            made = Process(tmp_path, redis)
            stack.enter_context(made.client)
            made.wait_for_redis()
            return made

        yield start


def ask(redis: RedisServer, *words: str | bytes | int) -> Any:
    with Redis(port=redis.port) as connection:
        return connection.execute_command(*words)


def names(redis: RedisServer) -> list[str]:
    return [name.decode() for name in ask(redis, "KEYS", f"{PREFIX}*")]


def test_every_process_takes_the_session_and_redis_knows_it_sealed_and_for_a_time(
    process: Callable[[], Process], redis: RedisServer
) -> None:
    here, there = process(), process()
    assert here.sign_in() == 200
    assert (here.me(), there.me(here.client.cookies)) == (200, 200)
    [name] = names(redis)
    kept = ask(redis, "GET", name)
    secret = here.client.cookies["garrison"]
    assert b"ses_" not in kept
    assert secret.encode() not in kept
    assert secret not in name
    assert 0 < ask(redis, "PTTL", name) <= IDLE_S * 1000
    assert len(here.client.get("/auth/sessions").json()["items"]) == 1


def test_sql_alone_does_not_know_what_opens_a_session(process: Callable[[], Process]) -> None:
    here = process()
    here.sign_in()
    digest = sha256(b"session\x00" + here.client.cookies["garrison"].encode()).digest()

    async def found() -> Any:
        rows = here.garrison._runtime._database.cold(COLD_READ, (digest,))  # type: ignore[union-attr]
        return rows if isinstance(rows, list) else await rows

    assert here.client.portal is not None
    assert here.client.portal.call(found) == []


def test_an_emptied_redis_signs_out_and_revives_nobody(process: Callable[[], Process], redis: RedisServer) -> None:
    here = process()
    here.sign_in()
    [name] = names(redis)
    kept = ask(redis, "DUMP", name)
    assert here.client.post("/auth/sign-out-everywhere").status_code == 204
    ask(redis, "FLUSHALL")
    there = process()
    assert there.me(here.client.cookies) == 401
    ask(redis, "RESTORE", name, 0, kept)
    assert process().me(here.client.cookies) == 401, "what was put back opens what SQL has ended"
    assert there.sign_in() == 200
    assert there.me() == 200


def test_a_value_under_another_name_opens_nothing(process: Callable[[], Process], redis: RedisServer) -> None:
    here, other = process(), process()
    here.sign_in()
    other.sign_in()
    one, two = names(redis)
    ask(redis, "COPY", one, two, "REPLACE")
    assert sorted((process().me(here.client.cookies), process().me(other.client.cookies))) == [200, 401]


def test_without_redis_nothing_is_guessed(process: Callable[[], Process], redis: RedisServer) -> None:
    here, there = process(), process()
    here.sign_in()
    assert here.me() == 200
    redis.kill()
    for _ in within(10):
        if not there.client.get("/health/ready").json()["parts"]["redis"]:
            break
        time.sleep(0.02)
    assert there.me(here.client.cookies) == 503, "it cannot say no, either"
    assert here.me() == 200, "verified a moment ago"
    listed = len(here.client.get("/auth/sessions").json()["items"])
    assert [there.sign_in() for _ in range(3)] == [503] * 3
    assert len(here.client.get("/auth/sessions").json()["items"]) == listed, "nor is one left that nothing opens"
    redis.start()
    there.wait_for_redis()
    assert there.sign_in() == 200


def test_using_a_session_keeps_it(process: Callable[[], Process], redis: RedisServer) -> None:
    here = process()
    here.sign_in()
    [name] = names(redis)
    ask(redis, "PEXPIRE", name, 60_000)
    assert here.me() == 200
    runtime = here.garrison._runtime
    assert runtime is not None
    assert here.client.portal is not None
    here.client.portal.call(lambda: runtime._identity.cache.flush(runtime._clock.now(), force=True))
    assert ask(redis, "PTTL", name) > 60_000
