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

    __slots__ = ("offset_s",)
    boot = staticmethod(partial(time.clock_gettime, _BOOTTIME))

    def __init__(self) -> None:
        self.offset_s = time.time() - self.boot()

    def now(self) -> float:
        return self.boot() + self.offset_s

    def adjust(self, store_now_s: float) -> float:
        """Take the store's time as the truth; return how far off we were, in seconds."""
        before = self.offset_s
        self.offset_s = store_now_s - self.boot()
        return self.offset_s - before


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
