"""Threads that hash passwords: few, polite, and bounded.

A hash is 20 to 40 ms of pure CPU, and anybody may ask for one. On the event loop it would stop every other request;
in an unbounded pool a storm of sign-ins would take every core and then all memory (CWE-400; reliability.md T8). So:

* as many threads as there are cores less one, each at a lower scheduling priority than the rest of the process
  (argon2 releases the GIL, so the loop runs meanwhile);
* a bounded queue: when it is full, the caller is shed at once, without having cost anything;
* a bounded wait: who has not been begun in time is shed by a timer, not when a thread happens to look.

The pool belongs to no event loop: each result goes back to the loop that asked, which may be a new one for every
request. A caller that goes away while waiting takes its place in the queue with it.
"""

import asyncio
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from garrison.core.errors import Denied

T = TypeVar("T")
NICENESS = 10
"""Enough that a busy API goes first; 19 would let a saturated API starve sign-ins altogether."""


class HashPool:
    """A pool of threads for hashing. Threads start at first use, so that it may be made before a fork."""

    def __init__(self, *, threads: int | None = None, queue: int = 32, timeout_s: float = 2.0) -> None:
        self.threads = threads if threads is not None else max(1, (os.cpu_count() or 2) - 1)
        self._max_waiting = queue * self.threads
        self._timeout_s = timeout_s
        self._waiting: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._started = False
        self._closed = False
        self._workers: list[threading.Thread] = []

    def is_full(self) -> bool:
        """Say whether a job would be shed right now; lets callers shed before they touch the store."""
        return len(self._waiting) >= self._max_waiting or self._closed

    async def run(self, work: Callable[[], T]) -> T:
        """Run `work` in a thread and return its result, or raise what it raises.

        Raises Denied(`overloaded`) with Retry-After when the queue is full, or when no thread was free in time.
        """
        loop = asyncio.get_running_loop()
        job = _Job(work, loop)
        with self._changed:
            if self.is_full():
                raise _overloaded()
            if not self._started:
                self._start()
            self._waiting.append(job)
            self._changed.notify()
        timer = loop.call_later(self._timeout_s, self._expire, job)
        try:
            result: T = await job.future
            return result
        finally:
            timer.cancel()
            self._withdraw(job)

    def close(self) -> None:
        """Shed whoever waits and end the threads once they finished what they are at; safe to repeat."""
        with self._changed:
            self._closed = True
            shed = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for job in shed:
            job.settle(None, _overloaded())
        for worker in self._workers:
            if worker is not threading.current_thread():
                worker.join(timeout=5)

    def _start(self) -> None:
        self._started = True
        for number in range(self.threads):
            worker = threading.Thread(target=self._work, name=f"garrison-hash-{number}", daemon=True)
            self._workers.append(worker)
            worker.start()

    def _work(self) -> None:
        # Linux: the priority of this thread alone. Elsewhere, or in a sandbox, hashing runs at the usual priority.
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            with self._changed:
                while not self._waiting:
                    if self._closed:
                        return
                    self._changed.wait()
                job = self._waiting.popleft()
            try:
                result, error = job.work(), None
            except BaseException as raised:  # handed to whoever asked; the thread lives on
                result, error = None, raised
            job.settle(result, error)
            del job, result, error

    def _expire(self, job: "_Job") -> None:
        if self._withdraw(job):
            job.finish(None, _overloaded())

    def _withdraw(self, job: "_Job") -> bool:
        """Take the job out of the queue; False when a thread has it already."""
        with self._changed:
            try:
                self._waiting.remove(job)
            except ValueError:
                return False
            return True


class _Job:
    """One piece of work and the future, of the asker's own loop, that waits for it."""

    __slots__ = ("future", "loop", "work")

    def __init__(self, work: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def settle(self, result: Any, error: BaseException | None) -> None:
        """Hand over the outcome from a thread; the asker's loop may be closed by now."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.finish, result, error)

    def finish(self, result: Any, error: BaseException | None) -> None:
        """Set the outcome, in the asker's loop; an asker that went away has cancelled the future."""
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


def _overloaded() -> Denied:
    return Denied("overloaded", headers=((b"retry-after", b"2"),))
