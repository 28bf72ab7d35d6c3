"""Which new passwords are taken: 8 to 256 characters, Unicode kept, anything but the most common ones.

NIST SP 800-63B section 3.1.1.2, ASVS 5.0 V6.2: length instead of composition rules, and a list of what everybody
tries first. A password is refused only when it *equals* a line of the list, case-folded: a sentence that merely holds
a common word is a good password. The list is `common.txt` (source and licence beside it), about 8,300 lines of 8 or
more characters. What this does not do: ask a breach service.
"""

from functools import cache
from importlib.resources import files

from garrison.core.errors import Denied

MIN_CHARACTERS = 8
MAX_CHARACTERS = 256
MAX_BYTES = 1024
"""Most bytes of UTF-8 that a sign-in may offer: what 256 characters can need."""


def check_new_password(password: str) -> None:
    """Refuse a common password. The same work for every address, so it tells nothing about accounts.

    Raises Denied(`validation`) for the length, where no model checked it before, and Denied(`common_password`).
    """
    if not MIN_CHARACTERS <= len(password) <= MAX_CHARACTERS or not _is_text(password):
        raise Denied("validation", f"a password has {MIN_CHARACTERS} to {MAX_CHARACTERS} characters")
    if password.casefold() in common_passwords():
        raise Denied("common_password")


@cache
def common_passwords() -> frozenset[str]:
    """Return the bundled list, read once (about 2 ms and 0.9 MB)."""
    text = files("garrison.identity.passwords").joinpath("common.txt").read_text(encoding="ascii")
    return frozenset(text.splitlines())


def _is_text(password: str) -> bool:
    """Lone surrogates have no UTF-8: they come from a terminal, never from JSON that we parse."""
    try:
        return bool(password.encode())
    except UnicodeEncodeError:
        return False
