"""The keys of a foreign issuer: fetched rarely, kept while it is down, driven into nothing by random `kid`s.

    known kid                      at hand; nothing is fetched
    older than max-age             fetched in the background, while requests go on with what there is
    unknown kid                    fetched once for all who wait, if the budget allows; else the token is refused
    issuer down, slow, garbage     what was fetched last stays; without anything yet: 503, since nobody can tell
    too many wait for one fetch    503 for whoever comes after `MOST_WAITING`: all of them go on in one turn of the loop

Every fetch, successful or not, takes from the budget of `FETCHES_A_MINUTE`. What comes is bounded in size, number of
keys and time; keys that are not for signatures, or of no algorithm we take, are left out, and one that cannot be read
costs only itself (RFC 7517 section 5; CVE-2026-48524: unknown `kid`s must evict nothing).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from garrison.core.clock import Clock
from garrison.core.durations import Limit
from garrison.guard.limit_table import LimitTable
from garrison.identity.issuers.fetch import read_object
from garrison.identity.issuers.model import ASYMMETRIC, ForeignIssuer, is_fetchable
from garrison.identity.signing.jose import VerifyingKey, import_public

FETCHES_A_MINUTE = 5
MAX_KEYS = 100
MOST_WAITING = 100
LEAST_AGE_S, MOST_AGE_S = 60.0, 3600.0
_log = structlog.get_logger("garrison")

Fetch = Callable[[str], Awaitable[tuple[bytes, float]]]
"""URL → (body, max-age in seconds). Raises OSError or ValueError when it does not get one."""


class NoKeysError(Exception):
    """Whether a token is right cannot be told: nothing was ever fetched from the issuer, or too many wait for it."""


class RemoteKeys:
    """The keys of one issuer in one process."""

    __slots__ = ("_budget", "_clock", "_due_at", "_fetch", "_issuer", "_keys", "_running", "_waiting")

    def __init__(self, issuer: ForeignIssuer, fetch: Fetch, clock: Clock) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._budget = LimitTable(most=1).limiter(Limit(FETCHES_A_MINUTE, 60))
        self._keys: Mapping[str, VerifyingKey] = {}
        self._due_at = float("-inf")
        self._running: asyncio.Task[None] | None = None
        self._waiting = 0

    def known(self, kid: str) -> VerifyingKey | None:
        """Return the key at hand with this `kid`."""
        return self._keys.get(kid)

    def refresh_if_due(self) -> None:
        """Fetch in the background if what there is has become old. Call it now and then, within a running loop."""
        if self._clock.boot() >= self._due_at:
            self._start()

    async def find(self, kid: str) -> VerifyingKey | None:
        """Return the key with this `kid`, having fetched if it was unknown and the budget allowed.

        Raises NoKeysError where nothing was ever fetched, or too many wait.
        """
        key = self._keys.get(kid)
        if key is None:
            running = self._start()
            if running is not None:
                await self._wait_for(running)
                key = self._keys.get(kid)
        if key is None and not self._keys:
            raise NoKeysError
        return key

    async def _wait_for(self, running: "asyncio.Task[None]") -> None:
        if self._waiting >= MOST_WAITING:
            raise NoKeysError
        self._waiting += 1
        try:
            await asyncio.shield(running)
        finally:
            self._waiting -= 1

    def _start(self) -> "asyncio.Task[None] | None":
        """Return the fetch under way, or a new one; None where the budget is used up."""
        loop = asyncio.get_running_loop()
        if self._running is not None and not self._running.done() and self._running.get_loop() is loop:
            return self._running
        boot = self._clock.boot()
        if self._budget.take("", boot) < 0.0:
            return None
        self._due_at = boot + LEAST_AGE_S
        self._running = loop.create_task(self._run(), name=f"keys of {self._issuer.issuer}")
        return self._running

    async def _run(self) -> None:
        try:
            self._keys, max_age_s = await self._fetched()
            self._due_at = self._clock.boot() + min(MOST_AGE_S, max(LEAST_AGE_S, max_age_s))
        except (OSError, ValueError) as error:
            _log.warning("issuer_keys", issuer=self._issuer.issuer, problem=type(error).__name__, kept=len(self._keys))

    async def _fetched(self) -> tuple[Mapping[str, VerifyingKey], float]:
        """Return the issuer's keys and how long they may be kept. Raises OSError, ValueError."""
        url = self._issuer.jwks_uri
        if not url:
            configuration = read_object((await self._fetch(self._issuer.discovery_url))[0])
            if configuration.get("issuer") != self._issuer.issuer:
                raise ValueError("the discovery document is another issuer's")
            named = configuration.get("jwks_uri")
            if not isinstance(named, str) or not is_fetchable(named):
                raise ValueError("the discovery document names no keys")
            url = named
        body, max_age_s = await self._fetch(url)
        listed = read_object(body).get("keys")
        if not isinstance(listed, list):
            raise ValueError("the key set holds no keys")
        keys: dict[str, VerifyingKey] = {}
        for jwk in listed[:MAX_KEYS]:
            await asyncio.sleep(0)  # a key takes up to half a millisecond: the loop has its turn between two
            key = _key_of(jwk)
            if key is not None:
                keys.setdefault(key.kid, key)
        if not keys:
            raise ValueError("the key set holds no key that we take")
        return keys, max_age_s


def _key_of(jwk: Any) -> VerifyingKey | None:
    """Return the key if it has a `kid`, is for signatures, and of an algorithm we take."""
    if not isinstance(jwk, dict) or jwk.get("use", "sig") != "sig" or "d" in jwk:
        return None
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    if algorithm is None:
        curves = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
        algorithm = curves.get(jwk["kty"]) if isinstance(jwk.get("kty"), str) else None
    if not isinstance(kid, str) or not isinstance(algorithm, str) or algorithm not in ASYMMETRIC:
        return None
    try:
        return VerifyingKey(kid, algorithm, import_public(jwk, algorithm))
    except ValueError:
        return None
