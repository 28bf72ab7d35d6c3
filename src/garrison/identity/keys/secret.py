"""What a key looks like: `grn_`, 43 random letters and digits, and a checksum of six.

The prefix and the checksum are for scanners, which find keys that were published by mistake and can tell one from a
look-alike; what fails the checksum is refused without asking the store. 43 of 62 characters are 256 bits.
"""

import re
import secrets
import string
import zlib

PREFIX = "grn_"
PURPOSE = "key"
"""Purpose of the digest, see `core.ids.digest`."""
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_LENGTH, _CHECK = 43, 6
_FORM = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_LENGTH + _CHECK}}}".encode())


def new_key() -> str:
    """Make a key."""
    return with_checksum(PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH)))


def with_checksum(body: str) -> str:
    """Return the key with this prefix and these 43 letters and digits."""
    return body + _checksum(body.encode())


def is_well_formed(key: bytes) -> bool:
    """Say whether this may be a key: the form, and the checksum (CRC-32, as base 62)."""
    return _FORM.fullmatch(key) is not None and key[-_CHECK:].decode() == _checksum(key[:-_CHECK])


def _checksum(body: bytes) -> str:
    number, found = zlib.crc32(body), ""
    for _ in range(_CHECK):
        number, digit = divmod(number, len(_ALPHABET))
        found = _ALPHABET[digit] + found
    return found
