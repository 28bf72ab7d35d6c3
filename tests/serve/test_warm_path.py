"""A warm request waits for nothing of ours: no SQL, no thread hop, no await on the outside."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from garrison import Garrison, Policy, allow, public
from garrison.core.durations import Limit
from garrison.identity.settings import PasswordCost
from garrison.serve.settings import Settings
from garrison.wire.answer import Message, Receive, Scope, Send
from tests.stores import open_store, store_url

pytestmark = pytest.mark.anyio
POLICY = Policy(("GET /public", public), ("GET /private", allow(signed_in=True, limit="1000000/minute")))
SHOWN = {"email": "ada@example.com", "password": "a long walk to the sea"}
PLENTY = Limit(10**9, 60)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def app(scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


def scope(path: str, *headers: tuple[bytes, bytes], method: str = "GET") -> Scope:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }


async def post(guarded: Any, path: str, body: dict[str, str]) -> list[Message]:
    content = json.dumps(body).encode()
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = ((b"content-type", b"application/json"), (b"content-length", str(len(content)).encode()))
    await guarded(scope(path, *headers, method="POST"), receive, send)
    return sent


def suspensions(coroutine: Coroutine[Any, Any, None]) -> int:
    """Drive a coroutine by hand and return how often it waited for something."""
    count = 0
    try:
        while True:
            coroutine.send(None)
            count += 1
    except StopIteration:
        return count


@pytest.mark.parametrize("case", ["public", "cookie", "token"])
async def test_a_warm_request_asks_nobody_and_waits_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    settings = Settings(
        database_url=store_url(tmp_path / "g.db"),
        secret="s" * 40,
        password_cost=PasswordCost(8, 1, 1),
        limit_address=PLENTY,
        limit_api=PLENTY,
        signing_algorithm="ES256",  # a key is made without a thread
    )
    garrison = Garrison(POLICY, settings=settings)
    guarded = garrison.protect(app)
    asked: list[str] = []
    kind = type(open_store(tmp_path / "g.db"))
    for name in ("cold", "read", "write", "news"):
        original = getattr(kind, name)

        def counting(self: Any, *arguments: Any, _name: str = name, _original: Any = original) -> Any:
            asked.append(_name)
            return _original(self, *arguments)

        monkeypatch.setattr(kind, name, counting)
    hops: list[object] = []
    loop = asyncio.get_running_loop()
    monkeypatch.setattr(type(loop), "run_in_executor", lambda self, *arguments: hops.append(arguments))

    async with garrison._start().background():
        await post(guarded, "/auth/sign-up", SHOWN)
        by_cookie = await post(guarded, "/auth/sign-in", SHOWN)
        by_token = await post(guarded, "/auth/sign-in", {**SHOWN, "deliver": "token"})
        cookie = next(value for name, value in by_cookie[0]["headers"] if name == b"set-cookie").partition(b";")[0]
        bearer = b"Bearer " + json.loads(by_token[1]["body"])["access_token"].encode()
        headers = {"public": (), "cookie": ((b"cookie", cookie),), "token": ((b"authorization", bearer),)}[case]
        path = "/public" if case == "public" else "/private"
        statuses: list[int] = []

        async def receive() -> Message:
            raise AssertionError("nothing is read of a request without a body")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        await guarded(scope(path, *headers), receive, send)
        asked.clear()
        for _ in range(50):
            assert suspensions(guarded(scope(path, *headers), receive, send)) == 0
        assert asked == [], "a warm hit asks the store"
        assert statuses == [200] * 51
        assert not hops
        if case != "public":  # the counters count: a cold one asks
            garrison._runtime._identity.cache._entries.clear()  # type: ignore[union-attr]
            await guarded(scope(path, *headers), receive, send)
            assert asked[0] == "cold"
    monkeypatch.undo()
    await garrison.close()
