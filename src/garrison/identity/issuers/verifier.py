"""Tokens of foreign issuers: verified once, then compared at each hit (RFC 9068 section 4, RFC 8725 section 3).

Whose a token is, its `iss` says before it is verified, and only decides by whose keys it has to be right. Roles and
scopes are what the issuer's two maps make of its claims. The principal is a delegated one: it passes only rules that
name a scope, or `credentials="foreign"`.
"""

from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

from garrison.core.clock import Clock
from garrison.core.errors import Denied
from garrison.core.principal import Principal
from garrison.guard.authenticate import REFUSED, Outcome
from garrison.identity.issuers.model import ForeignIssuer
from garrison.identity.issuers.remote_keys import Fetch, NoKeysError, RemoteKeys
from garrison.identity.signing.jose import Header, TokenRefused, VerifyingKey, numeric_date, peek, verify_with
from garrison.wire.call import Call

_TYPES = frozenset({"at+jwt", "jwt", ""})
_RETRY_SOON = ((b"retry-after", b"2"),)
KEEP_S = 300.0
MOST_KEPT = 16_384


class ForeignEntry:
    """One verified token: what the guard calls `Verified`. Nothing of ours ends it but its time, and its key."""

    __slots__ = ("expires_at", "keys", "kid", "principal", "reread_at")

    account_id = ""
    session_id = ""
    account_version = 1 << 60
    session_version = 1 << 60

    def __init__(
        self, principal: Principal, *, expires_at: float, reread_at: float, kid: str, keys: RemoteKeys
    ) -> None:
        self.principal = principal
        self.expires_at = expires_at
        self.reread_at = reread_at
        self.kid = kid
        self.keys = keys


class ForeignTokens:
    """All issuers of one process, and what they signed that was verified."""

    __slots__ = ("_entries", "_issuers", "_leeway_s")

    def __init__(self, issuers: Iterable[ForeignIssuer], fetch: Fetch, clock: Clock, *, leeway_s: float) -> None:
        self._issuers = {one.issuer: (one, RemoteKeys(one, fetch, clock)) for one in issuers}
        self._leeway_s = leeway_s
        self._entries: dict[bytes, ForeignEntry] = {}

    def show(self, shown: bytes, token: bytes, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return the entry of this token, REFUSED, or None where it is of no issuer that is configured.

        An awaitable only where keys have to be fetched. Raises Denied(`issuer_unavailable`) where they never could be.
        """
        if not self._issuers:
            return None
        entry = self._entries.get(shown)
        if entry is not None:
            if call.now < entry.expires_at and call.boot < entry.reread_at and entry.keys.known(entry.kid) is not None:
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
        return REFUSED if key is None else self._verified(shown, token, call, header, found, key)

    def _verified(
        self,
        shown: bytes,
        token: bytes,
        call: Call,
        header: Header,
        found: tuple[ForeignIssuer, RemoteKeys],
        key: VerifyingKey,
    ) -> Outcome:
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
            _principal(claims, issuer), expires_at=expires_at, reread_at=call.boot + KEEP_S, kid=key.kid, keys=keys
        )
        if len(self._entries) >= MOST_KEPT:
            del self._entries[next(iter(self._entries))]
        self._entries[shown] = entry
        return entry


def _end_of(claims: Mapping[str, Any], issuer: ForeignIssuer, now: float, leeway_s: float) -> float | None:
    """Return until when the token is good, by our clock; None for one that is not, or not for us."""
    audience, expires_at = claims.get("aud"), numeric_date(claims.get("exp"))
    if (
        claims.get("iss") != issuer.issuer
        or not (audience == issuer.audience or (isinstance(audience, list) and issuer.audience in audience))
        or not isinstance(claims.get("sub"), str)
        or not claims["sub"]
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
