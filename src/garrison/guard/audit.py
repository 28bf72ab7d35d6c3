"""Layer 12: refusals, aggregated (ASVS 5.0 V16.3; CWE-778, CWE-779).

A flood of refusals must not fill the disk, so they are counted by (code, principal or network, route, minute) and
stored as counts; at most `MAX_KEYS` keys a minute, and what goes beyond is counted, too. The first of each key is
logged at once, the count follows when it is stored. Allowed requests are counted per route and status class.
"""

from typing import NamedTuple

import structlog

from garrison.wire.call import Call

_log = structlog.get_logger("garrison")
MAX_KEYS = 4096


class RefusalKey(NamedTuple):
    """Under what a refusal is counted. `who` is a principal's id or a network; `minute` is Unix seconds // 60."""

    code: str
    who: str
    route: str
    minute: int


class Refusals:
    """The refusals of this process that are not stored yet."""

    __slots__ = ("_counts", "_known", "_minute", "_overflow")

    def __init__(self) -> None:
        self._counts: dict[RefusalKey, int] = {}
        self._known: set[RefusalKey] = set()
        """The keys of this minute, drained ones too: the bound and the log are by minute, not by drain."""
        self._minute = 0
        self._overflow = 0

    def note(self, call: Call, code: str, status: int) -> None:
        """Count one refusal; cheap, bounded, never raises."""
        route = call.route.label if call.route is not None else ""
        key = RefusalKey(code, call.principal.id or call.network, route, int(call.now // 60))
        if key.minute != self._minute:
            self._minute = key.minute
            self._known.clear()
        if key in self._known:
            self._counts[key] = self._counts.get(key, 0) + 1
        elif len(self._known) < MAX_KEYS:
            self._known.add(key)
            self._counts[key] = 1
            reason = {"reason": call.reason} if call.reason else {}
            _log.info(
                "refused", code=code, status=status, who=key.who, route=route, request_id=call.request_id, **reason
            )
        else:
            self._overflow += 1

    def drain(self) -> tuple[dict[RefusalKey, int], int]:
        """Return and forget the counts, and how many refusals had no place of their own."""
        counts, overflow = self._counts, self._overflow
        self._counts, self._overflow = {}, 0
        return counts, overflow

    def restore(self, counts: dict[RefusalKey, int], overflow: int) -> None:
        """Take back what could not be stored; what no longer fits is counted as overflow."""
        self._overflow += overflow
        for key, count in counts.items():
            if key in self._counts or len(self._counts) < MAX_KEYS:
                self._counts[key] = self._counts.get(key, 0) + count
            else:
                self._overflow += count
