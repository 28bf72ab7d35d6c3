"""What a store opens, once for each process: nothing is shared with a forked child, nothing opened before it is asked.

No lock: one held by another thread at a fork would stay held.
"""

import asyncio
import os
from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from garrison.core.errors import StoreError


class Stopped(Protocol):
    """What one process has opened."""

    def stop(self) -> None:
        """Close all of it. Blocks until done."""


C = TypeVar("C", bound=Stopped)


class PerProcess(ABC, Generic[C]):
    """A store whose connections are each process's own."""

    def __init__(self) -> None:
        self._closed = False
        self._by_process: dict[int, C] = {}

    @abstractmethod
    def _connections(self) -> C:
        """Return what this process will open. Making it opens nothing."""

    async def close(self) -> None:
        """See `Database.close`."""
        self._closed = True
        mine = self._by_process.pop(os.getpid(), None)
        if mine is not None:
            await asyncio.to_thread(mine.stop)

    def _mine(self) -> C:
        """Return this process's connections. Raises StoreError once the store is closed."""
        if self._closed:
            raise StoreError("store_unavailable", "the database is closed")
        process = os.getpid()
        mine = self._by_process.get(process)
        if mine is None:
            mine = self._by_process.setdefault(process, self._connections())
        return mine
