"""The guard's own work in process: the guarded app minus the app, without server, sockets or framework.

Everything of the guard is in it: the door, every layer, the route's checks, the second lock, the headers of the answer.
The app behind is a raw handler that sends two messages to nobody. Scopes are copied from one built beforehand, as a
server makes a new one for each request; the copy is on both sides and so cancels out.

A round is bare, then guarded, then bare again …; the figure is the median of the rounds' differences.
"""

import asyncio
import contextlib
import cProfile
import json
import pstats
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.apps import guarded, raw
from garrison.core.durations import Limit
from garrison.identity.settings import PasswordCost
from garrison.serve.settings import Settings
from garrison.wire.answer import ASGIApp, Header, Message, Scope
from garrison.wire.header_lines import Block, TakesHeaderLines

CASES = ("public", "cookie", "token")
GOAL_US = 8.0
_EMAIL, _PASSWORD = "bench@example.com", "a long walk to the sea"
_PLENTY = Limit(10**8, 60)


@dataclass(frozen=True, slots=True)
class Work:
    """Microseconds a warm request, medians over the rounds."""

    case: str
    bare_us: float
    guarded_us: float
    own_us: float
    lowest_us: float
    """The least of the rounds' differences: what it costs on a quiet machine."""


def settings(directory: Path) -> Settings:
    """Return a development server's settings with the limits raised, and hashing that costs nothing."""
    return Settings(
        database_url=f"sqlite:///{directory / 'bench.db'}",
        secret="bench " * 8,
        password_cost=PasswordCost(memory_kib=64, passes=1, lanes=1),
        limit_address=_PLENTY,
        limit_api=_PLENTY,
        limit_sign_in=_PLENTY,
        limit_sign_in_address=_PLENTY,
        limit_sign_up=_PLENTY,
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
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": content, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope_of(path, *headers, method=method), receive, send)
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


async def scopes(app: ASGIApp) -> dict[str, Scope]:
    """Sign up, sign in both ways, and return the scope of each case's request."""
    await answer_to(app, "POST", "/auth/sign-up", {"email": _EMAIL, "password": _PASSWORD})
    shown = {"email": _EMAIL, "password": _PASSWORD}
    _, headers, _ = await answer_to(app, "POST", "/auth/sign-in", {**shown, "deliver": "cookie"})
    cookie = next(value for name, value in headers if name == b"set-cookie" and value.startswith(b"garrison="))
    _, _, body = await answer_to(app, "POST", "/auth/sign-in", {**shown, "deliver": "token"})
    token = json.loads(body)["access_token"]
    return {
        "public": scope_of("/public"),
        "cookie": scope_of("/private", (b"cookie", cookie.partition(b";")[0])),
        "token": scope_of("/private", (b"authorization", f"Bearer {token}".encode())),
    }


async def receive_nothing() -> Message:
    """Stand for a server with nothing to say."""
    return {"type": "http.disconnect"}


class Nowhere(TakesHeaderLines):
    """A server's answer that takes everything at once; like `garrison serve`, it takes our fields as one block."""

    async def send(self, _message: Message) -> None:
        """Take a message."""

    async def begin(
        self, _status: int, _headers: Iterable[Header], _lines: bytes, _added: Iterable[Block], _request_id: str
    ) -> None:
        """Take the beginning of an answer."""


async def _timed(app: ASGIApp, scope: Scope, count: int) -> float:
    """Return microseconds a request over `count` of them."""
    copy = dict(scope).copy
    receive, send = receive_nothing, Nowhere().send
    began = time.perf_counter()
    for _ in range(count):
        await app(copy(), receive, send)
    return (time.perf_counter() - began) / count * 1e6


async def measure(directory: Path, *, rounds: int, count: int, said: Callable[[str], None]) -> list[Work]:
    """Return the guard's own work for each case: medians over `rounds` of `count` requests each."""
    app = guarded("raw ASGI", settings(directory))
    found: list[Work] = []
    async with started(app):
        for case, scope in (await scopes(app)).items():
            said(f"in process, {case}")
            await _timed(app, scope, count)
            bare_us: list[float] = []
            guarded_us: list[float] = []
            for _ in range(rounds):
                bare_us.append(await _timed(raw, scope, count))
                guarded_us.append(await _timed(app, scope, count))
                await asyncio.sleep(0)  # the background work hears the news, without which the cache is not trusted
            own = [full - least for full, least in zip(guarded_us, bare_us, strict=True)]
            found.append(
                Work(case, statistics.median(bare_us), statistics.median(guarded_us), statistics.median(own), min(own))
            )
    return found


async def profile(directory: Path, case: str, *, count: int) -> pstats.Stats:
    """Return where the guard's time goes, by function; profiling itself costs more than what it shows."""
    app = guarded("raw ASGI", settings(directory))
    async with started(app):
        scope = (await scopes(app))[case]
        await _timed(app, scope, count)
        profiler = cProfile.Profile()
        profiler.enable()
        await _timed(app, scope, count)
        profiler.disable()
    return pstats.Stats(profiler)


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    """Run in a new event loop of the kind that servers use."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_of(work))


async def _of(work: Callable[[], Awaitable[Any]]) -> Any:
    return await work()
