"""Durations and limits as people write them, parsed once.

Durations: seconds, `10s 15m 1h 7d`, or `[N] second|minute|hour|day[s]`. Limits: `N/duration`, the burst is N.
"""

import re
from dataclasses import dataclass

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "second": 1, "minute": 60, "hour": 3600, "day": 86400}
_DURATION = re.compile(
    r"(?P<count>[0-9]{1,9}(?:\.[0-9]{1,3})?)?\s?(?P<unit>s|m|h|d|(?:second|minute|hour|day)s?)?", re.ASCII
)
_LIMIT = re.compile(r"(?P<count>[0-9]{1,9})\s?/\s?(?P<duration>.+)", re.ASCII)


def parse_duration(value: str | int | float) -> float:
    """Return seconds. Raises ValueError saying what is accepted; zero and negative durations are refused."""
    if isinstance(value, bool):
        raise ValueError(_DURATION_HELP)
    if isinstance(value, int | float):
        seconds = float(value)
    else:
        match = _DURATION.fullmatch(value.strip())
        if match is None or (match["count"] is None and (match["unit"] is None or len(match["unit"]) == 1)):
            raise ValueError(_DURATION_HELP)
        unit = match["unit"] or "s"
        seconds = float(match["count"] or 1) * _UNITS_S[unit if len(unit) == 1 else unit.rstrip("s")]
    if not 0 < seconds < 4e9:
        raise ValueError(_DURATION_HELP)
    return seconds


@dataclass(frozen=True, slots=True)
class Limit:
    """`count` hits within any `period_s` seconds; all of them may come at once (the burst is `count`)."""

    count: int
    period_s: float

    def __str__(self) -> str:
        return f"{self.count}/{self.period_s:g}s"


def parse_limit(value: str | Limit) -> Limit:
    """Return the limit written as `100/minute`, `5/15 minutes`, `20/1h`. Raises ValueError."""
    if isinstance(value, Limit):
        if value.count < 1 or not 0 < value.period_s < 4e9:
            raise ValueError(_LIMIT_HELP)
        return value
    match = _LIMIT.fullmatch(value.strip())
    if match is None or int(match["count"]) == 0:
        raise ValueError(_LIMIT_HELP)
    return Limit(int(match["count"]), parse_duration(match["duration"]))


_DURATION_HELP = "write a duration as seconds (900), 10s, 15m, 1h, 7d, or '15 minutes'"
_LIMIT_HELP = "write a limit as N/duration, for example 100/minute or 5/15 minutes, N at least 1"
