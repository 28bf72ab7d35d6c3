"""Identifiers and secrets, both from the operating system's random source (RFC 4086).

Ids are made by us, carry their kind as a prefix and are never reused, so no client or foreign `sub` can equal an
account's. They are public. Secrets are not: 256 bits, stored only as digests.
"""

import hashlib
import secrets
from typing import Literal, NewType

AccountId = NewType("AccountId", str)
SessionId = NewType("SessionId", str)

Prefix = Literal["acc", "cli", "key", "ses", "org", "dev", "evt"]

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: 5 bits a character, no look-alikes
_LENGTH = 24  # 120 bits


def new_id(prefix: Prefix) -> str:
    """Make an id such as `acc_4t…`: prefix, underscore, 24 characters (120 random bits)."""
    bits = secrets.randbits(5 * _LENGTH)
    return prefix + "_" + "".join(_ALPHABET[(bits >> (5 * i)) & 31] for i in range(_LENGTH))


def new_secret() -> str:
    """Make a secret of 256 random bits, 43 characters of URL-safe base 64."""
    return secrets.token_urlsafe(32)


def digest(secret: str | bytes, *, purpose: str) -> bytes:
    """Return the SHA-256 under which a random secret is stored, 32 bytes.

    `purpose` (`session`, `bearer`, `device` …) keeps a secret of one kind from being found as another. A plain hash
    is enough because our secrets have 256 bits; passwords go through Argon2id instead.
    """
    raw = secret.encode("utf-8", "surrogateescape") if isinstance(secret, str) else secret
    return hashlib.sha256(purpose.encode() + b"\x00" + raw).digest()
