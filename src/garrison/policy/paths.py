"""The one normal form of a path, or none (CWE-22, CWE-436; RFC 3986 section 6).

What one parser reads as `/admin` another reads as `/x/../admin`, `/admin;x`, `/%61dmin` or `/ADMIN`: a rule dodged by
spelling is the oldest bypass there is. So a path is in its normal form or it is refused: no backslash, control byte,
invalid UTF-8, dot or empty segment, and no `%2e %2f %5c %00` left after one decoding. What may legitimately be written
in more than one way is looked at by `variants`: the matcher refuses when one of them would select another decision.
"""

import re
import unicodedata
from urllib.parse import unquote, unquote_to_bytes

_PLAIN = re.compile(rb"/(?:(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()*+,=:@-]+(?:/(?!\.{1,2}(?:/|\Z))|\Z))*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\\]")
_LEFT_ENCODED = re.compile(r"%(?:2e|2f|5c|00)", re.IGNORECASE)
_MOST_DECODINGS = 8
_ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)


class BadPath(ValueError):
    """The path is not in its normal form."""


def normal_path(raw: bytes) -> tuple[str, bool]:
    """Return the decoded path, and whether it held an encoded slash. Raises BadPath."""
    if _PLAIN.fullmatch(raw) is not None:
        return raw.decode("ascii"), False
    if not raw.startswith(b"/"):
        raise BadPath
    try:
        path = unquote_to_bytes(raw).decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise BadPath from None
    if _CONTROL.search(path) is not None or _stays_encoded(path):
        raise BadPath
    segments = path.split("/")[1:]
    if any(segment in (".", "..") for segment in segments) or "" in segments[:-1]:
        raise BadPath
    for segment in segments:  # a dot segment with a parameter is one for whoever cuts at the semicolon
        if segment.partition(";")[0] in (".", "..") or segment.startswith(";"):
            raise BadPath
    return path, _ENCODED_SLASH.search(raw) is not None


def variants(path: str) -> tuple[str, ...]:
    """Return the other readings of a normal path, each one and all of them together, without the path itself."""
    folded = unicodedata.normalize("NFKC", unquote(path))
    found = {unquote(path), _cut(path), _strip(path), folded, _strip(_cut(folded))}
    found.discard(path)
    return tuple(sorted(found))


def _stays_encoded(path: str) -> bool:
    """Say whether decoding once more, or however often, would make a dot, slash, backslash or NUL."""
    for _ in range(_MOST_DECODINGS):
        if _LEFT_ENCODED.search(path) is not None:
            return True
        again = unquote(path)
        if again == path:
            return False
        path = again
    return True


def _cut(path: str) -> str:
    """Cut parameters, and what a decoded `?` or `#` would begin for whoever parses once more; trim spaces."""
    path = path.partition("?")[0].partition("#")[0]
    return "/".join(segment.partition(";")[0].strip() for segment in path.split("/"))


def _strip(path: str) -> str:
    return path.rstrip("/") or "/"
