"""Bounds of a JSON document, found in one pass over its bytes before any parser sees them (CWE-400, CWE-674).

Depth, because parsers recurse; names, because tables of them are built; digits, because `int` of a long text is
quadratic. Not a validator: what passes here may still be no JSON, and where it stops being JSON the parser stops too.

Linear, and in C but for the depth of bodies with many brackets: escaped backslashes and quotes are taken out, then
every second piece between quotes is outside a string. A regular expression per token cost up to 350 ms a megabyte.
"""

import re
from itertools import accumulate

from garrison.core.errors import Denied

MAX_DEPTH = 32
MAX_NAMES = 1000
MAX_DIGITS = 100
_NUMBER_BYTES = b"0123456789.eE+-"
_NUMBER_RUN = b"0" * (MAX_DIGITS + 1)
_LONG_NUMBER = re.compile(rb"(?<![0-9.eE+-])[0-9.eE+-]{%d,}+" % (MAX_DIGITS + 1))
_TO_NUMBER_RUNS = bytes(0x30 if byte in _NUMBER_BYTES else 0x20 for byte in range(256))
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_TO_STEPS = bytes(1 if byte in b"[{" else 0xFF for byte in range(256))
"""An opening bracket is a step of 1, a closing one of -1, as signed bytes."""
_SLICE = 4096


def check_json_text(body: bytes) -> None:
    """Raise Denied(`bad_body`) for what is no UTF-8 without a byte order mark (RFC 8259 section 8.1).

    Python's own `json.loads` also takes UTF-16 and UTF-32, in which the bounds below would see no brackets.
    """
    if body.startswith(b"\xef\xbb\xbf") or b"\x00" in body:
        raise Denied("bad_body", "JSON is UTF-8 text without a byte order mark")
    if not body.isascii():
        try:
            body.decode("utf-8")
        except UnicodeDecodeError:
            raise Denied("bad_body", "the body is not UTF-8 text") from None


def check_json_bounds(body: bytes) -> None:
    """Raise Denied(`bad_body`) for more than 32 levels, 1,000 names, or 100 digits of one number."""
    if len(body) <= MAX_DEPTH:
        return
    if b"\\" in body:
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    bare = b"".join(body.split(b'"')[::2])
    if bare.count(b":") > MAX_NAMES:
        raise Denied("bad_body", f"a JSON body has at most {MAX_NAMES} names")
    if bare.count(b"[") + bare.count(b"{") > MAX_DEPTH and _is_too_deep(bare):
        raise Denied("bad_body", f"a JSON body is at most {MAX_DEPTH} deep")
    if len(bare) > MAX_DIGITS and _has_long_number(bare):
        raise Denied("bad_body", f"a number has at most {MAX_DIGITS} digits")


def _is_too_deep(bare: bytes) -> bool:
    steps = memoryview(bare.translate(_TO_STEPS, _NO_BRACKETS)).cast("b")
    depth = 0
    for start in range(0, len(steps), _SLICE):
        depths = list(accumulate(steps[start : start + _SLICE], initial=depth))
        if max(depths) > MAX_DEPTH:
            return True
        depth = depths[-1]
    return False


def _has_long_number(bare: bytes) -> bool:
    """The search for a run of number bytes is linear; only where there is one are its digits counted."""
    if _NUMBER_RUN not in bare.translate(_TO_NUMBER_RUNS):
        return False
    return any(len(found[0].translate(None, b".eE+-")) > MAX_DIGITS for found in _LONG_NUMBER.finditer(bare))
