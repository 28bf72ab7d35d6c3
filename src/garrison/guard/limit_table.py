"""Counting in memory: GCRA, one atomic step, bounded (ITU-T I.371; CWE-770, CWE-799).

A bucket is one number, the *theoretical arrival time* (TAT): the time at which it will be empty again. A hit moves it
by one interval; if that would be more than the whole period ahead of now, the hit is refused and nothing moves. So the
burst is the count, there is no window whose edge doubles the rate, and a step costs 0.3 µs.

Memory is bounded for all limits together. An idle bucket (TAT in the past) equals none at all: those go first. A
bucket that counts is never forgotten, so nobody washes their record away by flooding the table with other names.
When nothing is idle, new keys share buckets by a keyed hash: coarser, never unlimited, never all refused.
"""

import secrets
from collections.abc import Iterator

from garrison.core.durations import Limit

MOST_BUCKETS = 131_072
"""About 25 MB with keys of 20 characters."""
SHARED_BUCKETS = 4096
_LOOKED_AT = 16
"""How many buckets one new key looks at for idle ones to take the place of: keeps the cost of a hit bounded."""


class LimitTable:
    """All buckets of one process; makes `Limiter`s, which share its bound."""

    __slots__ = ("most", "salt", "size")

    def __init__(self, most: int = MOST_BUCKETS) -> None:
        self.most = most
        self.size = 0
        self.salt = secrets.randbits(62)

    def limiter(self, limit: Limit, *, share: int = 1) -> "Limiter":
        """Return a limiter of `limit`, of which this process takes one `share`th, at least one hit."""
        return Limiter(self, Limit(max(1, limit.count // share), limit.period_s))


class Limiter:
    """The buckets of one limit."""

    __slots__ = ("_buckets", "_candidates", "_interval_s", "_shared", "_table", "limit", "period_s")

    def __init__(self, table: LimitTable, limit: Limit) -> None:
        self.limit = limit
        self.period_s = limit.period_s
        self._interval_s = limit.period_s / limit.count
        self._table = table
        self._buckets: dict[str, float] = {}
        self._shared: dict[int, float] = {}
        self._candidates: Iterator[str] = iter(())

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """Count one hit on `key` at `now` (seconds of one monotonic clock).

        Return how many seconds of hits are left (`left / interval` more may come at once), or, when the hit is
        refused, minus the seconds after which one will be admitted.
        """
        buckets = self._buckets
        tat = buckets.get(key)
        if tat is None:
            return self._take_new(key, now)
        left = (now if tat < now else tat) + self._interval_s - now
        left = self.period_s - left
        if left >= -1e-9:
            buckets[key] = now + self.period_s - left
            return left if left > 0.0 else 0.0
        return left

    def remaining(self, left: float) -> int:
        """Return how many more hits may come at once, from what `take` returned."""
        return int(left / self._interval_s + 1e-9)

    def _take_new(self, key: str, now: float) -> float:
        table = self._table
        if table.size < table.most or self._make_room(now):
            self._buckets[key] = now + self._interval_s
            table.size += 1
            return self.period_s - self._interval_s
        number = hash((table.salt, key)) % SHARED_BUCKETS
        tat = max(self._shared.get(number, now), now) + self._interval_s
        left = self.period_s - (tat - now)
        if left >= -1e-9:
            self._shared[number] = tat
            return max(left, 0.0)
        return left

    def _make_room(self, now: float) -> bool:
        """Drop idle buckets among the next few; say whether there were any."""
        buckets, dropped = self._buckets, 0
        for _ in range(_LOOKED_AT):
            key = next(self._candidates, None)
            if key is None:
                self._candidates = iter(list(buckets))
                key = next(self._candidates, None)
                if key is None:
                    break
            if buckets.get(key, now) < now:
                del buckets[key]
                dropped += 1
        self._table.size -= dropped
        return dropped > 0
