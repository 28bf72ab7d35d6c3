"""E-mail addresses: which ones may sign up, and the normal form that tells whether two are the same.

An address is one mailbox or it is refused: no lists, no comments, no quoted local parts, no line breaks, no domain
literals (next-auth CVE-2022-35924: `victim@x,attacker@y` reached a mailer that split it). Only ASCII local parts, as
dot-atoms of RFC 5322 section 3.2.3. Domains follow IDNA 2008 (RFC 5891) and need a dot.
Look-alikes: what changes under NFKC is refused (a fullwidth letter), and so is a label that mixes Latin with
another alphabet (Unicode TR 39: a Cyrillic letter that looks like `a`). A label all in one other alphabet is a domain
like any.

Two spellings are kept. The *stored* spelling is what was typed, and the only one mail may ever go to. The *key*
(lower case, domain as A-labels) serves uniqueness and look-up, nothing else.
"""

import re
import unicodedata
from typing import NamedTuple

import idna

MAX_BYTES = 254
"""RFC 5321 section 4.5.3.1.3, less the angle brackets (RFC 3696 erratum 1690)."""
MAX_LOCAL = 64
_ATOM = "[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_LOCAL = re.compile(rf"{_ATOM}(?:\.{_ATOM})*", re.ASCII)
_DOMAIN = re.compile(rf"(?:{_LABEL}\.)+(?:[A-Za-z]{{2,63}}|[Xx][Nn]--{_LABEL})", re.ASCII)
PATTERN = rf"^{_ATOM}(\.{_ATOM})*@({_LABEL.replace('?:', '')}\.)+[A-Za-z]{{2,63}}$"
"""For JSON schemas: addresses with ASCII domains."""
_TOGETHER = frozenset({"LATIN", "CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "HANGUL", "BOPOMOFO"})
"""Scripts that Japanese, Chinese and Korean names mix and that hold no look-alikes of Latin letters."""


class Email(NamedTuple):
    """An address in its two spellings."""

    stored: str
    key: str


def parse_email(text: str) -> Email:
    """Return the address. Raises ValueError, saying what is wrong without repeating the input."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ValueError(f"an address has at most {MAX_BYTES} bytes")
    local, at, domain = text.rpartition("@")
    if not at:
        raise ValueError("an address has an @, for example ada@example.com")
    if len(local) > MAX_LOCAL or _LOCAL.fullmatch(local) is None:
        raise ValueError("the part before @ is 1 to 64 plain characters, dots only between them")
    return Email(text, f"{local.lower()}@{_domain_key(domain)}")


def find_key(text: str) -> str | None:
    """Return the key that `text` would have if it were an address that may sign up, else None."""
    try:
        return parse_email(text).key
    except ValueError:
        return None


def _domain_key(domain: str) -> str:
    """Return the domain in lower case, as A-labels."""
    if not domain.isascii():
        folded = unicodedata.normalize("NFC", domain).lower()  # casefold would make one of straße.de and strasse.de
        if unicodedata.normalize("NFKC", domain).lower() != folded or not _is_one_alphabet(folded):
            raise ValueError(_DOMAIN_HELP)
        try:
            domain = idna.encode(folded, strict=True).decode("ascii")
        except idna.IDNAError:
            raise ValueError(_DOMAIN_HELP) from None
    domain = domain.lower()
    if len(domain) > 253 or _DOMAIN.fullmatch(domain) is None:
        raise ValueError(_DOMAIN_HELP)
    for label in domain.split("."):
        if label.startswith("xn--"):
            _check_a_label(label)
    return domain


def _check_a_label(label: str) -> None:
    """An A-label must be exactly what its own decoding encodes to, and hold no look-alikes either."""
    try:
        decoded = idna.decode(label, strict=True)
        again = idna.encode(decoded, strict=True).decode("ascii")
    except idna.IDNAError:
        raise ValueError(_DOMAIN_HELP) from None
    if again != label or not _is_one_alphabet(decoded):
        raise ValueError(_DOMAIN_HELP)


def _is_one_alphabet(domain: str) -> bool:
    for label in domain.split("."):
        scripts = {unicodedata.name(letter, "?").split(" ")[0] for letter in label if letter.isalpha()}
        if len(scripts) > 1 and not scripts <= _TOGETHER:
            return False
    return True


_DOMAIN_HELP = "the part after @ is a domain name with at least one dot"
