"""Tokens of foreign issuers: verified once, then compared at each hit (RFC 9068 section 4, RFC 8725 section 3).

Whose a token is, its `iss` says before it is verified, and only decides by whose keys it has to be right. Roles and
scopes are what the issuer's two maps make of its claims. The principal is a delegated one: it passes only rules that
name a scope, or `credentials="foreign"`.

A subject may be refused here (`service.py`). The first time a process sees a token, the subject's row is read; from
then on its version is compared with the news, like that of a session. A process that has just started reads the row,
one that cannot hear the news reads it each time, and where it cannot be read nobody passes. Who is refused is not kept.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

from garrison.core.clock import Clock
from garrison.core.errors import Denied, StoreError
from garrison.core.principal import Principal
from garrison.guard.authenticate import REFUSED, Outcome
from garrison.guard.revocation import RevocationView
from garrison.identity.issuers.claims import is_subject
from garrison.identity.issuers.model import ForeignIssuer
from garrison.identity.issuers.refused import SUBJECT_READ, subject_id
from garrison.identity.issuers.remote_keys import Fetch, NoKeysError, RemoteKeys
from garrison.identity.signing.jose import Header, TokenRefused, VerifyingKey, numeric_date, peek, verify_with
from garrison.store.database import Database, Rows
from garrison.wire.call import Call

_TYPES = frozenset({"at+jwt", "jwt", ""})
_RETRY_SOON = ((b"retry-after", b"2"),)
KEEP_S = 300.0
MOST_KEPT = 16_384
_ATTEMPTS = 3


class ForeignEntry:
    """One verified token: what the guard calls `Verified`. Its time, its key and news of its subject end it."""

    __slots__ = ("account_id", "account_version", "expires_at", "issued_at", "keys", "kid", "principal", "reread_at")

    session_id = ""
    session_version = 1 << 60
    rests_on: tuple[tuple[str, int], ...] = ()

    def __init__(
        self,
        principal: Principal,
        *,
        issued_at: float | None,
        expires_at: float,
        reread_at: float,
        kid: str,
        keys: RemoteKeys,
    ) -> None:
        self.principal = principal
        self.account_id = subject_id(principal.issuer, principal.id)
        self.account_version = 0
        self.issued_at = issued_at
        self.expires_at = expires_at
        self.reread_at = reread_at
        self.kid = kid
        self.keys = keys


class ForeignTokens:
    """All issuers of one process, and what they signed that was verified."""

    __slots__ = ("_cold", "_entries", "_issuers", "_known", "_leeway_s", "_view")

    def __init__(
        self,
        issuers: Iterable[ForeignIssuer],
        fetch: Fetch,
        database: Database,
        clock: Clock,
        view: RevocationView,
        *,
        leeway_s: float,
    ) -> None:
        self._issuers = {one.issuer: (one, RemoteKeys(one, fetch, clock)) for one in issuers}
        self._cold = database.cold
        self._view = view
        self._known = view.known_account
        self._leeway_s = leeway_s
        self._entries: OrderedDict[bytes, ForeignEntry] = OrderedDict()

    def show(self, shown: bytes, token: bytes, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return the entry of this token, REFUSED, or None where it is of no issuer that is configured.

        An awaitable only where keys have to be fetched, or the store makes one wait.

        Raises Denied(`issuer_unavailable`) where keys never could be fetched, StoreError.
        """
        if not self._issuers:
            return None
        entry = self._entries.get(shown)
        if entry is not None:
            if (
                entry.account_version >= self._known.get(entry.account_id, 0)
                and call.now < entry.expires_at
                and call.boot < entry.reread_at
                and call.boot < self._view.fresh_until
                and entry.keys.known(entry.kid) is not None
            ):
                return entry
            del self._entries[shown]
        try:
            header, issuer = peek(token)
        except TokenRefused:
            return None
        found = self._issuers.get(issuer)
        if found is None:
            return None
        key = found[1].known(header.kid)
        if key is None:
            return self._wait(shown, token, call, header, found)
        return self._verified(shown, token, call, header, found, key)

    def refresh_if_due(self) -> None:
        """Fetch in the background what has become old. Call it now and then, within a running loop."""
        for _, keys in self._issuers.values():
            keys.refresh_if_due()

    async def _wait(
        self, shown: bytes, token: bytes, call: Call, header: Header, found: tuple[ForeignIssuer, RemoteKeys]
    ) -> Outcome:
        try:
            key = await found[1].find(header.kid)
        except NoKeysError:
            raise Denied("issuer_unavailable", headers=_RETRY_SOON) from None
        if key is None:
            return REFUSED
        outcome = self._verified(shown, token, call, header, found, key)
        return await outcome if isinstance(outcome, Awaitable) else outcome

    def _verified(
        self,
        shown: bytes,
        token: bytes,
        call: Call,
        header: Header,
        found: tuple[ForeignIssuer, RemoteKeys],
        key: VerifyingKey,
    ) -> "Outcome | Awaitable[Outcome]":
        issuer, keys = found
        if header.typ not in _TYPES:
            return REFUSED
        try:
            claims = verify_with(token, header, key)
        except TokenRefused:
            return REFUSED
        expires_at = _end_of(claims, issuer, call.now, self._leeway_s)
        if expires_at is None:
            return REFUSED
        entry = ForeignEntry(
            _principal(claims, issuer),
            issued_at=numeric_date(claims.get("iat")),
            expires_at=expires_at,
            reread_at=call.boot + KEEP_S,
            kid=key.kid,
            keys=keys,
        )
        rows = self._read(entry)
        if not isinstance(rows, list):
            return self._settle_later(shown, entry, rows)
        outcome = self._settle(shown, entry, rows)
        if outcome is None:
            raise StoreError("store_unavailable", "the store answered with an older state than it announced")
        return outcome

    def _read(self, entry: ForeignEntry) -> "Rows | Awaitable[Rows]":
        subject = entry.principal.id
        return self._cold(SUBJECT_READ, (entry.principal.issuer, subject, subject, subject, subject))

    async def _settle_later(self, shown: bytes, entry: ForeignEntry, rows: Awaitable[Rows]) -> Outcome:
        """Judge by what the store answers; ask again where news overtook the answer on its way."""
        for _ in range(_ATTEMPTS):
            outcome = self._settle(shown, entry, await rows)
            if outcome is not None:
                return outcome
            again = self._read(entry)
            if isinstance(again, list):
                break
            rows = again
        raise StoreError("store_unavailable", "the store answered with an older state than it announced")

    def _settle(self, shown: bytes, entry: ForeignEntry, rows: Rows) -> Outcome | None:
        """Keep the entry, unless its subject's row refuses it; None where this process knows of a newer state."""
        if len(rows) > 1:
            return REFUSED
        version, is_refused, signed_out_at = rows[0] if rows else (0, False, None)
        if version < self._known.get(entry.account_id, 0):
            return None
        if is_refused:
            return REFUSED
        if signed_out_at is not None and (
            entry.issued_at is None or entry.issued_at <= signed_out_at + self._leeway_s
        ):  # by its clock, which may be that much ahead
            return REFUSED
        entry.account_version = version
        if len(self._entries) >= MOST_KEPT:
            self._entries.popitem(last=False)
        self._entries[shown] = entry
        return entry


def _end_of(claims: Mapping[str, Any], issuer: ForeignIssuer, now: float, leeway_s: float) -> float | None:
    """Return until when the token is good, by our clock; None for one that is not, or not for us."""
    audience, expires_at = claims.get("aud"), numeric_date(claims.get("exp"))
    if (
        claims.get("iss") != issuer.issuer
        or not (audience == issuer.audience or (isinstance(audience, list) and issuer.audience in audience))
        or not is_subject(claims.get("sub"))
        or expires_at is None
        or now >= expires_at + leeway_s
    ):
        return None
    for name in ("iat", "nbf"):
        if name in claims:
            moment = numeric_date(claims[name])
            if moment is None or moment > now + leeway_s:
                return None
    return expires_at + leeway_s


def _principal(claims: Mapping[str, Any], issuer: ForeignIssuer) -> Principal:
    scope = claims.get("scope", claims.get("scp", ""))
    words = scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
    listed = claims.get(issuer.roles_claim, [])
    named = [listed] if isinstance(listed, str) else listed if isinstance(listed, list) else []
    return Principal(
        id=claims["sub"],
        kind="foreign",
        issuer=issuer.issuer,
        roles=frozenset(issuer.roles[name] for name in named if isinstance(name, str) and name in issuer.roles),
        scopes=frozenset(issuer.scopes[word] for word in words if isinstance(word, str) and word in issuer.scopes),
        via="jwt",
        delegated=True,
    )
