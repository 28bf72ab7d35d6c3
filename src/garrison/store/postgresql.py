"""PostgreSQL as the store: one writer at a time over all processes, snapshots for reads, the driver for cold reads.

    asker ──write──▶ queue ──▶ writer thread ── BEGIN, one advisory lock, … COMMIT ──▶ primary
    asker ──read───▶ queue ──▶ reader threads ── REPEATABLE READ, READ ONLY
    guard ──cold───▶ asyncpg, on a loop and thread of its own (postgresql_aside.py), which LISTENs, too

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
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection, NullPool, event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only, greenlet_spawn

from garrison.core.errors import StoreError
from garrison.store.database import News, Rows
from garrison.store.per_process import PerProcess
from garrison.store.postgresql_aside import Aside
from garrison.store.postgresql_errors import store_error_of
from garrison.store.postgresql_link import check_address, connect, end_tasks
from garrison.store.postgresql_servers import Servers
from garrison.store.text import refuse_unstorable
from garrison.store.worker import Worker

T = TypeVar("T")
LOCK = 0x6761727269736F6E
"""Key of the advisory lock, "garrison" in ASCII."""
LOCK_S = 5.0
"""How long a write waits for others."""
STATEMENT_S = 5.0
"""How long the server works on one statement."""
IDLE_S = 3.0
"""How long the server waits, within a transaction, for the next statement: less than others wait for the lock.

A machine may be frozen, or cut off, in the middle of a transaction. Its connection lives on, and with it the lock of
all writes: without this nobody on any node could write until the kernel gave the connection up, after two hours."""
ONCE_IDLE_S = 60.0
"""The same for a start or a command, which may read files between two statements."""
MOST_WAITING = 1024
READERS = 2
_UNNAMED = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": lambda: ""}
"""How statements are prepared behind a pooler: see `postgresql_link`."""
_BEGIN_READ = (
    f"SELECT set_config('statement_timeout', '{STATEMENT_S * 1000:.0f}', true),"
    f" set_config('idle_in_transaction_session_timeout', '{IDLE_S * 1000:.0f}', true),"
    " pg_is_in_recovery()"
)
"""A pooler may have turned to a standby, which may lag behind by any time: what it says is not the state of things."""


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

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on the writer, under the lock. See `Database.write`."""
        return await self._mine().writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a reader. See `Database.read`."""
        return await self._mine().reader().run(work)

    def cold(self, sql: str, parameters: tuple[Any, ...]) -> Awaitable[Rows]:
        """Ask the driver itself. See `Database.cold`."""
        return self._mine().aside.ask(sql, parameters)

    def news(self) -> Awaitable[News]:
        """Ask for the log's last position and the server's time. See `Database.news`."""
        return self._mine().aside.news()

    def listen(self, wake: Callable[[], None]) -> None:
        """Hear the server's notifications. See `Database.listen`."""
        self._mine().aside.listen(wake)

    def _connections(self) -> "_Connections":
        return _Connections(self._address, self._most_waiting)


class _Connections:
    """The connections of one process. Making this opens nothing."""

    def __init__(self, address: str, most_waiting: int) -> None:
        servers = Servers(address)
        self.writer = Worker("garrison-store-writer", _Driver(servers, writes=True), most_waiting=most_waiting)
        self._readers = [
            Worker(f"garrison-store-reader-{n}", _Driver(servers, writes=False), most_waiting=most_waiting)
            for n in range(READERS)
        ]
        self._turn = count()
        self.aside = Aside(servers)

    def reader(self) -> Worker:
        return self._readers[next(self._turn) % READERS]

    def stop(self) -> None:
        """Close all."""
        for reader in self._readers:
            reader.stop()
        self.aside.stop()
        self.writer.stop()


class _Driver:
    """What a worker knows of PostgreSQL: asyncpg lives on a loop, so each worker's thread runs one of its own."""

    def __init__(self, servers: Servers, *, writes: bool, lock_s: float = LOCK_S, idle_s: float = IDLE_S) -> None:
        self._servers = servers
        self._answer_s = max(lock_s if writes else 0.0, STATEMENT_S) + 1.0  # a server that is there gives up before
        self._begin = _begin_write(lock_s, idle_s) if writes else _BEGIN_READ
        self._writes = writes
        self._loop: asyncio.AbstractEventLoop | None = None
        self._engines: dict[bool, Engine] = {}
        """Behind a pooler or not → what speaks to it."""
        self._opened: asyncpg.Connection | None = None

    def within(self, work: Callable[[], T]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        return self._loop.run_until_complete(greenlet_spawn(work))

    def connect(self) -> Connection:
        link = await_only(connect(self._servers, command_s=self._answer_s))
        engine = self._engines.get(link.is_pooled)
        if engine is None:
            engine = self._engines[link.is_pooled] = self._engine(is_pooled=link.is_pooled)
        self._opened = link.connection
        return engine.connect()

    def disconnect(self, connection: Connection) -> None:
        if connection.invalidated:  # SQLAlchemy gave it up itself; to ask it for its connection would open another
            return
        driver = connection.connection.driver_connection
        if driver is not None:
            driver.terminate()  # at once: the usual end waits for the farewell of a peer that may be dead
        with contextlib.suppress(SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.invalidate()  # and not returned: the transaction may be in any state
        with contextlib.suppress(SQLAlchemyError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            connection.close()

    def end(self) -> None:
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.run_until_complete(end_tasks())
            loop.close()

    def is_in_transaction(self, connection: Connection) -> bool:
        if connection.invalidated:
            return False
        driver = connection.connection.driver_connection
        return driver is None or bool(driver.is_in_transaction())

    def store_error_of(self, error: BaseException) -> StoreError | None:
        return store_error_of(error)

    def _engine(self, *, is_pooled: bool) -> Engine:
        async def opened(*_: Any) -> asyncpg.Connection:
            return self._opened

        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=opened,
            connect_args=_UNNAMED if is_pooled else {},
            poolclass=NullPool,
            hide_parameters=True,  # an error's text must not carry addresses or digests into a log
            isolation_level="READ COMMITTED" if self._writes else "REPEATABLE READ",
        ).sync_engine
        if not self._writes:
            engine = engine.execution_options(postgresql_readonly=True)

        def on_begin(connection: Connection) -> None:
            begun = connection.exec_driver_sql(self._begin).one()
            if not self._writes and begun[-1]:
                raise StoreError("store_unavailable", "a standby answers, which lags behind")

        event.listen(engine, "begin", on_begin)
        refuse_unstorable(engine)
        return engine


def _begin_write(lock_s: float, idle_s: float) -> str:
    return (
        f"SELECT set_config('lock_timeout', '{lock_s * 1000:.0f}', true),"
        f" set_config('statement_timeout', '{max(lock_s, STATEMENT_S) * 1000:.0f}', true),"
        f" set_config('idle_in_transaction_session_timeout', '{idle_s * 1000:.0f}', true),"
        f" pg_advisory_xact_lock({LOCK})"
    )


def run_once(text: str, work: Callable[[Connection], T], *, wait_s: float = LOCK_S) -> T:
    """Run `work` in one write on a connection of its own, and wait: for a start or a command. Blocks the caller.

    On a thread of its own, since a start may stand within a running loop. `wait_s` is how long to wait for others'
    writes. Raises what `work` raises, with nothing written, and StoreError; KeyboardInterrupt, with nothing written but
    where the commit was under way.
    """
    interrupted = threading.Event()
    driver = _Driver(Servers(text), writes=True, lock_s=wait_s, idle_s=ONCE_IDLE_S)

    def transact() -> T:
        connection = driver.connect()
        try:
            with connection.begin():
                result = work(connection)
                if interrupted.is_set():
                    raise KeyboardInterrupt
                return result
        finally:
            driver.disconnect(connection)

    def on_thread() -> T:
        try:
            return driver.within(transact)
        finally:
            driver.end()

    try:
        with ThreadPoolExecutor(1, "garrison-store-once") as thread:
            try:
                return thread.submit(on_thread).result()
            except KeyboardInterrupt:  # the thread is waited for, and must not do in the end what was called off
                interrupted.set()
                raise
    except Exception as error:
        outage = store_error_of(error)
        if outage is None:
            raise
        raise outage from error
