"""Verified sessions of this process: the warm path of every signed-in request.

What is kept is the *verification* (this secret's digest belongs to that session, account and principal), never the
decision. Each hit compares again: absolute and idle end, the versions that the verification rests on with those this
process knows, and that it can still hear news at all. Anything amiss goes to the store, which decides; the store out
of reach raises, and that is a 503. Unknown secrets are not kept, so a flood of them costs reads and no memory.

Bounds: `cache_entries` entries, the oldest verification leaves first; none is served longer than `cache_ttl_s`, which
must stay below the time for which the revocation view remembers.

Idle times: a hit notes the time in the entry and the entry among those touched; `flush` writes them at most every
`touch_every_s`, in one batch, off the request path. A crash loses at most that much of an idle time.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Connection

from garrison.core.errors import StoreError
from garrison.core.ids import AccountId, SessionId
from garrison.core.principal import Principal, Via
from garrison.guard.authenticate import REFUSED, Refused
from garrison.guard.revocation import RevocationView
from garrison.identity.accounts.model import roles_of
from garrison.identity.keys.queries import touch_keys
from garrison.identity.sessions.kept import KeptSessions
from garrison.identity.sessions.model import Carrier, factors_of
from garrison.identity.sessions.queries import COLD_READ, COLD_READ_BY_ID, touch_sessions
from garrison.identity.settings import IdentitySettings
from garrison.store.database import Database
from garrison.wire.call import Call

ScopesOf = Callable[[frozenset[str]], frozenset[str]]
_ATTEMPTS = 3
IDENTITY_SCOPES = frozenset({"openid", "email"})
"""What a client may be given beside scopes of the API: to know who it is."""


class SessionEntry:
    """One verified session: what the guard calls `Verified`, and what identity's own routes show of it.

    Of HTTP Basic there is no session: then `session_id` is empty. Of a key it is the key's id, of a client's token the
    token's.
    """

    __slots__ = (
        "account_id",
        "account_version",
        "created_at",
        "email",
        "ends_at",
        "expires_at",
        "jkt",
        "kid",
        "principal",
        "renew_at",
        "reread_at",
        "rests_on",
        "seen_at",
        "session_id",
        "session_version",
        "shown",
        "touched",
    )

    def __init__(
        self,
        principal: Principal,
        *,
        account_id: AccountId,
        account_version: int,
        session_id: SessionId,
        session_version: int,
        email: str,
        created_at: float,
        seen_at: float,
        expires_at: float,
        ends_at: float,
        reread_at: float,
        kid: str = "",
        renew_at: float = float("inf"),
        jkt: str = "",
    ) -> None:
        self.principal = principal
        self.account_id: str = account_id
        self.account_version = account_version
        self.session_id: str = session_id
        self.session_version = session_version
        self.email = email
        self.created_at = created_at
        self.seen_at = seen_at
        self.expires_at = expires_at
        self.reread_at = reread_at
        """Boot time from which on the store is asked again."""
        self.ends_at = ends_at
        """End of the session itself; a token of it may end before (`expires_at`)."""
        self.renew_at = renew_at
        self.jkt = jkt
        self.kid = kid
        """Of the key that signed, where a token was shown."""
        self.rests_on: tuple[tuple[str, int], ...] = ()
        """Ids and versions of what a verification rests on beside account and session; see `rests`."""
        self.shown = b""
        """Digest of what was shown, under which it is kept."""
        self.touched = False
        """True while `seen_at` waits to be written."""


class Token(NamedTuple):
    """What a verified token claims of its session; whether that is so, the session's row says."""

    account_id: str
    expires_at: float
    carrier: Carrier
    kid: str
    is_shared: bool
    """True where a shared secret signed, which has no row."""
    via: Via = "jwt"
    renew_at: float = float("inf")
    """Unix seconds from which on another one should take its place, where the guard sees to that."""
    jkt: str = ""
    """Thumbprint of the key that every request with it has to prove (RFC 9449), if any."""


Outcome = SessionEntry | Refused
Judge = Callable[[tuple[Any, ...], SessionEntry | None, Call], Outcome]
"""(row, what was kept before, call) → an entry, or REFUSED."""
Ask = Callable[[bytes, Call], Any]
"""(digest, call) → an outcome of the guard's, or an awaitable of one."""


class SessionCache:
    """Look-up by digest, and the idle times that wait to be written."""

    __slots__ = (
        "_cold",
        "_database",
        "_entries",
        "_flushed_at",
        "_idle_s",
        "_issuer",
        "_kept",
        "_known_account",
        "_known_session",
        "_most",
        "_scopes_of",
        "_touch_every_s",
        "_touched",
        "_ttl_s",
        "_view",
    )

    def __init__(
        self,
        database: Database,
        view: RevocationView,
        scopes_of: ScopesOf,
        settings: IdentitySettings,
        kept: KeptSessions | None = None,
    ) -> None:
        self._database = database
        self._kept = kept
        self._cold = database.cold
        self._view = view
        self._known_account = view.known_account
        self._known_session = view.known_session
        self._scopes_of = scopes_of
        self._issuer = settings.issuer
        self._idle_s = settings.session_idle_s
        self._ttl_s = settings.cache_ttl_s
        self._most = settings.cache_entries
        self._touch_every_s = settings.touch_every_s
        self._entries: OrderedDict[bytes, SessionEntry] = OrderedDict()
        """Oldest first; a dict would look for its oldest key through the places of all those that left."""
        self._touched: dict[str, SessionEntry] = {}
        self._flushed_at = float("-inf")

    def __len__(self) -> int:
        return len(self._entries)

    def verify(self, secret_digest: bytes, call: Call, ask: "Ask | None" = None) -> "Outcome | Awaitable[Outcome]":
        """Return the entry of this digest, or REFUSED; an awaitable of either only where the store is asked.

        `ask` is called instead of looking for a session with this digest, where a cold read alone does not decide.

        Raises StoreError when the store was needed and could not be asked. Warm cost: one dict look-up and six
        comparisons.
        """
        entry = self._entries.get(secret_digest)
        now, boot = call.now, call.boot
        if (
            entry is not None
            and entry.account_version >= self._known_account.get(entry.account_id, 0)
            and entry.session_version >= self._known_session.get(entry.session_id, 0)
            and now < entry.expires_at
            and now - entry.seen_at < self._idle_s
            and boot < entry.reread_at
            and boot < self._view.fresh_until
        ):
            entry.seen_at = now
            if not entry.touched:
                entry.touched = True
                self._touched[entry.session_id] = entry
            return entry
        if ask is not None:
            asked: Outcome | Awaitable[Outcome] = ask(secret_digest, call)
            return asked
        if self._kept is not None:
            return self._read_kept(self._kept, secret_digest, call)
        return self.read(secret_digest, call, COLD_READ, (secret_digest,))

    async def flush(self, now: float, *, force: bool = False) -> None:
        """Write the idle times, if it is time to or `force` (at shutdown). What could not be written stays noted.

        Raises StoreError.
        """
        due = now - self._flushed_at >= self._touch_every_s or len(self._touched) >= self._most or force
        if not due or not self._touched:
            return
        touched, self._touched = self._touched, {}
        seen, opening = [], []
        for entry in touched.values():
            entry.touched = False
            seen.append((entry.session_id, entry.seen_at))
            if entry.principal.via == "session":
                opening.append((entry.shown, min(entry.seen_at + self._idle_s, entry.expires_at) - now))
        idle_s = self._idle_s

        def write(connection: Connection) -> None:
            touch_sessions(connection, [one for one in seen if one[0].startswith("ses_")], idle_s)
            touch_keys(connection, [one for one in seen if one[0].startswith("key_")])

        try:
            await self._database.write(write)
            if self._kept is not None and opening:
                await self._kept.touch(opening)
        except BaseException:
            for session_id, entry in touched.items():
                entry.touched = True
                self._touched.setdefault(session_id, entry)
            raise
        self._flushed_at = now

    def read(
        self, shown: bytes, call: Call, sql: str, parameters: tuple[Any, ...], judge: "Judge | None" = None
    ) -> "Outcome | Awaitable[Outcome]":
        """Ask the store, and keep the entry that `judge` makes of the row under the digest `shown`.

        Raises StoreError.
        """
        judge = judge or self.judge_session(None)
        rows = self._cold(sql, parameters)
        if isinstance(rows, list):
            outcome = self._settle(shown, rows, call, judge)
            if outcome is None:
                raise StoreError("store_unavailable", "the store answered with an older state than it announced")
            return outcome
        return self._wait(shown, rows, call, sql, parameters, judge)

    async def _read_kept(self, kept: KeptSessions, shown: bytes, call: Call) -> Outcome:
        session_id = await kept.find(shown)
        if session_id is None:
            self._entries.pop(shown, None)
            return REFUSED
        outcome = self.read(shown, call, COLD_READ_BY_ID, (session_id,))
        return await outcome if isinstance(outcome, Awaitable) else outcome

    def forget_one(self, shown: bytes) -> None:
        """Forget what was verified under this digest."""
        self._entries.pop(shown, None)

    def forget_all(self) -> None:
        """Forget everything that was verified: the store may have gone back to an earlier state."""
        self._entries.clear()

    def forget(self, kids: Collection[str]) -> None:
        """Forget every token that one of these keys signed: they are verified anew, or not at all."""
        for shown in [shown for shown, entry in self._entries.items() if entry.kid in kids]:
            del self._entries[shown]

    async def _wait(
        self,
        shown: bytes,
        rows: Awaitable[list[tuple[Any, ...]]],
        call: Call,
        sql: str,
        parameters: tuple[Any, ...],
        judge: "Judge",
    ) -> Outcome:
        """Judge what the store answers; ask again where news overtook the answer on its way."""
        for _ in range(_ATTEMPTS):
            outcome = self._settle(shown, await rows, call, judge)
            if outcome is not None:
                return outcome
            again = self._cold(sql, parameters)
            if isinstance(again, list):
                break
            rows = again
        raise StoreError("store_unavailable", "the store answered with an older state than it announced")

    def _settle(self, shown: bytes, rows: list[tuple[Any, ...]], call: Call, judge: "Judge") -> Outcome | None:
        """Turn the store's answer into an entry, or REFUSED; None when this process knows of a newer state."""
        earlier = self._entries.pop(shown, None)
        if not rows:
            return REFUSED
        entry = judge(rows[0], earlier, call)
        if not isinstance(entry, SessionEntry):
            return entry
        if entry.account_version < self._known_account.get(entry.account_id, 0):
            return None
        if entry.session_version < self._known_session.get(entry.session_id, 0) or not self.rests(entry):
            return None
        self._add(shown, entry)
        return entry

    def rests(self, entry: SessionEntry) -> bool:
        """Say whether this process knows of nothing newer among what the entry rests on beside account and session."""
        return self._view.rests(entry.rests_on)

    def keep(self, shown: bytes, entry: SessionEntry) -> Outcome:
        """Keep what was verified in another way than by `read`; REFUSED where this process knows of a newer state."""
        if entry.account_version < self._known_account.get(entry.account_id, 0):
            return REFUSED
        self._add(shown, entry)
        return entry

    def _add(self, shown: bytes, entry: SessionEntry) -> None:
        if len(self._entries) >= self._most:
            self._entries.popitem(last=False)
        self._entries[shown] = entry
        entry.shown = shown
        entry.touched = True
        if entry.session_id:
            self._touched[entry.session_id] = entry

    def judge_session(self, token: "Token | None") -> "Judge":
        """Return what makes an entry of a session's row, shown by its cookie's secret or by this token."""
        return partial(self._session, token)

    def _session(
        self, token: "Token | None", row: tuple[Any, ...], earlier: SessionEntry | None, call: Call
    ) -> Outcome:
        (
            session_id,
            account_id,
            account_epoch,
            carrier,
            factors,
            created_at,
            seen_at,
            expires_at,
            session_version,
            email,
            roles_text,
            status,
            epoch,
            account_version,
            *more,
        ) = row
        for known in (earlier, self._touched.get(session_id)):  # of which the store may not have heard yet
            if known is not None and known.seen_at > seen_at:
                seen_at = known.seen_at
        now = call.now
        if status != "active" or account_epoch < epoch or now >= expires_at or now - seen_at >= self._idle_s:
            return REFUSED
        if token is None:
            if carrier != "cookie":
                return REFUSED
        else:
            if token.account_id != account_id or token.carrier != carrier:
                return REFUSED
            if not token.is_shared and more[2] not in ("active", "retired"):
                return REFUSED
        roles = roles_of(roles_text)
        scopes, is_delegated = self._scopes_of(roles), bool(more and more[0])
        if is_delegated:  # what was given to a client, as long as the person has it to give
            scopes = frozenset(more[1].split()) & (scopes | IDENTITY_SCOPES)
        principal = Principal(
            id=account_id,
            issuer=self._issuer,
            roles=roles,
            scopes=scopes,
            session_id=session_id,
            factors=factors_of(factors),
            via="session" if token is None else token.via,
            delegated=is_delegated,
        )
        return SessionEntry(
            principal,
            account_id=account_id,
            account_version=account_version,
            session_id=session_id,
            session_version=session_version,
            email=email,
            created_at=created_at,
            seen_at=now,
            expires_at=expires_at if token is None else min(expires_at, token.expires_at),
            ends_at=expires_at,
            reread_at=call.boot + self._ttl_s,
            kid="" if token is None else token.kid,
            renew_at=float("inf") if token is None else token.renew_at,
            jkt="" if token is None else token.jkt,
        )
