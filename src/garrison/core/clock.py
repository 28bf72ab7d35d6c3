"""Time as an argument.

Two clocks in one: `now()` is the store's time in Unix seconds, used for whatever is written down or compared with
something written down (`iat`, `exp`, sessions, throttles); `boot()` is CLOCK_BOOTTIME in seconds, used for
durations and freshness, because it runs on while the machine sleeps and nobody can set it.
`now()` is `boot()` plus an offset that each poll of the store measures anew, so that a node whose wall clock is
off still agrees with the others (reliability.md, T16).
"""

import time
from functools import partial
from typing import Protocol

_SLOW_S = 0.1
_MEASURE_EVERY_S = 60.0
_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    def now(self) -> float:
        """The store's time, Unix seconds."""

    def boot(self) -> float:
        """Seconds since boot; only differences mean something."""

    @property
    def offset_s(self) -> float:
        """What `now()` is ahead of `boot()`, to have both of one moment."""


class SystemClock:
    """The clock of a running process. `adjust` is called by the store's poll with the store's own time."""

    __slots__ = ("_measured_at", "offset_s")
    boot = staticmethod(partial(time.clock_gettime, _BOOTTIME))

    def __init__(self) -> None:
        self.offset_s = time.time() - self.boot()
        self._measured_at = float("-inf")

    def now(self) -> float:
        return self.boot() + self.offset_s

    def adjust(self, store_now_s: float, asked_at: float | None = None) -> None:
        """Take the store's time as the truth. `asked_at` is the boot time at which it was asked for.

        It is taken for that of half the way; an answer that took long says little, and counts only where there has
        been no better one for a minute.
        """
        answered_at = self.boot()
        taken_s = 0.0 if asked_at is None else answered_at - asked_at
        if taken_s > _SLOW_S and answered_at - self._measured_at < _MEASURE_EVERY_S:
            return
        self._measured_at = answered_at
        self.offset_s = store_now_s - (answered_at - taken_s / 2)

    def wall_error_s(self) -> float:
        """Return how far this machine's own clock is ahead of the store's, in seconds; behind is less than zero."""
        return time.time() - self.now()


class ManualClock:
    """A clock that moves only when told; part of the test kit."""

    def __init__(self, now_s: float = 1_800_000_000.0) -> None:
        self._now_s = now_s
        self._boot_s = 1_000.0

    def now(self) -> float:
        return self._now_s

    def boot(self) -> float:
        return self._boot_s

    @property
    def offset_s(self) -> float:
        return self._now_s - self._boot_s

    def advance(self, seconds: float) -> None:
        """Let both clocks run on by `seconds`."""
        self._now_s += seconds
        self._boot_s += seconds

    def set_wall(self, now_s: float) -> None:
        """Set the store's time without time passing: a jump of the wall clock."""
        self._now_s = now_s
