"""The revocation view: what this process knows to have changed (RFC 7009 in spirit, design "Tokens and revocation").

    store: change log ──(news: data_version, NOTIFY, pub/sub only say *look*)──▶ poll ──▶ view ──▶ caches, streams

Revocation compares counters, never times: accounts and sessions carry integer versions, raised in the revoking
transaction and written to one ordered log. A cached verification carries the versions it was made with and counts
only while carried >= known. The view is *fresh* while the start of the last completed poll lies less than the bound
ago by CLOCK_BOOTTIME, so that a process that was stopped and continued does not serve from its cache. Not fresh:
whoever asks must go to the store; the store gone too: 503, never 200.

Memory: an entry is kept for `keep_s` (longer than any cached verification lives) and then forgotten, oldest first.
What this does not do: decide. The store's rows decide; the view only says when to ask again.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from garrison.core.clock import Clock

NewsListener = Callable[[str, str, int], None]
WHO = frozenset({"account", "client", "foreign"})
"""Kinds of whom credentials are; ids of different kinds are never equal."""
_WHAT = frozenset({"session", "key", "token"})
"""Kinds of what is shown."""


class RevocationView:
    """Known versions by account and session, their freshness, and who wants to hear of news."""

    __slots__ = (
        "_bound_s",
        "_clock",
        "_history",
        "_keep_s",
        "_listeners",
        "_polled_at",
        "fresh_until",
        "known_account",
        "known_session",
    )

    def __init__(self, clock: Clock, *, bound_s: float = 2.0, keep_s: float = 3600.0) -> None:
        self._clock = clock
        self._bound_s = bound_s
        self._keep_s = keep_s
        self._polled_at = float("-inf")
        self.fresh_until = float("-inf")
        """Boot time at which `is_fresh` becomes false, for the hot path, which has the time of arrival at hand."""
        self._history: deque[tuple[float, str, str, int]] = deque()
        self._listeners: list[NewsListener] = []
        self.known_account: dict[str, int] = {}
        self.known_session: dict[str, int] = {}

    def is_fresh(self, *, margin: float = 0.0) -> bool:
        """Say whether the last poll that completed began less than the bound ago, and that share of it before."""
        return self._clock.boot() - self._polled_at < self._bound_s * (1.0 - margin)

    def age_s(self) -> float:
        """Return seconds since the start of the last completed poll; infinite before the first."""
        return self._clock.boot() - self._polled_at

    def rests(self, rests_on: Iterable[tuple[str, int]]) -> bool:
        """Say whether nothing newer is known here of these ids, of whom or what, than these versions."""
        account, session = self.known_account, self.known_session
        return all(version >= account.get(one, 0) and version >= session.get(one, 0) for one, version in rests_on)

    def has_ended(self, credential: Any) -> bool:
        """Say whether a credential (`Verified`) that was verified a while ago has ended, as far as is known here."""
        return (
            self.known_account.get(credential.account_id, 0) > credential.account_version
            or self.known_session.get(credential.session_id, 0) > credential.session_version
            or not self.rests(credential.rests_on)
            or bool(credential.expires_at <= self._clock.now())
        )

    def polled(self, started_at: float) -> None:
        """Note that a poll which began at boot time `started_at` has completed and all its rows were applied."""
        self._polled_at = max(self._polled_at, started_at)
        self.fresh_until = self._polled_at + self._bound_s
        horizon = started_at - self._keep_s
        while self._history and self._history[0][0] < horizon:
            _, kind, subject, version = self._history.popleft()
            known = self.known_account if kind in WHO else self.known_session
            if known.get(subject) == version:
                del known[subject]

    def applied(self, kind: str, subject: str, version: int) -> None:
        """Take in one change. Of what credentials rest on, older versions than known change nothing.

        Other kinds (`signing`) are only told to who listens.
        """
        if kind not in WHO and kind not in _WHAT:
            for listener in self._listeners:
                listener(kind, subject, version)
            return
        known = self.known_account if kind in WHO else self.known_session
        if version > known.get(subject, -1):
            known[subject] = version
            self._history.append((self._clock.boot(), kind, subject, version))
            for listener in self._listeners:
                listener(kind, subject, version)

    def listen(self, listener: NewsListener) -> None:
        """Call `listener(kind, subject, version)` at every piece of news, synchronously and in order."""
        self._listeners.append(listener)
