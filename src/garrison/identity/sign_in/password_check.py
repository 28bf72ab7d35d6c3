"""One guess at one account's password: count it, wait if the account is under attack, hash, say yes or no.

Everything that takes a password from outside goes through here (sign-in, change of password; Basic and step-up when
they come), so that no path has its own idea of counting. The answer to a failure is one and the same for unknown,
wrong and disabled, and costs the same: one transaction and one hash.

A yes is a `Proof` and not yet a decision: between the hash and the transaction that follows from it, the account may
have been disabled or its password changed. That transaction begins with `confirm`.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from sqlalchemy import Connection

from garrison.core.clock import Clock
from garrison.core.errors import Denied, StoreError
from garrison.guard.authorize import CHALLENGE
from garrison.identity.accounts.queries import Credentials, find_credentials, upgrade_hash
from garrison.identity.changes import Change
from garrison.identity.devices.queries import find_device
from garrison.identity.passwords.hashing import Passwords
from garrison.identity.settings import IdentitySettings
from garrison.identity.sign_in.throttle import Reservation, Throttle
from garrison.store.database import Database

Find = Callable[[Connection], Credentials | None]
SHED_AFTER_S = 0.035
"""On average; within 50 ms in any case."""
MOST_SHEDDING = 4096


@dataclass(frozen=True, slots=True)
class Proof:
    """A password was right a moment ago. `device_id` is the known device that showed it."""

    credentials: Credentials
    device_id: str | None
    reservation: Reservation
    upgraded_hash: str | None


class PasswordCheck:
    """Checks passwords for accounts, throttled."""

    def __init__(
        self, database: Database, clock: Clock, passwords: Passwords, throttle: Throttle, settings: IdentitySettings
    ) -> None:
        self._database = database
        self._clock = clock
        self._passwords = passwords
        self._throttle = throttle
        self._max_delayed = settings.max_delayed
        self._max_delayed_account = settings.max_delayed_account
        self._delayed: dict[bytes, int] = {}
        self._shedding = 0

    async def check(
        self, find: Find, *, password: str, peer: str, device_secret: str | None, unknown_key: str = ""
    ) -> Proof:
        """Check `password` for the account that `find` returns.

        Failures are counted under the account's address in normal form, or under `unknown_key` where there is none:
        the two must be the same for an address, so that counting tells nothing.

        Raises Denied(`invalid_credentials`, `rate_limited`, `overloaded`) and StoreError.
        """
        if self._passwords.is_full():  # before the store is touched: a storm must not become a storm of writes
            await self._shed()
        now = self._clock.now()

        def reserve(connection: Connection) -> tuple[Credentials | None, str | None, Reservation]:
            credentials = find(connection)
            account_id, account_key = ("", unknown_key) if credentials is None else credentials[:2]
            device_id = None if device_secret is None else find_device(connection, device_secret, account_id, now)
            reservation = self._throttle.reserve(
                connection, account_key=account_key, peer=peer, device_id=device_id, now=now
            )
            return credentials, device_id, reservation

        credentials, device_id, reservation = await self._database.write(reserve)
        try:
            await self._wait(reservation)
            password_hash = None if credentials is None else credentials.password_hash
            verdict = await self._passwords.verify(password_hash, password)
        except Denied:  # shed: nobody guessed anything
            with contextlib.suppress(StoreError):
                await self._database.write(lambda connection: self._throttle.give_back(connection, reservation, now))
            raise
        if credentials is None or not verdict.matches or credentials.status != "active":
            raise invalid_credentials()
        return Proof(credentials, device_id, reservation, verdict.upgraded)

    def confirm(self, change: Change, proof: Proof) -> None:
        """Begin the transaction that follows from a proof: it still holds, the attempt was no failure.

        Raises Denied(`invalid_credentials`) where the account was disabled, or its password changed, in between.
        """
        connection, proved = change.connection, proof.credentials
        current = find_credentials(connection, account_id=proved.id)
        if current is None or current.status != "active" or current.password_version != proved.password_version:
            raise invalid_credentials()
        self._throttle.give_back(connection, proof.reservation, change.now)
        if proof.upgraded_hash is not None and proved.password_hash is not None:
            upgrade_hash(connection, proved.id, proved.password_hash, proof.upgraded_hash)

    async def _shed(self) -> NoReturn:
        """Refuse, a moment later: whoever comes back without a pause would else keep the loop from everybody else."""
        if self._shedding < MOST_SHEDDING:
            self._shedding += 1
            try:
                await asyncio.sleep(SHED_AFTER_S * random.uniform(0.6, 1.3))  # noqa: S311 - not all at once, no more
            finally:
                self._shedding -= 1
        raise _overloaded()

    async def _wait(self, reservation: Reservation) -> None:
        key, delayed = reservation.delay_key, self._delayed
        if key is None or reservation.delay_s <= 0:
            return
        if delayed.get(key, 0) >= self._max_delayed_account or sum(delayed.values()) >= self._max_delayed:
            raise _overloaded()
        delayed[key] = delayed.get(key, 0) + 1
        try:
            await asyncio.sleep(reservation.delay_s)
        finally:
            delayed[key] -= 1
            if not delayed[key]:
                del delayed[key]


def invalid_credentials() -> Denied:
    """Return the one answer to every failed guess."""
    return Denied("invalid_credentials", headers=(CHALLENGE,))


def _overloaded() -> Denied:
    return Denied("overloaded", headers=((b"retry-after", b"2"),))
