"""What counts: a limiter has one way to be asked, wherever the counters are.

In this process (`limit_table.py`) the answer is there at once, and that is the usual case; in Redis, for all nodes
(`shared_limits.py`), it is awaited.
"""

from collections.abc import Awaitable
from typing import Protocol

from garrison.core.durations import Limit

Left = float | Awaitable[float]
"""Seconds of hits that are left (see `Limiter.remaining`), or, where the hit is refused, minus the seconds after which
one will be admitted; or an awaitable of that. It counts whether it is awaited or not."""


class Limiter(Protocol):
    """The buckets of one limit."""

    @property
    def limit(self) -> Limit:
        """What is counted here, as clients are told."""

    @property
    def most_s(self) -> float:
        """What `take` returns for an idle bucket: no hit leaves more."""

    def take(self, key: str, now: float) -> Left:
        """Count one hit on `key` at `now` (seconds of one monotonic clock)."""

    def remaining(self, left: float) -> int:
        """Return how many more hits may come at once, from what `take` returned."""


class Limits(Protocol):
    """Makes limiters."""

    def limiter(self, limit: Limit, *, name: str, share: int = 1, ahead: bool = False) -> Limiter:
        """Return a limiter of `limit`; those of one `name` and limit are one wherever counters are shared.

        `share`: how many processes share the limit where they have no common counters; each takes one `share`th.
        `ahead`: hits may be taken in advance, so the limit may be exceeded by as many: nothing that guards a secret.
        """


async def left_of(left: Left) -> float:
    """Return what a limiter said, awaited where it has to be."""
    return left if isinstance(left, float) else await left
