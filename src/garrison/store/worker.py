"""One thread that owns one connection and runs what it is asked, in order.

Why a thread: a transaction ends with an fsync (0.3 ms on a good disk, seconds on a bad one), and there is one writer at
a time anyway, so one queue in front of one connection costs nothing and needs no retries. Nothing here belongs to an
event loop: each asker waits on a future of its own loop, and a loop that is gone by the time of the answer loses
nothing but the answer (`TestClient` uses a new loop for each request).

The queue is bounded: beyond `most_waiting`, askers are refused at once (`store_busy`) instead of piling up. The
connection is opened by the first job. After an outage it is thrown away and opened anew by the next job, so a disk
that comes back is used again. If the thread ends, for whatever reason, those that wait get a StoreError.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection, RootTransaction

from garrison.core.errors import StoreError

T = TypeVar("T")
PATIENCE_S = 10.0
"""How long an asker waits in all, for those before it and for its own transaction."""
Work = Callable[[Connection], Any]


class Driver(Protocol):
    """What a worker has to know of its database. Everything is called on the worker's thread."""

    def within(self, work: Callable[[], T]) -> T:
        """Run `work`, as this driver's connections want to be used."""

    def connect(self) -> Connection:
        """Open a connection whose transactions are what this worker is for. Raises the driver's errors."""

    def disconnect(self, connection: Connection) -> None:
        """Close it; it may be in any state. Raises nothing."""

    def end(self) -> None:
        """Put away what `within` needed: the thread ends. Another may begin."""

    def is_in_transaction(self, connection: Connection) -> bool:
        """Say whether the connection is in a transaction, by the driver's own word."""

    def store_error_of(self, error: BaseException) -> StoreError | None:
        """Return the outage that an error stands for, None if it stands for none."""


class Worker:
    """A thread, its queue and its connection."""

    def __init__(
        self,
        name: str,
        driver: Driver,
        *,
        most_waiting: int,
    ) -> None:
        self._name = name
        self._driver = driver
        self._most_waiting = most_waiting
        self._connection: Connection | None = None  # the thread's own
        self._changed = threading.Condition()
        self._waiting: deque[_Job] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction on the thread; return its result once that has committed.

        Raises what `work` raises, and StoreError: after a transaction that took too long, or whose connection broke
        while it committed, it may have happened or not.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, loop)
        with self._changed:
            if self._closed:
                raise _closed()
            if len(self._waiting) >= self._most_waiting:
                raise StoreError("store_busy", "too many wait for the database")
            self._waiting.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name=self._name, daemon=True)
                self._thread.start()
            self._changed.notify()
        waiting = asyncio.timeout(PATIENCE_S)
        try:
            async with waiting:
                result: T = await job.future  # ended by the time-out, it is cancelled, and one not begun never begins
        except TimeoutError as error:
            if not waiting.expired():
                raise
            raise StoreError("store_busy", "the database takes too long") from error
        return result

    def stop(self) -> None:
        """Finish the job under way, refuse the rest, close the connection. Blocks until done; again is fine."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _serve(self) -> None:
        try:
            while (job := self._next()) is not None:
                job.do(self._transact)
                del job  # a job holds its result; do not keep it until the next one comes
        finally:
            with self._changed:
                self._thread = None
                refused, self._waiting = self._waiting, deque()
            self._driver.within(self._drop)
            self._driver.end()
            for job in refused:
                job.fail(_closed())

    def _next(self) -> "_Job | None":
        """Wait for a job; None when closed."""
        with self._changed:
            while not self._closed:
                while self._waiting:
                    job = self._waiting.popleft()
                    if not job.future.cancelled():
                        return job
                self._changed.wait()
        return None

    def _transact(self, work: Work) -> Any:
        return self._driver.within(lambda: self._transact_within(work))

    def _transact_within(self, work: Work) -> Any:
        driver = self._driver
        try:
            begun = self._begin()
            connection = begun.connection
            with begun:
                result = work(connection)
                if not driver.is_in_transaction(connection):  # some roll back by themselves after some errors
                    raise StoreError("store_unavailable", "the transaction was rolled back")
        except BaseException as error:
            outage = error if isinstance(error, StoreError) else driver.store_error_of(error)
            if outage is not None or (self._connection is not None and driver.is_in_transaction(self._connection)):
                self._drop()
            if outage is None or outage is error:
                raise
            raise outage from error
        return result

    def _begin(self) -> RootTransaction:
        """Begin a transaction; where the connection was lost while it lay idle, on a new one: nothing has run yet."""
        if self._connection is not None:
            try:
                return self._connection.begin()
            except Exception as error:
                outage = self._driver.store_error_of(error)
                if outage is None or outage.code != "store_unavailable":
                    raise
                self._drop()
        self._connection = self._driver.connect()
        return self._connection.begin()

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._driver.disconnect(connection)


class _Job:
    """What is asked, and who waits for it on which loop."""

    __slots__ = ("_loop", "_work", "future")

    def __init__(self, work: Work, loop: asyncio.AbstractEventLoop) -> None:
        self._work = work
        self._loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def do(self, transact: Callable[[Work], Any]) -> None:
        try:
            result = transact(self._work)
        except StopIteration as error:  # a future takes anything but this one, and its asker would wait for ever
            self.fail(RuntimeError(f"the work raised {error!r}"))
        except BaseException as error:
            self.fail(error)
        else:
            self._tell(_set_result, result)

    def fail(self, error: BaseException) -> None:
        self._tell(_set_exception, error)

    def _tell(self, settle: Callable[["asyncio.Future[Any]", Any], None], value: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(settle, self.future, value)
        except RuntimeError:
            return  # the loop is closed: nobody waits


def _set_result(future: "asyncio.Future[Any]", result: Any) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: "asyncio.Future[Any]", error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


def _closed() -> StoreError:
    return StoreError("store_unavailable", "the database is closed")
