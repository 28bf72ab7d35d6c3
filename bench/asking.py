"""Asking a guarded app in process, without server or sockets: its settings, its lifespan, requests, and their time.

Scopes are copied from one built beforehand, as a server makes a new one for each request.
"""

import asyncio
import contextlib
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from garrison.core.durations import Limit
from garrison.identity.settings import PasswordCost
from garrison.serve.frameworks import guard_of
from garrison.serve.settings import Settings
from garrison.wire.answer import ASGIApp, Message, Scope
from garrison.wire.header_lines import TakesHeaderLines

SHOWN = {"email": "bench@example.com", "password": "a long walk to the sea"}
_PLENTY = Limit(10**8, 60)


def settings(directory: Path, *, database_url: str = "") -> Settings:
    """Return a development server's settings with the limits raised, and hashing that costs nothing.

    Without an address of its own the database is in this directory.
    """
    return Settings(
        database_url=database_url or f"sqlite:///{directory / 'bench.db'}",
        secret="bench " * 8,
        password_cost=PasswordCost(memory_kib=64, passes=1, lanes=1),
        limit_address=_PLENTY,
        limit_api=_PLENTY,
        limit_sign_in=_PLENTY,
        limit_sign_in_address=_PLENTY,
        limit_sign_up=_PLENTY,
        limit_oauth_token=_PLENTY,
    )


def scope_of(path: str, *headers: tuple[bytes, bytes], method: str = "GET") -> dict[str, Any]:
    """Return the scope that uvicorn makes of a request with the usual headers and these."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("127.0.0.1", 50_000),
        "scheme": "http",
        "root_path": "",
        "headers": [
            (b"host", b"127.0.0.1:8000"),
            (b"accept", b"*/*"),
            (b"accept-encoding", b"gzip, deflate"),
            (b"user-agent", b"bench/1.0"),
            *headers,
        ],
        "state": {},
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
    }


async def answer_to(
    app: ASGIApp, method: str, path: str, body: Mapping[str, Any] | None = None
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Ask the app in process; return status, headers and body."""
    content = json.dumps(body).encode() if body is not None else b""
    headers = [(b"content-length", str(len(content)).encode())]
    headers += [(b"content-type", b"application/json")] if body is not None else []
    return await answer(app, scope_of(path, *headers, method=method), content)


async def answer(app: ASGIApp, scope: Scope, content: bytes = b"") -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Make this request in process; return status, headers and body."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(dict(scope), receive, send)
    return sent[0]["status"], list(sent[0]["headers"]), b"".join(message.get("body", b"") for message in sent[1:])


@contextlib.asynccontextmanager
async def started(app: ASGIApp) -> AsyncIterator[None]:
    """Run the app's lifespan, and with it the guard's background work, as long as the context lasts."""
    to_app: asyncio.Queue[Message] = asyncio.Queue()
    from_app: asyncio.Queue[Message] = asyncio.Queue()
    scope: Scope = {"type": "lifespan", "asgi": {"version": "3.0"}}

    async def speak() -> None:
        await app(scope, to_app.get, from_app.put)

    task = asyncio.create_task(speak())
    await to_app.put({"type": "lifespan.startup"})
    message = await from_app.get()
    if message["type"] != "lifespan.startup.complete":
        await task
    try:
        yield
    finally:
        await to_app.put({"type": "lifespan.shutdown"})
        await task


async def signed_in(app: ASGIApp) -> tuple[tuple[bytes, bytes], str]:
    """Sign up, sign in both ways; return the header of the session's cookie, and an access token."""
    await answer_to(app, "POST", "/auth/sign-up", SHOWN)
    _, headers, _ = await answer_to(app, "POST", "/auth/sign-in", {**SHOWN, "deliver": "cookie"})
    cookie = next(value for name, value in headers if name == b"set-cookie" and value.startswith(b"garrison="))
    _, _, body = await answer_to(app, "POST", "/auth/sign-in", {**SHOWN, "deliver": "token"})
    return (b"cookie", cookie.partition(b";")[0]), json.loads(body)["access_token"]


async def demand_open(app: ASGIApp, *requests: Scope) -> None:
    """Raise RuntimeError unless the app answers each with 200: a refusal is fast, and no figure."""
    for scope in requests:
        status, _, body = await answer(app, scope)
        if status != 200:
            raise RuntimeError(f"{scope['path']}: {status}, not 200: {body!r}")


async def heard(app: ASGIApp) -> None:
    """Wait until the guard has heard the news anew.

    A loop that was kept busy for two seconds cannot hear; then nothing kept is trusted, and what is called warm asks
    the store at each request.
    """
    view = guard_of(app)._runtime._view
    until = view.fresh_until
    while view.fresh_until == until:  # noqa: ASYNC110 - the guard has no event for it
        await asyncio.sleep(0.01)


class Reads:
    """Counts how often the guard asks the store about a credential: once where it is first seen, never where warm."""

    def __init__(self, app: ASGIApp) -> None:
        cache = guard_of(app)._runtime._identity.cache
        self.count = 0
        self._cold = cache._cold
        cache._cold = self

    def __call__(self, sql: str, parameters: tuple[Any, ...]) -> Any:
        """Ask."""
        self.count += 1
        return self._cold(sql, parameters)


async def receive_nothing() -> Message:
    """Stand for a server with nothing to say."""
    return {"type": "http.disconnect"}


class Nowhere(TakesHeaderLines):
    """A server's answer that takes everything at once; like `garrison serve`, it takes our fields as one block."""

    async def send(self, _message: Message) -> None:
        """Take a message."""

    async def begin(
        self, _status: int, _fields: Mapping[bytes, bytes], _lines: bytes, _added: bytes, _request_id: str
    ) -> None:
        """Take the beginning of an answer."""

    async def rest(self, _message: Message) -> None:
        """Take what follows."""


async def timed(app: ASGIApp, requests: Sequence[Scope]) -> float:
    """Return microseconds a request, of this thread on a core: others on the machine do not count."""
    receive, send = receive_nothing, Nowhere().send
    began = time.thread_time()
    for scope in requests:
        await app(dict(scope), receive, send)
    return (time.thread_time() - began) / len(requests) * 1e6


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each column over the rounds."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run in a new event loop of the kind that servers use."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_of(work))


async def _of(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()
