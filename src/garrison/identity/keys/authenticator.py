"""Keys as credentials: `X-Api-Key`, or `Authorization: Bearer grn_…` (OWASP API2; ASVS 5.0 V9.1).

What is compared at each hit, warm or cold: expiry, the versions of key and maker, the network it may be used from, its
own limit. From outside its network a key is 403, and whose it was is written down: it may be in the wrong hands.
"""

from collections.abc import Awaitable
from functools import lru_cache
from hashlib import sha256
from typing import Any

from garrison.core.durations import Limit, parse_limit
from garrison.core.errors import Denied
from garrison.core.ids import AccountId, SessionId
from garrison.core.network import Network, is_in, parse_address, parse_network
from garrison.core.principal import Principal
from garrison.guard.authenticate import REFUSED, Outcome
from garrison.guard.limiter import Limiter, Limits
from garrison.identity.accounts.model import roles_of
from garrison.identity.keys.model import CREATE_ACCOUNTS
from garrison.identity.keys.queries import KEY_READ
from garrison.identity.keys.secret import PURPOSE, is_well_formed
from garrison.identity.sessions.cache import Outcome as Kept
from garrison.identity.sessions.cache import ScopesOf, SessionCache, SessionEntry
from garrison.identity.settings import IdentitySettings
from garrison.identity.tokens.bearer import bearer_of
from garrison.wire.call import Call

_SALT = PURPOSE.encode() + b"\x00"  # the digest of `core.ids.digest`, written out


class KeyEntry(SessionEntry):
    """A verified key: `session_id` is the key's id, `account_id` its maker's."""

    __slots__ = ("limit", "networks")

    def __init__(self, *arguments: Any, networks: tuple[Network, ...], limit: Limit | None, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.networks = networks
        self.limit = limit


class KeyAuthenticator:
    """Reads keys; what has another form is somebody else's."""

    explicit = True

    def __init__(self, cache: SessionCache, scopes_of: ScopesOf, limits: Limits, settings: IdentitySettings) -> None:
        self._cache = cache
        self._scopes_of = scopes_of
        self._limits = limits
        self._settings = settings
        self._limiters: dict[Limit, Limiter] = {}

    def check(self, call: Call) -> "Outcome | Awaitable[Outcome]":
        """Return the key; None for other credentials, REFUSED for one that is not valid (any more).

        Raises Denied(`wrong_network`, `rate_limited`).
        """
        shown = call.headers.get(b"x-api-key")
        if shown is None:
            shown = bearer_of(call)
            if not shown.startswith(b"grn_"):
                return None
        outcome = self._cache.verify(sha256(_SALT + shown).digest(), call, self._ask)
        if isinstance(outcome, KeyEntry):  # first, since isinstance with Awaitable takes 0.25 µs
            return self._admitted(outcome, call)
        return self._wait(outcome, call) if isinstance(outcome, Awaitable) else outcome

    def _ask(self, shown: bytes, call: Call) -> "Kept | Awaitable[Kept]":
        key = call.headers.get(b"x-api-key")
        if not is_well_formed(bearer_of(call) if key is None else key):
            return REFUSED
        return self._cache.read(shown, call, KEY_READ, (shown, shown, shown), self._judge)

    async def _wait(self, outcome: Awaitable[Outcome], call: Call) -> Outcome:
        admitted = self._admitted(await outcome, call)
        return await admitted if isinstance(admitted, Awaitable) else admitted

    def _admitted(self, outcome: Outcome, call: Call) -> "Outcome | Awaitable[Outcome]":
        if not isinstance(outcome, KeyEntry):
            return outcome
        if outcome.networks and not is_in(parse_address(call.peer), outcome.networks):
            call.principal = outcome.principal  # whose key it was is what has to be known
            raise Denied("wrong_network")
        if outcome.limit is not None:
            left = self._limiter(outcome.limit).take(outcome.session_id, call.boot)
            return _within(outcome, left) if isinstance(left, float) else self._counted(outcome, left)
        return outcome

    async def _counted(self, outcome: KeyEntry, asked: Awaitable[float]) -> Outcome:
        return _within(outcome, await asked)

    def _limiter(self, limit: Limit) -> Limiter:
        found = self._limiters.get(limit)
        if found is None:
            found = self._limiters[limit] = self._limits.limiter(limit, name="key", share=self._settings.share)
        return found

    def _judge(self, row: tuple[Any, ...], _earlier: SessionEntry | None, call: Call) -> Kept:
        (
            key_id,
            account_id,
            kind,
            scopes_text,
            networks,
            rate,
            expires_at,
            created_at,
            version,
            earlier_until,
            roles,
            status,
            account_version,
            email,
        ) = row
        ends_at = min(one for one in (expires_at, earlier_until, float("inf")) if one is not None)
        if status != "active" or call.now >= ends_at:
            return REFUSED
        given = frozenset(scopes_text.split())
        scopes = given & {CREATE_ACCOUNTS} if kind == "app" else given & self._scopes_of(roles_of(roles))
        principal = Principal(
            id=key_id, kind="key", issuer=self._settings.issuer, scopes=scopes, via="key", delegated=True
        )
        return KeyEntry(
            principal,
            account_id=AccountId(account_id),
            account_version=account_version,
            session_id=SessionId(key_id),
            session_version=version,
            email=email,
            created_at=created_at,
            seen_at=call.now,
            expires_at=ends_at,
            ends_at=ends_at,
            reread_at=call.boot + self._settings.cache_ttl_s,
            networks=_networks(networks),
            limit=_limit(rate),
        )


def _within(entry: KeyEntry, left: float) -> KeyEntry:
    """Return the key whose limit has so much left. Raises Denied(`rate_limited`)."""
    if left < 0.0:
        raise Denied("rate_limited", headers=((b"retry-after", b"%d" % max(1, int(-left) + 1)),))
    return entry


@lru_cache(1024)
def _networks(text: str) -> tuple[Network, ...]:
    return tuple(parse_network(one) for one in text.split())


@lru_cache(1024)
def _limit(text: str) -> Limit | None:
    return parse_limit(text) if text else None
