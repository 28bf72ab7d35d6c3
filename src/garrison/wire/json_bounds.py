"""Bounds of a JSON document, found in one pass over its bytes before any parser sees them (CWE-400, CWE-674).

Depth, because parsers recurse; names, because tables of them are built; digits, because `int` of a long text is
quadratic. Not a validator: what passes here may still be no JSON. Linear: each byte is looked at once by one of two
regular expressions without backtracking.
"""

import re

from garrison.core.errors import Denied

MAX_DEPTH = 32
MAX_NAMES = 1000
MAX_DIGITS = 100
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_LONG_NUMBER = re.compile(rb"[0-9][0-9.eE+-]{%d,}" % MAX_DIGITS)
_BRACKETS = re.compile(rb"[\[{]|[\]}]")


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
    bare = _STRING.sub(b"", body)
    if bare.count(b":") > MAX_NAMES:
        raise Denied("bad_body", f"a JSON body has at most {MAX_NAMES} names")
    if bare.count(b"[") + bare.count(b"{") > MAX_DEPTH:
        depth = 0
        for match in _BRACKETS.finditer(bare):
            depth += 1 if match[0] in b"[{" else -1
            if depth > MAX_DEPTH:
                raise Denied("bad_body", f"a JSON body is at most {MAX_DEPTH} deep")
    if len(bare) > MAX_DIGITS and _LONG_NUMBER.search(bare) is not None:
        raise Denied("bad_body", f"a number has at most {MAX_DIGITS} digits")
