"""Counting in memory: GCRA, one atomic step, bounded (ITU-T I.371; CWE-770, CWE-799).

A bucket is one number, the *theoretical arrival time* (TAT): the time at which it will be empty again. A hit moves it
by one interval; if that would be more than the whole period ahead of now, the hit is refused and nothing moves. So the
burst is the count, there is no window whose edge doubles the rate, and a step costs 0.3 µs.

Memory is bounded for all limits together. An idle bucket (TAT in the past) equals none at all: those go first, of
whichever limit. A bucket that counts is never forgotten, so nobody washes their record away by flooding the table with
other names. When nothing is idle, new keys share buckets by a keyed hash: coarser, never unlimited, never all refused.
A key that gets a bucket of its own later takes along what the shared one owes, or it would have its quota twice.
"""

import secrets
from collections.abc import Iterator

from garrison.core.durations import Limit

MOST_BUCKETS = 131_072
"""About 25 MB with keys of 20 characters."""
SHARED_BUCKETS = 4096
"""Of each limit."""
_LOOKED_AT = 16
"""How many buckets one new key looks at for idle ones to take the place of: keeps the cost of a hit bounded."""
_SLACK = 1e-3
"""Part of an interval by which a hit may come early: floats far from zero round by more than nothing, and a burst of
N would be N - 1 on a machine that has been up for weeks. It does not add up: TATs move by whole intervals."""


def shared(limit: Limit, share: int) -> Limit:
    """Return the `share`th part of `limit`, at least one hit."""
    return Limit(max(1, limit.count // share), limit.period_s)


class LimitTable:
    """All buckets of one process; makes `MemoryLimiter`s, which share its bound."""

    __slots__ = ("_candidates", "_limiters", "most", "salt", "size")

    def __init__(self, most: int = MOST_BUCKETS) -> None:
        self.most = most
        self.size = 0
        self.salt = secrets.randbits(62)
        self._limiters: list[MemoryLimiter] = []
        self._candidates: Iterator[tuple[dict[str, float], str]] = iter(())

    def limiter(self, limit: Limit, *, name: str = "", share: int = 1, ahead: bool = False) -> "MemoryLimiter":  # noqa: ARG002
        """Return a limiter of `limit`, of which this process takes one `share`th, at least one hit.

        See `Limits.limiter`: here each has buckets of its own, and nothing is asked in advance.
        """
        limiter = MemoryLimiter(self, limit, share)
        self._limiters.append(limiter)
        return limiter

    def make_room(self, now: float) -> bool:
        """Drop idle buckets among the next few, of all limits in turn; say whether there is room."""
        for _ in range(_LOOKED_AT):
            found = next(self._candidates, None)
            if found is None:
                self._candidates = self._walk()
                continue
            buckets, key = found
            if buckets.get(key, now) < now:
                del buckets[key]
                self.size -= 1
        return self.size < self.most

    def _walk(self) -> Iterator[tuple[dict[str, float], str]]:
        for limiter in tuple(self._limiters):
            for key in list(limiter.buckets):
                yield limiter.buckets, key


class MemoryLimiter:
    """The buckets of one limit. `limit` is what this process counts: its share."""

    __slots__ = ("_interval_s", "_shared", "_slack_s", "_table", "buckets", "limit", "most_s", "period_s")

    def __init__(self, table: LimitTable, limit: Limit, share: int) -> None:
        self._table = table
        self._shared: dict[int, float] = {}
        self.buckets: dict[str, float] = {}
        """Key → TAT, of keys that have a bucket of their own."""
        self.become(limit, share=share)

    def become(self, limit: Limit, *, share: int) -> None:
        """Count another share from now on. What was counted stays: a bucket is idle when it was to be."""
        self.limit = limit = shared(limit, share)
        self.period_s = limit.period_s
        self._interval_s = limit.period_s / limit.count
        self._slack_s = self._interval_s * _SLACK
        self.most_s = self.period_s - self._interval_s
        """What `take` returns for an idle bucket: no hit leaves more."""

    def take(self, key: str, now: float) -> float:
        """Count one hit on `key` at `now` (seconds of one monotonic clock).

        Return how many seconds of hits are left (see `remaining`), or, when the hit is refused, minus the seconds
        after which one will be admitted.
        """
        buckets = self.buckets
        tat = buckets.get(key)
        if tat is None:
            return self._take_new(key, now)
        if tat < now:
            buckets[key] = now + self._interval_s
            return self.most_s
        tat += self._interval_s
        left = self.period_s - (tat - now)
        if left >= 0.0:
            buckets[key] = tat
            return left
        if left >= -self._slack_s:
            buckets[key] = tat
            return 0.0
        return left

    def remaining(self, left: float) -> int:
        """Return how many more hits may come at once, from what `take` returned."""
        return int(left / self._interval_s + _SLACK)

    def _take_new(self, key: str, now: float) -> float:
        table, shared = self._table, self._shared
        number = hash((table.salt, key)) % SHARED_BUCKETS
        owed = shared.get(number, now)
        tat = (now if owed < now else owed) + self._interval_s
        left = self.period_s - (tat - now)
        if left < -self._slack_s:
            return left
        if table.size < table.most or table.make_room(now):
            self.buckets[key] = tat
            table.size += 1
            if owed < now:
                del shared[number]
        else:
            shared[number] = tat
        return left if left > 0.0 else 0.0
