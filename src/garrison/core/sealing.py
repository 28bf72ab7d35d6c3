"""Keys from one secret, sealing at rest, and keyed digests.

`SECRET` is a list: the first makes, all open (rotation). Sub-keys come by HKDF-SHA256 (RFC 5869), one per purpose,
so a key used for one thing says nothing about another. Sealing is AES-256-GCM (NIST SP 800-38D) with a random
96-bit nonce; the associated data names table, column and row, so a sealed value moved elsewhere does not open.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from garrison.core.errors import GarrisonError

MIN_SECRET_BYTES = 32


class Sealer:
    """Seals, opens and authenticates under the master secrets. `repr` shows no key."""

    __slots__ = ("_secrets",)

    def __init__(self, secrets: Sequence[bytes]) -> None:
        if not secrets or any(len(secret) < MIN_SECRET_BYTES for secret in secrets):
            raise GarrisonError("secret_too_short", f"every secret needs at least {MIN_SECRET_BYTES} bytes")
        self._secrets = tuple(secrets)

    def __repr__(self) -> str:
        return f"Sealer({len(self._secrets)} secrets)"

    def subkey(self, purpose: str, *, generation: int = 0) -> bytes:
        """Return the 32-byte sub-key of `purpose`; `generation` 0 is the newest secret."""
        return HKDF(SHA256(), 32, salt=None, info=b"garrison/" + purpose.encode()).derive(self._secrets[generation])

    def seal(self, value: bytes, *, place: str) -> bytes:
        """Encrypt `value` for `place` (`table/column/row`). 29 bytes longer than the value."""
        nonce = os.urandom(12)
        return b"\x01" + nonce + AESGCM(self.subkey("seal")).encrypt(nonce, value, place.encode())

    def open(self, sealed: bytes, *, place: str) -> bytes:
        """Decrypt what `seal` made for the same place under any of the secrets.

        Raises GarrisonError(`wrong_secret`): another secret, another place, or a changed value.
        """
        if sealed[:1] == b"\x01" and len(sealed) >= 29:
            for generation in range(len(self._secrets)):
                try:
                    key = AESGCM(self.subkey("seal", generation=generation))
                    return key.decrypt(sealed[1:13], sealed[13:], place.encode())
                except InvalidTag:
                    continue
        raise GarrisonError("wrong_secret", "sealed under another SECRET, or altered")

    def is_newest(self, sealed: bytes, *, place: str) -> bool:
        """Say whether `seal` of today made this: else it should be sealed anew, so that an older secret can go."""
        try:
            AESGCM(self.subkey("seal")).decrypt(sealed[1:13], sealed[13:], place.encode())
        except InvalidTag:
            return False
        return True

    def mac(self, value: str, *, purpose: str) -> bytes:
        """Return the HMAC-SHA256 of `value` under the sub-key of `purpose`: a name nobody else can compute."""
        return hmac.new(self.subkey(purpose), value.encode("utf-8", "surrogateescape"), hashlib.sha256).digest()
