"""A change: one transaction with everything that must be in it or not happen at all.

Whoever changes an account or a session must do three things beside: write the event row, append to the ordered log
what other processes have to hear, and let this process's revocation view know before anybody is answered. Here they
cannot be forgotten separately: `work` gets a `Change`, and what it announced is applied as soon as it is durable.

If the caller is cancelled while the transaction commits, nothing is applied here, but the log row is there, and this
process reads it at its next poll like any other.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import Connection

from garrison.core.clock import Clock
from garrison.core.errors import Denied
from garrison.core.events import Event
from garrison.guard.authorize import CHALLENGE_INVALID
from garrison.guard.revocation import RevocationView
from garrison.identity.sessions.queries import is_alive
from garrison.store import audit, log
from garrison.store.database import Database

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a change came from, for its event row: who asked, from which network, by which request.

    With `session_id` the change is made only if that session of the actor's is alive in its own transaction: another
    process may have ended it, and this one not heard of it yet.
    """

    actor: str = ""
    network: str = ""
    route: str = ""
    request_id: str = ""
    session_id: str | None = None


@dataclass(slots=True)
class Change:
    """One transaction under way. `now` is the store's time for everything it writes, Unix seconds."""

    connection: Connection
    now: float
    origin: Origin
    news: list[tuple[str, str, int]] = field(default_factory=list)
    afterwards: list[Callable[[], Awaitable[None]]] = field(default_factory=list)
    """What is to be done once this is durable, and before anybody is told that it is; may raise StoreError."""

    def record(self, kind: str, subject: str, *, actor: str | None = None, **data: Any) -> None:
        """Write an event row. `data` must hold neither secrets nor addresses."""
        origin = self.origin
        event = Event(
            kind=kind,
            actor=origin.actor if actor is None else actor,
            subject=subject,
            network=origin.network,
            route=origin.route,
            request_id=origin.request_id,
            data=data,
        )
        audit.record(self.connection, event, self.now)

    def announce(self, kind: str, subject: str, version: int) -> None:
        """Append to the log that `kind` (`account`, `session` …) `subject` is at `version` now."""
        log.append(self.connection, kind, subject, version, self.now)
        self.news.append((kind, subject, version))


class Changes:
    """Makes changes: the only way this room writes."""

    __slots__ = ("_clock", "_database", "_tell", "_view")

    def __init__(
        self, database: Database, clock: Clock, view: RevocationView, tell: Callable[[], None] | None = None
    ) -> None:
        self._database = database
        self._clock = clock
        self._view = view
        self._tell = tell
        """Says to other processes that there is news."""

    async def make(self, work: Callable[[Change], T], origin: Origin = Origin()) -> T:
        """Run `work` in one transaction and return its result once it is durable and applied to the view.

        Raises what `work` raises, with nothing written, Denied(`invalid_token`) where the session of `origin` has
        ended, and StoreError.
        """
        now = self._clock.now()
        made: list[Change] = []

        def transaction(connection: Connection) -> T:
            if origin.session_id is not None and not is_alive(connection, origin.session_id, origin.actor):
                raise Denied("invalid_token", headers=(CHALLENGE_INVALID,))
            made[:] = [Change(connection, now, origin)]
            return work(made[0])

        result = await self._database.write(transaction)
        for kind, subject, version in made[0].news:
            self._view.applied(kind, subject, version)
        if made[0].news and self._tell is not None:
            self._tell()
        for work_afterwards in made[0].afterwards:
            await work_afterwards()
        return result
