"""The port to a store. Queries are plain functions of a SQLAlchemy connection; this runs them.

What a query function may do is the same for every store: execute statements on the connection it is given, within the
one transaction that it is given. It neither commits, nor waits for anything else, nor keeps the connection.
There is no get and set: whatever must hold between a look and a change stands in one function, in one transaction.
"""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")
Rows = list[tuple[Any, ...]]


class News(NamedTuple):
    """What a poll is told first."""

    state: int
    """Another number once anybody, this process too, has written to the change log; equal numbers: nothing to read."""
    history: int
    """Another number once connections were lost: the store may have gone back to an earlier state (a failover)."""
    at_s: float
    """The store's own time, Unix seconds."""


class Database(Protocol):
    """A store. Everything raises StoreError when the store cannot answer; whoever asked must then say no.

    `store_unavailable`: out of reach, read-only, damaged or closed. `store_full`: no space. `store_busy`: too many
    wait already, or others held the lock for too long. `store_schema`: the tables are not those of this version.
    """

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction that excludes other writers; it is durable when this returns.

        What `work` raises is raised here, with nothing written. If the caller is cancelled, the transaction still
        commits or rolls back as a whole; one that had not begun never begins. A statement with a text that some store
        cannot hold raises Denied(`bad_request`), here and in `read` (`store/text.py`).
        """

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on one snapshot, without a lock; a write in it fails."""

    def cold(self, sql: str, parameters: tuple[Any, ...]) -> Rows | Awaitable[Rows]:
        """Ask the driver itself, for the guard's cold reads; `?` stands for a parameter. Sees every earlier commit.

        No parameter may be text as a client sent it (`store/text.py`).
        """

    def news(self) -> "News | Awaitable[News]":
        """Return what a poll has to know; see `News`. Take it before the read that it stands for."""

    def listen(self, wake: Callable[[], None]) -> None:
        """Have `wake` called, on any thread, soon after anybody has written to the change log.

        A hint and no promise: it may come for nothing, or not at all. Stores that nobody can listen to do nothing.
        """

    async def close(self) -> None:
        """Finish the transaction under way, refuse those that wait (StoreError), and close. Again is fine."""
