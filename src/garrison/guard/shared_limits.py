"""Limits that all nodes share, counted in Redis; and what holds while Redis is not there.

    refused a moment ago        refused again, nothing is asked: a counter only grows, so Redis would say the same
    Redis is there              one hit among those of this turn (`store/redis_counters.py`), exact over all nodes
    Redis is not there          counted in this process, a share of 1/N: never unlimited, never all refused

N is the number of processes that lived when Redis was last there (each says so once a second), at least as many as
share the limits by the settings. What was counted in Redis is not known to the local counters, nor the other way
round: over one outage a limit may be used once before, once during and once after it. Both ends are events,
`limits_local` and `limits_shared`. So is `limits_forgotten`, when Redis has lost what it knew: then every limit begins
anew, while what was refused a moment ago stays so. Sign-ins are throttled in SQL and are not concerned. Where Redis
keeps what opens sessions, too, each of the three has a second event beside it, for what that means to people.

Names of counters are HMACs under a sub-key of SECRET: they tell nobody an address or an id, and two installations on
one Redis do not meet. While SECRET is rotated, nodes with another one count apart.

Hits in advance (`LIMIT_LEASE`, k; for a far-away Redis): where a node sees a key faster than its limit refills, it pays
for k more hits at once and admits those without asking. What it has not used after the time in which the limit refills
by k is thrown away. So a hit is admitted at most that long after it was paid for, and no more than the limit and k are
admitted in any period, however many nodes there are. Off unless asked for, and never for what guards a secret.
"""

import asyncio
import hmac
import secrets
from collections.abc import Sequence

import structlog

from garrison.core.durations import Limit
from garrison.core.sealing import Sealer
from garrison.guard.limit_table import LimitTable, MemoryLimiter
from garrison.guard.limiter import Left
from garrison.store.redis import Connection, Redis, RedisAddress, RedisError
from garrison.store.redis_counters import Quota, Turn, beat, bulk, leave

MOST_KNOWN = 65_536
"""Keys whose name or wait is remembered, of all limits together: about 25 MB."""
ALIVE_S = 5.0
_KEY_BYTES = 16
_log = structlog.get_logger("garrison")


class _Known:
    """What this process knows of one key."""

    __slots__ = ("hit_at", "left", "name", "paid", "paid_until", "refused_until")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.refused_until = float("-inf")
        self.hit_at = float("-inf")
        self.paid = 0
        self.paid_until = 0.0
        self.left = 0.0


_Hit = tuple["asyncio.Future[float] | None", "SharedLimiter", _Known, str, float]
"""A hit under way: who waits (None: nobody, it is paid in advance), and what `SharedLimiter.take` was asked. A plain
tuple, because one with names costs more to make."""


class SharedLimits:
    """The limits of one process, counted in Redis with those of all others; makes `SharedLimiter`s."""

    def __init__(self, address: RedisAddress, sealer: Sealer, *, lease: int = 0, keeps_sessions: bool = False) -> None:
        """`keeps_sessions`: what opens a session is there, too."""
        self.redis = Redis(address, self._check, lost=self._on_lost, found=self._on_found)
        self.local = LimitTable()
        self.lease = lease
        self._secret = sealer.subkey("limits")
        self._prefix = b"garrison:" + hmac.digest(self._secret, b"installation", "sha256")[:4].hex().encode() + b":"
        self._keeps_sessions = keeps_sessions
        self._members_key = self._prefix + b"members"
        self._mark_key = self._prefix + b"mark"
        self._mark = b""
        self._member = secrets.token_hex(8)
        self._members = 0
        self._limiters: list[SharedLimiter] = []
        self._count = 0
        self._turn: Turn[_Hit] | None = None

    def limiter(self, limit: Limit, *, name: str, share: int = 1, ahead: bool = False) -> "SharedLimiter":
        """See `Limits.limiter`."""
        limiter = SharedLimiter(self, limit, name, share=share, lease=self.lease if ahead else 0)
        limiter.share_among(self._members)
        self._limiters.append(limiter)
        return limiter

    async def open(self, *, wait_s: float) -> bool:
        """Begin to count in Redis on the running loop; see `Redis.open`."""
        return await self.redis.open(wait_s=wait_s)

    async def close(self) -> None:
        """Take this process off the list of those that share, and close the connection."""
        connection = self.redis.connection()
        if connection is not None:
            try:
                await leave(connection, self._members_key, self._member)
            except RedisError as error:
                _log.info("limits_leave", reason=error.reason)
        await self.redis.close()

    def turn(self) -> "Turn[_Hit] | None":
        """Return where this turn's hits go; None where they are counted in this process."""
        turn = self._turn
        if turn is not None and turn.connection.is_open and turn.connection.loop is asyncio.get_running_loop():
            return turn  # the usual case of what follows
        connection = self.redis.connection()
        if connection is None:
            return None
        turn = self._turn = Turn(connection, _settle)
        return turn

    def known(self, limiter_name: str, key: str) -> _Known:
        """Return a new note on this key."""
        self._count += 1
        if self._count > MOST_KNOWN:  # what is lost is a digest to be made anew, or a question to Redis
            for limiter in self._limiters:
                limiter.forget()
            self._count = 1
        text = f"{limiter_name}\x00{key}".encode("utf-8", "surrogateescape")
        return _Known(bulk(self._prefix + hmac.digest(self._secret, text, "sha256")[:_KEY_BYTES].hex().encode()))

    async def _check(self, connection: Connection) -> None:
        mark, members = await beat(connection, self._members_key, self._member, self._mark_key, lifetime_s=ALIVE_S)
        if self._mark not in (b"", mark):
            _log.warning("limits_forgotten")
            self._tell_of_sessions("forgotten")
        self._mark = mark
        if members != self._members:  # beforehand: when Redis is lost, the first hits are counted here at once
            self._members = members
            for limiter in self._limiters:
                limiter.share_among(members)

    def _on_lost(self, reason: str) -> None:
        _log.warning("limits_local", reason=reason, processes=self._members)
        self._tell_of_sessions("unreachable")

    def _on_found(self) -> None:
        _log.warning("limits_shared", processes=self._members)
        self._tell_of_sessions("reachable")

    def _tell_of_sessions(self, what: str) -> None:
        if self._keeps_sessions:
            _log.warning(f"sessions_{what}")


class SharedLimiter:
    """The buckets of one limit, in Redis. `limit` is what all nodes together admit."""

    __slots__ = ("_asked", "_asked_ahead", "_interval_s", "_known", "_lease_s", "_local", "_name", "_share",
                 "_shared", "lease", "limit", "most_s")  # fmt: skip

    def __init__(self, limits: SharedLimits, limit: Limit, name: str, *, share: int, lease: int) -> None:
        quota = Quota(limit)
        self.limit = limit
        self._interval_s = quota.interval_us / 1e6
        self.most_s = (quota.burst_us - quota.interval_us) / 1e6
        self._asked = quota.asked()
        self.lease = lease
        self._lease_s = lease * self._interval_s
        self._asked_ahead = quota.asked(lease)
        self._name = f"{name}\x00{limit.count}\x00{limit.period_s:.6f}"
        self._shared = limits
        self._share = share
        self._local: MemoryLimiter = limits.local.limiter(limit, name=name, share=share)
        self._known: dict[str, _Known] = {}

    def take(self, key: str, now: float) -> Left:
        """See `Limiter.take`."""
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self._shared.known(self._name, key)
        if now < known.refused_until:
            return now - known.refused_until
        if known.paid and self._is_paid(known, now):
            return known.left
        turn = self._shared.turn()
        if turn is None:
            return self.locally(key, now)
        future: asyncio.Future[float] = turn.connection.loop.create_future()
        turn.take(known.name, self._asked, (future, self, known, key, now))
        if self.lease:
            self._pay_ahead(turn, known, key, now)
        return future

    def remaining(self, left: float) -> int:
        """See `Limiter.remaining`."""
        return int(left / self._interval_s + 1e-3)

    def locally(self, key: str, now: float) -> float:
        """Count one hit in this process."""
        left = self._local.take(key, now)
        return self._local.remaining(left) * self._interval_s if left > 0.0 else left

    def share_among(self, processes: int) -> None:
        """Let the local count be one `processes`th, at least as small as the settings have it."""
        self._local.become(self.limit, share=max(self._share, processes))

    def forget(self) -> None:
        """Drop what is known of keys. Hits that were paid for are lost; nothing is admitted twice."""
        self._known.clear()

    def _is_paid(self, known: _Known, now: float) -> bool:
        if now >= known.paid_until:
            known.paid = 0
            return False
        known.paid -= 1
        known.hit_at = now
        return True

    def _pay_ahead(self, turn: Turn[_Hit], known: _Known, key: str, now: float) -> None:
        is_hot, known.hit_at = now - known.hit_at < self._interval_s, now
        if is_hot and now >= known.paid_until:
            known.paid_until = now + self._lease_s  # also keeps others from paying once more meanwhile
            turn.take(known.name, self._asked_ahead, (None, self, known, key, now))


def _settle(hits: Sequence[_Hit], lefts: Sequence[int] | None) -> None:
    """Tell everybody who waits what Redis said, or count here where it did not."""
    if lefts is None:
        for future, limiter, _, key, now in hits:
            if future is not None and not future.done():
                future.set_result(limiter.locally(key, now))
        return
    for (future, limiter, known, _, now), left in zip(hits, lefts, strict=True):
        left_s = left * 1e-6
        if future is None:
            if left_s >= 0.0:
                known.paid, known.left = limiter.lease, left_s
            continue
        if left_s < 0.0:
            known.refused_until = max(known.refused_until, now - left_s)
        if not future.done():  # whoever waited may have gone
            future.set_result(left_s)
