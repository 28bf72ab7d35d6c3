"""Header fields as they go over the wire, for a server that takes them so.

A server checks and formats every field of every answer, about 1 µs each: more than all checks of a warm request, and
ours are the same each time. So `garrison serve` takes them as one prebuilt block, beside the app's own fields, which it
checks as ever. Other servers get fields, and so does whatever stands between: only the `send` of the server's own
answer is given a block, since a middleware around the guard that makes messages anew would lose it, and with it the
security headers.

A block is made of what this process wrote itself. Nothing of a request comes into it but by a pattern without CR and
LF (CWE-113).
"""

from collections.abc import Iterable

from garrison.wire.answer import Header, Send

HEADER_LINES = "garrison.header_lines"
"""Where a message that begins an answer holds the block."""


class TakesHeaderLines:
    """A server's answer whose own `send` takes a block."""

    __slots__ = ()


def takes_header_lines(send: Send) -> bool:
    """Say whether this is the `send` of such an answer, and not one that only looks like it."""
    return isinstance(getattr(send, "__self__", None), TakesHeaderLines)


def header_lines(headers: Iterable[Header]) -> bytes:
    """Return the fields as a block."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])
