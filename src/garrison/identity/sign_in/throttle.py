"""Guessing is throttled, and a stranger's guessing locks nobody out (ASVS 5.0 V6.3.1; CWE-307, CWE-645).

Failures count, five ways:

    who                       key                          at most
    an unknown device         (account, /24 or /64)        LIMIT_SIGN_IN            5/15m
                              address (IPv4, or /64)       LIMIT_SIGN_IN_ADDRESS   50/15m
                              /48 of an IPv6 address       16 times that
                              account                      never refused: delayed, 30 s at most
    a device known to it      device                       LIMIT_SIGN_IN

The attempt is *reserved before* the hash and given back on success, so that parallel guesses count one by one. One
that is refused is refused before the hash, whether or not the account exists and the password is right. A stranger
can use up what is theirs: their network's and their address's; the owner comes from another network, or with a device
that signed in before, whose budget no stranger can touch.

Keys are HMACs under a sub-key of SECRET, so that the counters' table tells nobody's address or network.
"""

import hashlib
import hmac
import math
from dataclasses import dataclass

from sqlalchemy import Connection

from garrison.core.durations import Limit
from garrison.core.errors import Denied
from garrison.core.network import bucket, parse_address
from garrison.core.sealing import Sealer
from garrison.identity.settings import IdentitySettings
from garrison.store import counters

AGGREGATE_FACTOR = 16
"""How many /64 of one /48 may be used up before the /48 is."""
Wanted = tuple[bytes, Limit]


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one attempt took, to be given back if it was no failure, and how long it has to wait first."""

    taken: tuple[Wanted, ...]
    delay_key: bytes | None
    delay_s: float


class Throttle:
    """Counts attempts in the store, within the caller's transaction."""

    def __init__(self, sealer: Sealer, settings: IdentitySettings) -> None:
        self._key = sealer.subkey("sign-in throttle")
        self._account = settings.limit_sign_in
        self._address = settings.limit_sign_in_address
        self._aggregate = Limit(self._address.count * AGGREGATE_FACTOR, self._address.period_s)
        self._account_free = settings.account_free
        self._delay_max_s = settings.account_delay_max_s

    def reserve(
        self, connection: Connection, *, account_key: str, peer: str, device_id: str | None, now: float
    ) -> Reservation:
        """Count one attempt everywhere it counts, or nowhere. `account_key` is the address in normal form.

        Raises Denied(`rate_limited`) with Retry-After.
        """
        wanted = self._wanted(account_key, peer, device_id)
        taken = counters.take(connection, wanted, now)
        if not taken.admitted:
            seconds = max(1, math.ceil(taken.retry_after_s))
            raise Denied("rate_limited", headers=((b"retry-after", str(seconds).encode()),))
        if device_id is not None:
            return Reservation(wanted, None, 0.0)
        delay_key = self._mac("account", account_key)
        delay_s = counters.delay(connection, delay_key, self._account_free, now, max_s=self._delay_max_s)
        return Reservation(wanted, delay_key, delay_s)

    def give_back(self, connection: Connection, reservation: Reservation, now: float) -> None:
        """Uncount an attempt that was no failure."""
        counters.give_back(connection, reservation.taken, now)
        if reservation.delay_key is not None:
            counters.give_back(connection, ((reservation.delay_key, self._account_free),), now)

    def _wanted(self, account_key: str, peer: str, device_id: str | None) -> tuple[Wanted, ...]:
        if device_id is not None:
            return ((self._mac("device", device_id), self._account),)
        network = bucket(peer, v4_prefix=24, v6_prefix=64)
        wanted = [
            (self._mac("account and network", f"{account_key}\x00{network}"), self._account),
            (self._mac("address", bucket(peer)), self._address),
        ]
        address = parse_address(peer)
        if address is not None and address.version == 6:
            wanted.append((self._mac("aggregate", bucket(peer, v6_prefix=48)), self._aggregate))
        return tuple(wanted)

    def _mac(self, kind: str, value: str) -> bytes:
        text = f"{kind}\x00{value}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, text, hashlib.sha256)
