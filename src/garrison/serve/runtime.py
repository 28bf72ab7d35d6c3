"""What runs while an app is guarded: the store, the view, the identity part, the chain, and the work in the background.

    serve    one task polls the log, one cuts streams, one writes idle times and refusals and sweeps under a lease
    close    writes what is pending and lets go of the store

A client that sends no lifespan (`TestClient(app)` without `with`: a new loop for every request) gets no background
tasks: then `maintain` does the poll at each request. Nothing here belongs to an event loop but those tasks. How it
starts: `start.py`.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection

from garrison.core.clock import SystemClock
from garrison.core.errors import StoreError
from garrison.core.ids import new_id
from garrison.core.sealing import Sealer
from garrison.guard.audit import RefusalKey, Refusals
from garrison.guard.chain import Chain
from garrison.guard.revocation import RevocationView
from garrison.guard.shared_limits import SharedLimits
from garrison.guard.streams import MARGIN, Streams
from garrison.serve.settings import Settings
from garrison.serve.wiring import SWEPT, Identity
from garrison.store import audit, leases, log
from garrison.store.database import Database, News
from garrison.store.home import is_at_home
from garrison.store.migrate import ensure_schema
from garrison.store.opening import open_store, write_once
from garrison.store.redis import ANSWER_S, CONNECT_S
from garrison.store.redis_news import RedisNews
from garrison.store.secret_check import check_secret
from garrison.store.statements import store_time
from garrison.store.sweeper import BATCH, store_sweeps, sweep_batch

_log = structlog.get_logger("garrison")
_POLL_EVERY_S = 0.1
_WRITE_EVERY_S = 5.0
_SWEEP_EVERY_S = 30.0
_RETRY_S = 1.0
_END_S = 4.0
"""How long an end waits for a store that does not answer; `serve/server.py` ends the process after 9 s in any case."""
_LEASE_S = 90.0
_POLL_ROWS = 1000
_WAKE_MOST_S = 0.005
"""Least time between two polls, however many changes are told."""
_LOOK_BACK_S = 600.0
_TELL_EVERY_S = 10.0
_MOST_OFF_S = 60.0
"""How far this machine's clock may be off the store's: beyond, it is not ready."""


class Store:
    """The store of one process, and how it hears news: what commands share with servers."""

    def __init__(self, settings: Settings, *, moved: bool = False) -> None:
        """`moved` opens a file that a move has marked, for who takes that back. Raises what a start raises."""
        if not moved:
            ensure_schema(settings.store_address, migrate=settings.development)
        self.clock = SystemClock()
        self.sealer = Sealer(settings.secrets())
        self.is_copy = False
        """Whether the database was copied to where it is, and nobody has said what became of what was revoked since."""
        self.clock.adjust(write_once(settings.store_address, self._first_look))
        self.database: Database = open_store(settings.store_address)
        self.view = RevocationView(self.clock, bound_s=settings.revocation_bound_s)

    def _first_look(self, connection: Connection) -> float:
        """Return the store's time, for commands, which never poll. Raises GarrisonError(`wrong_secret`)."""
        check_secret(connection, self.sealer)
        self.is_copy = not is_at_home(connection)
        return store_time(connection)


class _Storing(NamedTuple):
    """Counted refusals on their way into the store."""

    write: "asyncio.Future[None]"
    counts: dict[RefusalKey, int]
    overflow: int


class Runtime:
    """One guarded app, started."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        identity: Identity,
        chain: Chain,
        streams: Streams,
        refusals: Refusals,
        shared: SharedLimits | None,
        told: RedisNews | None,
    ) -> None:
        self.settings = settings
        self.chain = chain
        self.has_background = False
        self.accounts = identity.accounts
        self.sessions = identity.sessions
        self.keys = identity.keys
        self.clients = identity.clients
        self.issuers = identity.issuers
        self._store = store
        self._database = store.database
        self._clock = store.clock
        self._view = store.view
        self._identity = identity
        self._streams = streams
        self._refusals = refusals
        self._shared = shared
        self._told = told
        self._holder = new_id("evt")
        self._position: int | None = None
        self._state = 0
        self._history = 0
        self._written_at = self._clock.boot()
        self._swept_at = self._clock.boot()
        self._closed = False
        self._tasks: list[asyncio.Task[None]] = []
        self._polled = asyncio.Event()
        """Set after each poll of the background's."""
        self._storing: _Storing | None = None
        self._told_again_at: dict[str, float] = {}
        """Work that fails → boot time at which to say so again."""
        self._reads = True
        """Whether the last poll could read the store."""

    async def ready(self) -> Mapping[str, bool]:
        """Return part → whether it works: the store can be read, news arrives, and Redis, if there is to be one."""
        if not self.has_background:
            self._reads = await self._tried("ready", self._poll)
        parts = {
            "store": self._reads,  # as the last poll found it: anybody may ask as often as they like
            "news": self._view.is_fresh() or not self.has_background,
            "clock": abs(self._clock.wall_error_s()) <= _MOST_OFF_S,
        }
        return parts if self._shared is None else {**parts, "redis": self._shared.redis.connection() is not None}

    async def hear(self) -> None:
        """Ask for news, where no task does so all the time."""
        if not self.has_background:
            await self._tried("news", self._poll)

    async def maintain(self) -> None:
        """Do at a request what the background task does elsewhere: hear the news, keep a connection to Redis.

        A store that cannot be read is the guard's to answer: the view grows stale, and whoever needs the store is told.
        """
        await self._tried("news", self._poll)
        if self._shared is not None:
            await self._shared.open(wait_s=ANSWER_S)

    @contextlib.asynccontextmanager
    async def background(self) -> AsyncIterator[None]:
        """Run the background work as long as the context lasts."""
        await self._poll()
        if self._shared is not None:
            await self._shared.open(wait_s=CONNECT_S)
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(news.set)

        self._database.listen(wake)
        if self._told is not None:
            await self._told.listen(news.set, wait_s=ANSWER_S)
        self._tasks = [
            asyncio.create_task(self._hear(news), name="garrison news"),
            asyncio.create_task(self._keep_house(), name="garrison background"),
            asyncio.create_task(self._watch_streams(), name="garrison streams"),
        ]
        self.has_background = True
        try:
            yield
        finally:
            await self._rest()

    async def _rest(self) -> None:
        """End the background work; safe to repeat."""
        self.has_background = False
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self) -> None:
        """Write what is pending, end the pool, let go of the store; safe to repeat."""
        if self._closed:
            return
        self._closed = True
        if all(task.get_loop() is asyncio.get_running_loop() for task in self._tasks):
            await self._rest()  # before the server is told that all is done, for then it ends whatever still runs
        await self._write_what_is_pending()
        self._identity.passwords.close()
        if self._told is not None:
            await self._told.close()
        if self._shared is not None:
            await self._shared.close()
        await self._database.close()

    async def _write_what_is_pending(self) -> None:
        """Write what waits to be written, as far as the store takes it in time; what is lost is counted."""
        code = "store_busy"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_S):
                for write in (self._write_refusals, self._flush_all, self._identity.tokens.flush):
                    try:
                        await write()
                    except StoreError as error:
                        code = error.code
        if self._storing is not None:
            self._storing.write.cancel()
            self._refusals.restore(self._storing.counts, self._storing.overflow)
        counts, overflow = self._refusals.drain()
        if counts or overflow:
            _log.error("refusals_lost", code=code, count=sum(counts.values()) + overflow)

    async def _flush_all(self) -> None:
        await self._identity.cache.flush(self._clock.now(), force=True)

    async def _hear(self, news: asyncio.Event) -> None:
        """Poll for ever, at once when woken. Nothing else is done here: a write that waits must not make us deaf."""
        while True:
            await asyncio.sleep(_WAKE_MOST_S)
            with contextlib.suppress(TimeoutError):  # not `wait_for`: 3.11's loses a cancellation that comes with news
                async with asyncio.timeout(_POLL_EVERY_S):
                    await news.wait()
            news.clear()
            self._reads = await self._tried("news", self._poll)
            self._polled.set()

    async def _watch_streams(self) -> None:
        """Cut streams whose time is over, for ever, however long a poll may wait."""
        most_s = self.settings.revocation_bound_s * MARGIN * 0.5
        while True:
            await asyncio.sleep(_POLL_EVERY_S)
            if not self._streams.are_trusted():  # a loop that was held up has a poll under way, or about to begin
                self._polled.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(most_s):
                        await self._polled.wait()
            self._streams.sweep(self._clock.now())

    async def _keep_house(self) -> None:
        """Write what waits to be written, and do what is due, for ever."""
        while True:
            await asyncio.sleep(_POLL_EVERY_S)
            if not await self._tried("background", self._house):
                self._written_at = self._swept_at = float("-inf")  # all of it anew, or what is not due passes for done
                await asyncio.sleep(_RETRY_S)

    async def _house(self) -> None:
        boot = self._clock.boot()
        if boot - self._written_at >= _WRITE_EVERY_S:
            self._written_at = boot
            await self._write_refusals()
            await self._identity.cache.flush(self._clock.now())
        await self._identity.signing.keep()
        self._identity.foreign.refresh_if_due()
        await self._identity.tokens.flush()
        if boot - self._swept_at >= _SWEEP_EVERY_S:
            self._swept_at = boot
            await self._sweep()

    async def _tried(self, event: str, work: Callable[[], Awaitable[None]]) -> bool:
        """Do it and say whether it could be done. An outage is logged as it begins, now and then, and as it ends."""
        try:
            await work()
        except StoreError as error:
            boot = self._clock.boot()
            if not self._closed and boot >= self._told_again_at.get(event, 0.0):
                self._told_again_at[event] = boot + _TELL_EVERY_S
                _log.error(event, code=error.code, detail=error.detail)
            return False
        except Exception:
            _log.exception(event)
            return False
        if self._told_again_at.pop(event, None) is not None:
            _log.warning(event, code="recovered")
        return True

    async def _poll(self) -> None:
        """Read the log from where the last poll ended, apply it, and note how fresh that makes the view."""
        clock = self._clock
        started = clock.boot()
        told = self._database.news()
        news = told if isinstance(told, News) else await told
        clock.adjust(news.at_s, started)
        if news.state == self._state and news.history == self._history:
            self._view.polled(started)
            return
        if self._position is None:
            self._position = (await self._rows(log.LAST_POSITION))[0][0]
        elif news.history != self._history:
            await self._look_back(news)
        while True:
            found = await self._rows(log.READ_AFTER, self._position, _POLL_ROWS)
            for position, kind, subject, changed_to in found:
                self._view.applied(kind, subject, changed_to)
                self._position = position
            if len(found) < _POLL_ROWS:
                break
        if self._identity.signing.is_stale:
            await self._identity.signing.load()
        self._state, self._history = news.state, news.history
        self._view.polled(started)

    async def _look_back(self, news: News) -> None:
        """Begin some way before: the store may be one that took over, and lacks what was last written to the other.

        What was verified is verified anew. What is known to have ended stays so: the view only takes in newer numbers.
        """
        self._position = (await self._rows(log.POSITION_BEFORE, news.at_s - _LOOK_BACK_S))[0][0]
        self._identity.cache.forget_all()
        await self._identity.signing.load()

    async def _rows(self, sql: str, *parameters: Any) -> Sequence[tuple[Any, ...]]:
        rows = self._database.cold(sql, parameters)
        return rows if isinstance(rows, list) else await rows

    async def _write_refusals(self) -> None:
        """Store what was counted. A write that an end interrupted goes on, and is waited for by the next call."""
        while True:
            if self._storing is None:
                counts, overflow = self._refusals.drain()
                if not counts and not overflow:
                    return
                self._storing = _Storing(
                    asyncio.ensure_future(self._store_refusals(counts, overflow)), counts, overflow
                )
            storing = self._storing
            try:
                await asyncio.shield(storing.write)
            except StoreError:
                self._refusals.restore(storing.counts, storing.overflow)
                self._storing = None
                raise
            self._storing = None

    async def _store_refusals(self, counts: dict[RefusalKey, int], overflow: int) -> None:
        now = self._clock.now()
        rows: dict[audit.RefusalKeyLike, int] = {
            (key.code, key.who, key.route, key.minute): count for key, count in counts.items()
        }
        await self._database.write(lambda connection: audit.record_refusals(connection, rows, overflow, now))

    async def _sweep(self) -> None:
        """Delete what has expired, in batches, by whoever of all processes holds the lease."""
        now, holder = self._clock.now(), self._holder
        sweeps = (*SWEPT, *store_sweeps())

        def batch(connection: Connection) -> int:
            if not leases.take(connection, "sweep", holder, now=now, ttl_s=_LEASE_S):
                return 0
            return sweep_batch(connection, sweeps, now)

        swept = BATCH
        while swept >= BATCH:
            swept = await self._database.write(batch)
