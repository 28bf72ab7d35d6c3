"""PostgreSQL as the store: one writer at a time over all processes, snapshots for reads, the driver for cold reads.

    asker ──write──▶ queue ──▶ writer thread ── BEGIN, one advisory lock, … COMMIT ──▶ primary
    asker ──read───▶ queue ──▶ reader threads ── REPEATABLE READ, READ ONLY
    guard ──cold───▶ asyncpg, on a loop of its own thread

The lock that every write takes first (`pg_advisory_xact_lock`) makes what the queries were written for true here, too:
what stands between a look and a change is nobody else's, and the order in which rows of the change log are numbered is
the order of their commits, so a reader's cursor passes over nothing. A write costs one round trip more, and one waits
for another's commit (0.3 ms and up): sign-ins are limited by their hashes long before.

Nothing is opened by importing, and nothing is shared with a forked child: each process has connections of its own, made
when it first asks. Every statement has a time-out. After an outage a connection is thrown away, and the next who asks
opens another.
"""

import asyncio
import contextlib
import re
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import asyncpg
from sqlalchemy import Connection, NullPool, event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import greenlet_spawn

from garrison.core.errors import StoreError
from garrison.store.database import Rows
from garrison.store.per_process import PerProcess
from garrison.store.postgresql_errors import store_error_of
from garrison.store.worker import Worker

T = TypeVar("T")
LOCK = 0x6761727269736F6E
"""Key of the advisory lock, "garrison" in ASCII."""
CONNECT_S = 5.0
LOCK_S = 5.0
"""How long a write waits for others."""
STATEMENT_S = 10.0
COLD_S = 2.0
"""How long the guard waits for a cold read: then it is 503."""
MOST_WAITING = 1024
READERS = 2
COLD_CONNECTIONS = 8
_HOST = r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])?(?::[0-9]{1,5})?"
_HOSTS = re.compile(f"{_HOST}(?:,{_HOST})*", re.ASCII)
_SSL_MODES = frozenset({"disable", "allow", "prefer", "require", "verify-ca", "verify-full"})
_SESSION_ATTRIBUTES = frozenset({"any", "read-write", "read-only", "primary", "standby", "prefer-standby"})
_PLACE = re.compile(r"\?")
_BEGIN_READ = f"SELECT set_config('statement_timeout', '{STATEMENT_S * 1000:.0f}', true)"


def check_address(text: str) -> None:
    """Look at `postgresql://user:password@host:port/database?sslmode=…`, hosts with commas. Raises ValueError.

    asyncpg reads it in the end, libpq's environment variables and password file, too; it tells mistakes only when it
    connects.
    """
    parts = urlsplit(text)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    hosts = parts.netloc.rpartition("@")[2]
    if (
        parts.scheme not in ("postgresql", "postgres")
        or parts.path in ("", "/")
        or "/" in parts.path[1:]
        or _HOSTS.fullmatch(hosts) is None
        or parts.fragment
        or options.get("sslmode", "prefer") not in _SSL_MODES
        or options.get("target_session_attrs", "any") not in _SESSION_ATTRIBUTES
    ):
        raise ValueError("write postgresql://user@host:5432/database")


def open_postgresql(text: str, *, most_waiting: int = MOST_WAITING) -> "PostgresDatabase":
    """Return the store at this address. Nothing is connected yet, and nothing migrated. Raises ValueError."""
    check_address(text)
    return PostgresDatabase(text, most_waiting=most_waiting)


class PostgresDatabase(PerProcess["_Connections"]):
    """The port `store.database.Database` on a PostgreSQL database."""

    def __init__(self, address: str, *, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self._address = address
        self._most_waiting = most_waiting
        self._asked = count(1)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on the writer, under the lock. See `Database.write`."""
        return await self._mine().writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a reader. See `Database.read`."""
        return await self._mine().reader().run(work)

    def cold(self, sql: str, parameters: tuple[Any, ...]) -> Awaitable[Rows]:
        """Ask the driver itself. See `Database.cold`."""
        return self._mine().cold.ask(sql, parameters)

    def news(self) -> int:
        """Return another number each time: whether anything was committed, only a query can tell."""
        self._mine()
        return next(self._asked)

    def _connections(self) -> "_Connections":
        return _Connections(self._address, self._most_waiting)


class _Connections:
    """The connections of one process. Making this opens nothing."""

    def __init__(self, address: str, most_waiting: int) -> None:
        self.writer = Worker("garrison-store-writer", _Driver(address, writes=True), most_waiting=most_waiting)
        self._readers = [
            Worker(f"garrison-store-reader-{n}", _Driver(address, writes=False), most_waiting=most_waiting)
            for n in range(READERS)
        ]
        self._turn = count()
        self.cold = _ColdReader(address)

    def reader(self) -> Worker:
        return self._readers[next(self._turn) % READERS]

    def stop(self) -> None:
        """Close all."""
        for reader in self._readers:
            reader.stop()
        self.cold.stop()
        self.writer.stop()


class _Driver:
    """What a worker knows of PostgreSQL: asyncpg lives on a loop, so each worker's thread runs one of its own."""

    def __init__(self, address: str, *, writes: bool, lock_s: float = LOCK_S) -> None:
        self._address = address
        self._begin = _begin_write(lock_s) if writes else _BEGIN_READ
        self._writes = writes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engine: Engine | None = None

    def within(self, work: Callable[[], T]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(greenlet_spawn(work))

    def connect(self) -> Connection:
        if self._engine is None:
            self._engine = _engine(self._address, begin=self._begin, writes=self._writes)
        return self._engine.connect()

    def disconnect(self, connection: Connection) -> None:
        with contextlib.suppress(SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.invalidate()  # and not returned: the transaction may be in any state
        with contextlib.suppress(SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.close()

    def end(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()

    def is_in_transaction(self, connection: Connection) -> bool:
        driver = connection.connection.driver_connection
        return driver is None or bool(driver.is_in_transaction())

    def store_error_of(self, error: BaseException) -> StoreError | None:
        return store_error_of(error)


def _begin_write(lock_s: float) -> str:
    return (
        f"SELECT set_config('lock_timeout', '{lock_s * 1000:.0f}', true),"
        f" set_config('statement_timeout', '{max(lock_s, STATEMENT_S) * 1000:.0f}', true),"
        f" pg_advisory_xact_lock({LOCK})"
    )


def _engine(address: str, *, begin: str, writes: bool) -> Engine:
    async def connect(*_: Any, **__: Any) -> asyncpg.Connection:
        return await asyncpg.connect(address, timeout=CONNECT_S, command_timeout=STATEMENT_S + CONNECT_S)

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        poolclass=NullPool,
        hide_parameters=True,  # an error's text must not carry addresses or digests into a log
        isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
    ).sync_engine
    if not writes:
        engine = engine.execution_options(postgresql_readonly=True)

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "begin", on_begin)
    return engine


class _ColdReader:
    """A small pool for the guard, on a loop and thread of its own, so that any number of loops may ask."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pool: asyncpg.Pool | None = None
        self._closed = False
        self._texts: dict[str, str] = {}

    def ask(self, sql: str, parameters: tuple[Any, ...]) -> Awaitable[Rows]:
        """Return an awaitable of the rows. Raises StoreError where the store is closed."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(self._ask(sql, parameters), self._started()))

    def stop(self) -> None:
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        asyncio.run_coroutine_threadsafe(self._close(), loop).result(CONNECT_S * 2)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._closed:
                raise StoreError("store_unavailable", "the database is closed")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="garrison-store-cold", daemon=True)
                self._thread.start()
            return self._loop

    async def _ask(self, sql: str, parameters: tuple[Any, ...]) -> Rows:
        text = self._texts.get(sql)
        if text is None:
            numbers = count(1)
            text = self._texts.setdefault(sql, _PLACE.sub(lambda _: f"${next(numbers)}", sql))
        try:
            async with asyncio.timeout(COLD_S):
                pool = self._pool or await self._open()
                records = await pool.fetch(text, *parameters)
        except BaseException as error:
            outage = store_error_of(error)
            if outage is None:
                raise
            raise outage from error
        return [tuple(record) for record in records]

    async def _open(self) -> asyncpg.Pool:
        made = asyncpg.create_pool(
            self._address,
            min_size=0,
            max_size=COLD_CONNECTIONS,
            timeout=CONNECT_S,
            command_timeout=COLD_S,
            max_inactive_connection_lifetime=300.0,
        )
        self._pool = made
        await made
        return made

    async def _close(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            with contextlib.suppress(TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await asyncio.wait_for(pool.close(), CONNECT_S)


def run_once(text: str, work: Callable[[Connection], T], *, wait_s: float = LOCK_S) -> T:
    """Run `work` in one write on a connection of its own, and wait: for a start or a command. Blocks the caller.

    On a thread of its own, since a start may stand within a running loop. `wait_s` is how long to wait for others'
    writes. Raises what `work` raises, with nothing written, and StoreError.
    """
    driver = _Driver(text, writes=True, lock_s=wait_s)

    def transact() -> T:
        connection = driver.connect()
        try:
            with connection.begin():
                return work(connection)
        finally:
            driver.disconnect(connection)

    def on_thread() -> T:
        try:
            return driver.within(transact)
        finally:
            driver.end()

    try:
        with ThreadPoolExecutor(1, "garrison-store-once") as thread:
            return thread.submit(on_thread).result()
    except Exception as error:
        outage = store_error_of(error)
        if outage is None:
            raise
        raise outage from error
