"""Redis (or Valkey) for what can be lost: one pipelined connection for each event loop, a breaker, deadlines.

    Redis ── the address, the breaker, and for each event loop a `_Keeper`, which opens the connection and opens it anew
      └── Connection ── commands go out in order, replies come back in order; what hangs is given up as a whole

Why not redis-py's own client: an awaited call of it costs the process 100 µs and more, which is what a whole guarded
request costs; by default it needs 4.4 s to find out that Redis is gone. What is left to do here is little: hiredis
parses the replies, asyncio has the sockets, and a connection that fails is thrown away instead of being mended.

Nobody waits for a connection: while there is none, `connection` says so at once, and whoever asks does without. After a
failure the keeper waits for a jittered, growing pause of at most a second, and tries alone: that is the breaker and its
one probe. A connection counts as open only when every check has passed, among them a write, so that a replica, a server
that is still loading and one that is out of memory are found out before anybody relies on them. The checks run again
each second, so a connection that died while nothing was asked is found, too.

Not served: Redis Cluster and Sentinel, which need a client that follows redirects.
"""

import asyncio
import contextlib
import random
import re
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from garrison.core.errors import SettingsError, StoreError

try:
    import hiredis
except ImportError:  # an extra: `check_installed` says so at start
    hiredis = None  # type: ignore[assignment]

CONNECT_S = 1.0
"""For a connection, TLS and all checks; nobody waits for it but the keeper, and a start."""
ANSWER_S = 0.05
"""How long a reply may take."""
_SECOND_LOOK_S = 0.005
"""After a deadline: if this process was held up, the reply lies in the socket, unread: uvloop runs timers first."""
CHECK_EVERY_S = 1.0
PAUSE_S, MOST_PAUSE_S = 0.05, 1.0
_PORT = 6379
_CODE = re.compile(r"[A-Z]{2,20}")
_HELP = (
    "write redis://host:6379/0, rediss://user:password@host:6379/0 for TLS, or unix:///path/to/socket?db=0, "
    "what is special in a password as %XX"
)
_FILES = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")

Done = Callable[[Any], None]
"""Takes a reply, or the RedisError instead of one."""


class RedisError(StoreError):
    """Redis did not do what it was asked.

    `reason` is `unreachable`, `timed_out`, `closed`, `protocol`, or the first word of what it answered, in small
    letters (`noscript`, `readonly`, `wrongpass` …); the rest of that may name keys, and is dropped.
    """

    def __init__(self, reason: str) -> None:
        super().__init__("store_unavailable", f"Redis: {reason}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where Redis is. `path` is a Unix socket's; `tls` None speaks plain text."""

    host: str = ""
    port: int = _PORT
    path: str = ""
    database: int = 0
    user: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)


def check_installed() -> None:
    """Raise SettingsError where the parser is not installed."""
    if hiredis is None:
        raise SettingsError([("GARRISON_REDIS_URL", "needs hiredis: install Garrison with its extra, garrison[redis]")])


def redis_address(url: str) -> RedisAddress:
    """Return the address written as `redis://`, `rediss://` or `unix://`, in the form that redis-py reads.

    `rediss` verifies certificate and name, always; `ssl_ca_certs`, `ssl_certfile` and `ssl_keyfile` name PEM files.
    Raises ValueError, without the value.
    """
    try:
        parts = urlsplit(url)
        port, asked = parts.port or _PORT, dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True))
    except ValueError:
        raise ValueError(_HELP) from None
    is_socket, is_tls = parts.scheme == "unix", parts.scheme == "rediss"
    known = {"db", *(_FILES if is_tls else ())}
    database = asked.get("db", "") if is_socket else parts.path.strip("/") or asked.get("db", "")
    if (
        parts.scheme not in ("redis", "rediss", "unix")
        or parts.fragment
        or not asked.keys() <= known
        or re.fullmatch(r"[0-9]{0,4}", database, re.ASCII) is None
        or (is_socket and not parts.path.strip("/"))
        or (not is_socket and not parts.hostname)
        or (parts.username and not parts.password)  # a user without one would be nobody in particular, silently
    ):
        raise ValueError(_HELP)
    return RedisAddress(
        host="" if is_socket else parts.hostname or "",
        port=port,
        path=unquote(parts.path) if is_socket else "",
        database=int(database or 0),
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        tls=_tls({name: asked[name] for name in _FILES if name in asked}) if is_tls else None,
    )


def _tls(files: dict[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files.get("ssl_ca_certs"))
        if "ssl_certfile" in files:
            context.load_cert_chain(files["ssl_certfile"], files.get("ssl_keyfile"))
    except (OSError, ssl.SSLError):
        raise ValueError("a file named by ssl_ca_certs, ssl_certfile or ssl_keyfile cannot be read as PEM") from None
    return context


def packed(*words: bytes | str | int) -> bytes:
    """Return a command as it goes over the wire (RESP, array of bulk strings)."""
    command: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]
    return command


class Connection(asyncio.Protocol):
    """One open connection. Used on its own loop alone."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_open = True
        self.lost: asyncio.Future[RedisError] = self.loop.create_future()
        """Why it ended, once it has."""
        self.on_message: Callable[[], None] | None = None
        """Called for each message of a channel; the messages are not kept. Without it they are a mistake."""
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._waiting: deque[tuple[float, Done]] = deque()
        """Deadline and taker of each reply to come, in order."""
        self._timer: asyncio.TimerHandle | None = None
        self._was_late = False

    def send(self, command: bytes, done: Done) -> None:
        """Send a packed command. `done` is called once: with the reply, or with a RedisError, which may be at once."""
        if self._transport is None:
            done(RedisError("closed"))
            return
        self._waiting.append((self.loop.time() + ANSWER_S, done))
        if self._timer is None:
            self._timer = self.loop.call_later(ANSWER_S, self._look)
        self._transport.write(command)

    async def call(self, *words: bytes | str | int) -> Any:
        """Send one command and return its reply. Raises RedisError."""
        future: asyncio.Future[Any] = self.loop.create_future()

        def done(reply: Any) -> None:
            if not future.done():
                future.set_result(reply)

        self.send(packed(*words), done)
        reply = await future
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def fail(self, error: RedisError) -> None:
        """Give the connection up: every reply to come is this error instead. Safe to repeat."""
        self.is_open = False
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not self.lost.done():
            self.lost.set_result(error)
        while self._waiting:
            self._waiting.popleft()[1](error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, _error: Exception | None) -> None:
        """See asyncio.Protocol."""
        self.fail(RedisError("unreachable"))

    def data_received(self, data: bytes) -> None:
        """Hand each reply to whom it belongs."""
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not False:
                if self.on_message is not None and _is_message(reply):
                    self.on_message()
                    continue
                if not waiting:  # what nobody asked for: the order is lost, and with it whose reply is whose
                    raise hiredis.ProtocolError
                if isinstance(reply, hiredis.ReplyError):
                    found = _CODE.match(str(reply))
                    reply = RedisError(found[0].lower() if found is not None else "error")
                waiting.popleft()[1](reply)
        except hiredis.ProtocolError:
            self.fail(RedisError("protocol"))

    def _look(self) -> None:
        """See whether a reply is overdue; one timer serves all."""
        self._timer = None
        if not self._waiting:
            return
        left = self._waiting[0][0] - self.loop.time()
        if left <= 0.0 and self._was_late:
            self.fail(RedisError("timed_out"))
            return
        self._was_late = left <= 0.0
        self._timer = self.loop.call_later(_SECOND_LOOK_S if self._was_late else left, self._look)


def _is_message(reply: Any) -> bool:
    return isinstance(reply, list) and len(reply) == 3 and reply[0] == b"message"


Check = Callable[[Connection], Awaitable[None]]
"""Asked of each new connection before it counts as open, and every second. Raises RedisError where it is no good."""


class Redis:
    """The Redis of one process, usable from whichever event loop asks. Making it opens nothing.

    `lost` is called with the reason when what was there, or should have been, is not; `found` when it is back. Each
    once for an outage, however many loops there are and however often it is tried.
    """

    def __init__(
        self,
        address: RedisAddress,
        check: Check,
        *,
        lost: Callable[[str], None],
        found: Callable[[], None],
    ) -> None:
        check_installed()
        self.address = address
        self.check = check
        self.is_lost = False
        self._lost = lost
        self._found = found
        self._keepers: dict[asyncio.AbstractEventLoop, _Keeper] = {}
        self._last: _Keeper | None = None
        self._wait_again_at = 0.0

    def connection(self) -> Connection | None:
        """Return the open connection of the running loop, or None, at once."""
        keeper, loop = self._last, asyncio.get_running_loop()
        if keeper is None or keeper.loop is not loop:
            keeper = self._keepers.get(loop)
            if keeper is None:
                return None
            self._last = keeper
        connection = keeper.connection
        return connection if connection is not None and connection.is_open else None

    async def open(self, *, wait_s: float = ANSWER_S) -> bool:
        """Begin to keep a connection on the running loop; wait a moment for it. Say whether there is one.

        Where an attempt failed a moment ago, nothing is waited for.
        """
        loop = asyncio.get_running_loop()
        keeper = self._keepers.get(loop)
        if keeper is None:
            for other in [one for one in self._keepers if one.is_closed()]:
                self._keepers.pop(other, None)
            keeper = self._keepers[loop] = self._last = _Keeper(self, loop)
            keeper.start()
        if keeper.connection is None and time.monotonic() >= self._wait_again_at:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await keeper.tried.wait()
        return keeper.connection is not None

    async def close(self) -> None:
        """Close the running loop's connection. Those of other loops end with their loops."""
        keeper = self._keepers.get(asyncio.get_running_loop())
        if keeper is not None:
            await keeper.stop()

    def forget(self, loop: asyncio.AbstractEventLoop) -> None:
        """Note that nothing is kept on this loop any more."""
        self._keepers.pop(loop, None)

    def report(self, reason: str) -> None:
        """Note that Redis is not there; with an empty `reason`, that it is."""
        if reason:
            self._wait_again_at = time.monotonic() + MOST_PAUSE_S
        if reason and not self.is_lost:
            self.is_lost = True
            self._lost(reason)
        elif not reason and self.is_lost:
            self.is_lost = False
            self._found()


async def _said(connection: Connection, command: str, *words: str | int) -> None:
    """Send one of the commands with which a connection begins. Raises RedisError, whose reason names the command."""
    try:
        await connection.call(command, *words)
    except RedisError as error:
        raise RedisError(f"{error.reason} at {command}") from error


class _Keeper:
    """Keeps one connection open on one loop: a task, which ends with the loop and takes the connection along."""

    def __init__(self, redis: Redis, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.connection: Connection | None = None
        self.tried = asyncio.Event()
        """Set after the first attempt."""
        self._redis = redis
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = self.loop.create_task(self._keep(), name="garrison redis")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep(self) -> None:
        try:
            await self._hold_again_and_again()
        finally:
            self._redis.forget(self.loop)

    async def _hold_again_and_again(self) -> None:
        failures = 0
        while True:
            opened_at = self.loop.time()
            reason = await self._hold()
            self._redis.report(reason)
            self.tried.set()
            # One that opens and fails at once is no recovery: else it would be tried 20 times a second for ever.
            failures = 0 if self.loop.time() - opened_at > 2 * MOST_PAUSE_S else failures + 1
            pause_s = min(MOST_PAUSE_S, PAUSE_S * 2.0 ** min(failures, 10))
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - to spread many processes, no secret

    async def _hold(self) -> str:
        """Open a connection, keep it as long as it is good, and return why it is not any more."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(CONNECT_S):
                connection = await self._opened()
                await self._redis.check(connection)
            self.connection = connection
            self._redis.report("")
            self.tried.set()
            while True:
                await asyncio.wait({connection.lost}, timeout=CHECK_EVERY_S)
                if connection.lost.done():
                    return connection.lost.result().reason
                await self._redis.check(connection)
        except RedisError as error:
            return error.reason
        except TimeoutError:
            return "timed_out"
        except (OSError, ssl.SSLError):
            return "unreachable"
        finally:
            self.connection = None
            if connection is not None:
                connection.fail(RedisError("closed"))
                await asyncio.sleep(0)  # the transport closes its socket one turn later

    async def _opened(self) -> Connection:
        """Return a connection that has said who we are. Raises RedisError, OSError."""
        address = self._redis.address
        if address.path:
            _, connection = await self.loop.create_unix_connection(Connection, address.path)
        else:
            _, connection = await self.loop.create_connection(Connection, address.host, address.port, ssl=address.tls)
        try:
            if address.password:
                await _said(connection, "AUTH", *((address.user,) if address.user else ()), address.password)
            if address.database:
                await _said(connection, "SELECT", address.database)
        except BaseException:
            connection.fail(RedisError("closed"))
            raise
        return connection
