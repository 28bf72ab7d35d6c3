"""SQLite as the store: one file, one writer, and every commit on the disk before anybody is answered.

    asker ──write──▶ queue ──▶ writer thread ── BEGIN IMMEDIATE … COMMIT (fsync) ──▶ file + write-ahead log
    asker ──read───▶ queue ──▶ reader thread ── BEGIN … on a snapshot
    guard ──cold───▶ inline, on the caller's thread, about 6 µs

WAL, because then readers and the writer do not wait for each other. `synchronous=FULL`, because an acknowledged
revocation must outlive a power cut; with WAL's usual NORMAL the last commits may be lost (a commit costs 0.3 ms).
Other processes on the same file take turns by SQLite's own locks and see each other's commits at once.

Nothing is opened by importing, and nothing is shared with a forked child: each process has connections of its own, made
when it first asks (SQLite's "how to corrupt": never carry a connection across fork).
What this does not do: network file systems. WAL needs shared memory; where it cannot be had, opening fails.
"""

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import quote

from sqlalchemy import Connection, NullPool, create_engine, event
from sqlalchemy.exc import SQLAlchemyError

from garrison.core.errors import StoreError
from garrison.store.database import News, Rows
from garrison.store.per_process import PerProcess
from garrison.store.sqlite_errors import store_error_of
from garrison.store.text import refuse_unstorable
from garrison.store.worker import Worker

T = TypeVar("T")
BUSY_S = 5.0
"""How long a writer waits for other processes."""
COLD_BUSY_S = 0.1
"""How long a cold read waits; it holds up the event loop. In WAL it waits only for the recovery after a crash."""
MOST_WAITING = 1024
"""Most transactions that wait for the writer, and for the reader: about 0.3 s of commits on a good disk."""
_JOURNAL_BYTES = 64 * 1024 * 1024
_URL = "sqlite:///"


def sqlite_path(path_or_url: str | Path) -> Path:
    """Return the absolute path that a path or `sqlite:///…` names; relative ones begin at the current directory.

    Raises ValueError: another kind of database, parameters, or one in memory, which several connections cannot share.
    """
    text = str(path_or_url)
    if isinstance(path_or_url, str) and "://" in text:
        if not text.startswith(_URL) or "?" in text:
            raise ValueError("write sqlite:///path/to/file.db")
        text = text.removeprefix(_URL)
    if text in ("", ".", ":memory:") or text.startswith("file:") or "\x00" in text:
        raise ValueError("write sqlite:///path/to/file.db; a database in memory cannot be shared")
    return Path(text).absolute()


def create_file(path: Path) -> None:
    """Make the file (0600) and the directories above it (0700) where they are missing. Raises StoreError.

    A file that exists is not even opened: closing it again would drop every lock that this process's own connections
    hold on it (POSIX advisory locks belong to the process, not to the descriptor).
    """
    try:
        for directory in reversed([one for one in path.parents if not one.exists()]):
            directory.mkdir(mode=0o700, exist_ok=True)
        if path.exists():
            return
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        directory_descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory_descriptor)  # the name must outlive a power cut, like what is in the file
        finally:
            os.close(directory_descriptor)
    except OSError as error:
        raise StoreError("store_unavailable", f"the database file cannot be made: {error.strerror}") from error


def open_sqlite(path_or_url: str | Path, *, most_waiting: int = MOST_WAITING) -> "SqliteDatabase":
    """Return the store in this file, which is made where it is missing. It is not migrated (`migrate.ensure_schema`).

    Raises ValueError for what `sqlite_path` refuses, StoreError where the file cannot be made.
    """
    path = sqlite_path(path_or_url)
    create_file(path)
    return SqliteDatabase(path, most_waiting=most_waiting)


def write_once(path_or_url: str | Path, work: Callable[[Connection], T], *, wait_s: float = BUSY_S) -> T:
    """Run `work` in one transaction on a connection of its own, and wait: for a start, where no loop runs yet.

    Raises what `work` raises, with nothing written, and StoreError.
    """
    try:
        connection = connect(sqlite_path(path_or_url), begin="BEGIN IMMEDIATE", busy_s=wait_s)
        try:
            with connection.begin():
                return work(connection)
        finally:
            _close(connection)
    except (sqlite3.Error, SQLAlchemyError) as error:
        outage = store_error_of(error)
        if outage is None:
            raise
        raise outage from error


def connect_driver(path: Path, *, busy_s: float = BUSY_S) -> sqlite3.Connection:
    """Open a plain connection to a file that exists; one that vanished is an outage and not a new, empty database."""
    return sqlite3.connect(
        f"file:{quote(str(path))}?mode=rw",
        uri=True,
        timeout=busy_s,
        isolation_level=None,  # transactions are begun by us, where we want them
        check_same_thread=False,
        cached_statements=256,
    )


def connect(path: Path, *, begin: str, busy_s: float = BUSY_S, alone: bool = False) -> Connection:
    """Open a SQLAlchemy connection whose transactions start with `begin`. Raises sqlite3's errors.

    `alone`: nobody else may have the file open, nor open it before this connection is closed.
    """
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: connect_driver(path, busy_s=busy_s),
        poolclass=NullPool,
        hide_parameters=True,  # an error's text must not carry addresses or digests into a log
    )

    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    event.listen(engine, "begin", on_begin)
    refuse_unstorable(engine)
    connection = engine.connect()
    try:
        if alone:
            _driver(connection).execute("PRAGMA locking_mode=EXCLUSIVE")  # in force from the first look into the file
        _configure(_driver(connection))
    except BaseException:
        connection.close()
        raise
    return connection


class SqliteDatabase(PerProcess["_Connections"]):
    """The port `store.database.Database` on one SQLite file."""

    def __init__(self, path: Path, *, most_waiting: int = MOST_WAITING) -> None:
        super().__init__()
        self._path = path
        self._most_waiting = most_waiting

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on the writer, in a transaction begun with BEGIN IMMEDIATE. See `Database.write`."""
        return await self._mine().writer.run(work)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on the reader. See `Database.read`."""
        return await self._mine().reader.run(work)

    def cold(self, sql: str, parameters: tuple[Any, ...]) -> Rows:
        """Run one SELECT inline and return its rows. Raises StoreError."""
        return self._mine().cold.ask(sql, parameters)

    def news(self) -> News:
        """Return the number of the file's state, by PRAGMA data_version, and this machine's time. Raises StoreError.

        The pragma reports the commits of other connections, and the connection that asks never writes: so it reports
        this process's own commits, too.
        """
        state, opened = self._mine().cold.version()
        return News(state, opened, time.time())

    def listen(self, wake: Callable[[], None]) -> None:
        """Do nothing: a file tells nobody, and asking it costs microseconds."""

    def _connections(self) -> "_Connections":
        return _Connections(self._path, self._most_waiting)


class _Connections:
    """The connections of one process. Making this opens nothing."""

    def __init__(self, path: Path, most_waiting: int) -> None:
        self.writer = Worker("garrison-store-writer", _Driver(path, begin="BEGIN IMMEDIATE"), most_waiting=most_waiting)
        self.reader = Worker("garrison-store-reader", _Driver(path, begin="BEGIN"), most_waiting=most_waiting)
        self.cold = _ColdReader(path)

    def stop(self) -> None:
        """Close all; the writer last, so that nothing of ours holds its checkpoint up.

        The write-ahead log is copied into the file as far as other processes allow.
        """
        self.reader.stop()
        self.cold.stop()
        self.writer.stop()


class _Driver:
    """What a worker knows of SQLite: `BEGIN IMMEDIATE` is the writer, `BEGIN` a reader that cannot write."""

    def __init__(self, path: Path, *, begin: str) -> None:
        self._path = path
        self._begin = begin

    def within(self, work: Callable[[], T]) -> T:
        return work()

    def connect(self) -> Connection:
        connection = connect(self._path, begin=self._begin)
        return connection if self._is_writer() else _read_only(connection)

    def disconnect(self, connection: Connection) -> None:
        _close_writer(connection) if self._is_writer() else _close(connection)

    def end(self) -> None:
        pass

    def is_in_transaction(self, connection: Connection) -> bool:
        return bool(getattr(connection.connection.driver_connection, "in_transaction", True))

    def store_error_of(self, error: BaseException) -> StoreError | None:
        return store_error_of(error)

    def _is_writer(self) -> bool:
        return self._begin == "BEGIN IMMEDIATE"


class _ColdReader:
    """One plain connection for the guard, asked by whichever thread runs an event loop; the lock costs 0.1 µs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._opened = 0
        self._closed = False

    def ask(self, sql: str, parameters: tuple[Any, ...]) -> Rows:
        with self._lock:
            return self._ask(sql, parameters)

    def version(self) -> tuple[int, int]:
        """Return the file's state, and how often it was opened; a new connection counts from one again."""
        with self._lock:
            version = int(self._ask("PRAGMA data_version", ())[0][0])
            return self._opened << 32 | version, self._opened

    def stop(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()

    def _ask(self, sql: str, parameters: tuple[Any, ...]) -> Rows:
        try:
            connection = self._connection or self._open()
            return connection.execute(sql, parameters).fetchall()  # to the end, or its snapshot would stay open
        except sqlite3.Error as error:
            outage = store_error_of(error)
            if outage is None:
                raise
            self._drop()
            raise outage from error

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreError("store_unavailable", "the database is closed")
        connection = connect_driver(self._path, busy_s=COLD_BUSY_S)
        connection.execute("PRAGMA query_only=ON")
        connection.execute("PRAGMA trusted_schema=OFF")
        self._opened += 1
        self._connection = connection
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _configure(driver: sqlite3.Connection) -> None:
    """Set what holds per connection, and WAL, which holds for the file. Raises sqlite3.Error, StoreError."""
    [(mode,)] = driver.execute("PRAGMA journal_mode=WAL").fetchall()
    if mode != "wal":
        raise StoreError("store_unavailable", "the file system cannot hold a database with a write-ahead log")
    driver.execute("PRAGMA synchronous=FULL")
    driver.execute("PRAGMA foreign_keys=ON")
    driver.execute("PRAGMA trusted_schema=OFF")
    driver.execute(f"PRAGMA journal_size_limit={_JOURNAL_BYTES}")


def _read_only(connection: Connection) -> Connection:
    _driver(connection).execute("PRAGMA query_only=ON")
    return connection


def _close_writer(connection: Connection) -> None:
    with contextlib.suppress(
        sqlite3.Error, SQLAlchemyError
    ):  # what is not copied now stays in the log and is as durable there
        driver = _driver(connection)
        driver.execute("PRAGMA busy_timeout=0")  # others' reads must not hold up our end
        driver.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    _close(connection)


def _close(connection: Connection) -> None:
    with contextlib.suppress(sqlite3.Error, SQLAlchemyError):
        connection.invalidate()  # and not returned: the transaction may be in any state, and closing rolls it back
    with contextlib.suppress(sqlite3.Error, SQLAlchemyError):
        connection.close()


def _driver(connection: Connection) -> sqlite3.Connection:
    return cast("sqlite3.Connection", connection.connection.driver_connection)
