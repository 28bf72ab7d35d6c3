"""What asks PostgreSQL beside the workers, on an event loop and a thread of its own: cold reads, and the news.

Of its own, so that any number of event loops may ask (a test client has a new one for each request) and none is held
up. A connection that was lost while it lay idle costs its asker nothing: reads are asked once more on a new one.
They change nothing, so they are tried again until their time is over: a restart is waited out. Once the server has
been away for longer than that, nobody waits for it any more.

The log has a connection of its own: however many ask for credentials that nobody knows, this process goes on hearing
what was revoked, and serves those that it knows.
"""

import asyncio
import contextlib
import random
import re
import threading
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from garrison.core.errors import StoreError
from garrison.store.database import News, Rows
from garrison.store.log import CHANNEL, LAST_POSITION, POSITION_BEFORE, READ_AFTER
from garrison.store.postgresql_errors import is_lost, store_error_of
from garrison.store.postgresql_link import CONNECT_S, Link, connect, end_tasks
from garrison.store.postgresql_servers import Servers

COLD_S = 2.0
"""How long the guard waits for a cold read: then it is 503."""
TRY_S = 0.9
"""How long one statement of a cold read waits: a connection that is dead without knowing costs one."""
END_S = 1.0
"""How long an end waits for connections to be closed."""
_PAUSE_S, _PAUSE_MOST_S = 0.02, 0.25
"""Between tries of a cold read, twice as long each time, and shortened at random."""
_PASSING = frozenset({"store_unavailable", "store_busy"})
"""Outages that another try may find over."""
MOST_CONNECTIONS = 7
"""For cold reads; one more is for the log alone."""
MOST_WAITING = 1024
_HEARTBEAT_S = 15.0
"""How often a connection that only listens is asked whether it still lives."""
_RETRY_S = 0.1
_RETRY_MOST_S = 2.0
_NEWS = (
    "SELECT extract(epoch FROM clock_timestamp())::float8, (SELECT coalesce(max(position), 0) FROM changes),"
    " pg_postmaster_start_time()"
)
"""When it was started tells one server from another: behind a pooler no connection is lost when one takes over."""
_OF_LOG = frozenset({_NEWS, READ_AFTER, LAST_POSITION, POSITION_BEFORE})
_PLACE = re.compile(r"\?")


class Aside:
    """The loop and its thread, begun by the first who asks."""

    def __init__(self, servers: Servers) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._started_at: Any = None
        """When the server was started that told the last news; `_others`: how often it was another one."""
        self._reader = _ColdReader(servers, most_connections=MOST_CONNECTIONS)
        self._log_reader = _ColdReader(servers, most_connections=1)
        self._others = 1
        self._listener = _Listener(servers)
        self._listening: asyncio.Task[None] | None = None

    async def news(self) -> News:
        """See `Database.news`."""
        [(at_s, position, started_at)] = await self.ask(_NEWS, ())
        if self._started_at not in (None, started_at):
            self._others += 1
        self._started_at = started_at
        return News(position, self._others + self._reader.losses + self._log_reader.losses, at_s)

    def ask(self, sql: str, parameters: tuple[Any, ...]) -> Awaitable[Rows]:
        """Return an awaitable of the rows. Raises StoreError where the store is closed."""
        reader = self._log_reader if sql in _OF_LOG else self._reader
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(reader.ask(sql, parameters), self._started()))

    def listen(self, wake: Callable[[], None]) -> None:
        """Call `wake`, on this thread, at news, and whenever some may have been missed."""

        def begin() -> None:
            if self._listening is None:
                self._listening = asyncio.ensure_future(self._listener.run(wake))

        self._started().call_soon_threadsafe(begin)

    def stop(self) -> None:
        """Close all connections and end the thread. Blocks until done; again is fine."""
        with self._lock:
            self._closed = True
            loop, thread, self._loop = self._loop, self._thread, None
        if loop is None or thread is None:
            return
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(self._end(), loop).result(END_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(END_S)
        if not thread.is_alive():
            loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise StoreError("store_unavailable", "the database is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="garrison-store-aside", daemon=True)
                self._thread.start()
            return self._loop

    async def _end(self) -> None:
        await end_tasks()
        await self._reader.close()
        await self._log_reader.close()


class _Reader:
    """A connection for cold reads, and what it has prepared."""

    def __init__(self, link: Link) -> None:
        self.connection, self._is_pooled = link
        self._prepared: dict[str, PreparedStatement] = {}

    async def fetch(self, sql: str, parameters: tuple[Any, ...]) -> Rows:
        if self._is_pooled:
            await self.connection.execute("BEGIN READ WRITE")  # a standby, to which a pooler may have turned, refuses
            found = await self.connection.fetch(sql, *parameters)
            await self.connection.execute("COMMIT")
            return [tuple(record) for record in found]
        statement = self._prepared.get(sql)
        if statement is None:
            statement = self._prepared[sql] = await self.connection.prepare(sql)
        return [tuple(record) for record in await statement.fetch(*parameters)]


class _ColdReader:
    """Connections that lie idle, the last used first; at most so many at once."""

    def __init__(self, servers: Servers, *, most_connections: int) -> None:
        self._servers = servers
        self._idle: list[_Reader] = []
        self._places = asyncio.Semaphore(most_connections)
        self._waiting = 0
        self._failing_since: float | None = None
        self._texts: dict[str, str] = {}
        self.losses = 0
        """Of connections: after one the server may have gone back to an earlier state."""

    async def ask(self, sql: str, parameters: tuple[Any, ...]) -> Rows:
        text = self._texts.get(sql)
        if text is None:
            numbers = count(1)
            text = self._texts.setdefault(sql, _PLACE.sub(lambda _: f"${next(numbers)}", sql))
        if self._waiting >= MOST_WAITING:
            raise StoreError("store_busy", "too many wait for the database")
        asked = asyncio.ensure_future(self._ask_in_turn(text, parameters))
        asked.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(asked)  # an asker who leaves costs no connection

    async def _ask_in_turn(self, text: str, parameters: tuple[Any, ...]) -> Rows:
        self._waiting += 1
        try:
            async with asyncio.timeout(COLD_S), self._places:
                rows = await self._persist(text, parameters)
        except BaseException as error:
            outage = store_error_of(error)
            if outage is None:
                raise
            self._note_failure()
            raise outage from error
        finally:
            self._waiting -= 1
        self._failing_since = None
        return rows

    async def _persist(self, text: str, parameters: tuple[Any, ...]) -> Rows:
        """Try until there is an answer, as long as the outage is a young one."""
        pause_s = _PAUSE_S
        while True:
            try:
                return await self._ask(text, parameters)
            except Exception as error:
                outage = store_error_of(error)
                if outage is None or outage.code not in _PASSING or self._note_failure() > COLD_S:
                    raise
                self._drop_idle()  # what ended one has ended the others, or they are cheap to make
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - so that not all come back at once
            pause_s = min(2 * pause_s, _PAUSE_MOST_S)

    def _note_failure(self) -> float:
        """Return for how many seconds nobody has had an answer."""
        now = asyncio.get_running_loop().time()
        if self._failing_since is None:
            self._failing_since = now
        return now - self._failing_since

    async def _ask(self, text: str, parameters: tuple[Any, ...]) -> Rows:
        if self._idle:
            reader = self._idle.pop()
            try:
                return await self._fetch(reader, text, parameters)
            except Exception as error:
                if not is_lost(error):
                    raise
                self._drop_idle()  # lost while it lay there, and so are the others
        return await self._fetch(_Reader(await connect(self._servers, command_s=TRY_S)), text, parameters)

    async def _fetch(self, reader: _Reader, text: str, parameters: tuple[Any, ...]) -> Rows:
        try:
            rows = await reader.fetch(text, parameters)
        except BaseException as error:
            reader.connection.terminate()
            if is_lost(error):
                self.losses += 1
            raise
        self._idle.append(reader)
        return rows

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for reader in idle:
            reader.connection.terminate()

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for reader in idle:
            with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await reader.connection.close(timeout=1.0)


class _Listener:
    """LISTEN on a connection of its own, for as long as there is one to be had."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    async def run(self, wake: Callable[[], None]) -> None:
        """Call `wake` at news until cancelled. Behind a pooler there is nothing to hear: the poll is all there is."""
        pause = _RETRY_S
        while True:
            try:
                connection, is_pooled = await connect(self._servers, command_s=CONNECT_S)
                try:
                    if is_pooled:
                        return
                    pause = _RETRY_S
                    await self._hear(connection, wake)
                finally:
                    connection.terminate()
            except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pass  # who needs an answer of the database is told by the poll
            await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - so that not all come back at once
            pause = min(pause * 2, _RETRY_MOST_S)

    async def _hear(self, connection: asyncpg.Connection, wake: Callable[[], None]) -> None:
        ended = asyncio.Event()
        connection.add_termination_listener(lambda _: ended.set())
        await connection.add_listener(CHANNEL, lambda *_: wake())
        wake()  # of what came while nobody listened
        while not ended.is_set():
            try:
                async with asyncio.timeout(_HEARTBEAT_S):
                    await ended.wait()
            except TimeoutError:
                await connection.execute("SELECT 1")
