"""Password hashes: Argon2id (RFC 9106, OWASP Password Storage Cheat Sheet, ASVS 5.0 V11.4.2), in the pool.

A password is hashed exactly as it came: no truncation, no case folding, no Unicode normal form (ASVS 5.0 V6.2.8).
`verify` costs one hash whether or not there is an account: without one it checks against a hash of the same
parameters that nothing matches, so that time does not tell who has an account (Django's CVE-2024-39329 was a path
that skipped the hash). A hash made with other parameters is made anew when its password has just been shown right.
"""

import base64
import os
from typing import NamedTuple

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import ARGON2_VERSION, Type

from garrison.identity.passwords.pool import HashPool
from garrison.identity.settings import PasswordCost

_HASH_BYTES = 32
_SALT_BYTES = 16


class Verdict(NamedTuple):
    """What a check found. `upgraded` is a new hash to store, where the old one has other parameters than we use."""

    matches: bool
    upgraded: str | None = None


class Passwords:
    """Hashes and verifies in the pool's threads."""

    def __init__(self, cost: PasswordCost, pool: HashPool) -> None:
        self._hasher = PasswordHasher(
            time_cost=cost.passes,
            memory_cost=cost.memory_kib,
            parallelism=cost.lanes,
            hash_len=_HASH_BYTES,
            salt_len=_SALT_BYTES,
            type=Type.ID,
        )
        self._dummy = _unmatched(cost)
        self._pool = pool

    def is_full(self) -> bool:
        """Say whether a call would be shed right now."""
        return self._pool.is_full()

    async def hash(self, password: str) -> str:
        """Return the encoded hash of a new password. Raises Denied(`overloaded`)."""
        return await self._pool.run(lambda: self._hasher.hash(password))

    async def verify(self, encoded: str | None, password: str) -> Verdict:
        """Check a password against an encoded hash; None, for an unknown account, costs the same and never matches.

        Raises Denied(`overloaded`).
        """
        return await self._pool.run(lambda: self._verify(encoded, password))

    def close(self) -> None:
        """End the pool."""
        self._pool.close()

    def _verify(self, encoded: str | None, password: str) -> Verdict:
        try:
            self._hasher.verify(self._dummy if encoded is None else encoded, password)
        except (VerificationError, InvalidHashError):
            return Verdict(False)
        if encoded is None:
            return Verdict(False)
        return Verdict(True, self._hasher.hash(password) if self._hasher.check_needs_rehash(encoded) else None)


def _unmatched(cost: PasswordCost) -> str:
    """Return an encoded hash of these parameters with a random result: one hash to check, matched by nothing."""
    salt, result = (base64.b64encode(os.urandom(size)).rstrip(b"=").decode() for size in (_SALT_BYTES, _HASH_BYTES))
    parameters = f"m={cost.memory_kib},t={cost.passes},p={cost.lanes}"
    return f"$argon2id$v={ARGON2_VERSION}${parameters}${salt}${result}"
