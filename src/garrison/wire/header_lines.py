"""Header fields as they go over the wire, for a server that takes them so.

A server checks and formats every field of every answer, about 1 µs each: more than all checks of a warm request, and
ours are the same each time. So `garrison serve` takes them as one prebuilt block, beside the app's own fields, which it
checks as ever. Other servers get fields, and so does whatever stands between: a block goes past `send`, which is right
only where `send` is the server's own.

A block is made of what this process wrote itself. Nothing of a request comes into it but by a pattern without CR and
LF (CWE-113).
"""

from abc import abstractmethod
from collections.abc import Awaitable, Iterable, Mapping
from typing import NamedTuple

from garrison.wire.answer import Header, Message


class Block(NamedTuple):
    """Fields, and the same as a block."""

    fields: tuple[Header, ...]
    lines: bytes

    def then(self, other: "Block") -> "Block":
        """Return both as one."""
        return Block(self.fields + other.fields, self.lines + other.lines)


NO_FIELDS = Block((), b"")


class TakesHeaderLines:
    """A server's answer that takes blocks: the object whose own bound `send` the app's side was given."""

    __slots__ = ()

    @abstractmethod
    def begin(
        self, status: int, fields: Mapping[bytes, bytes], lines: bytes, added: bytes, request_id: str
    ) -> Awaitable[None]:
        """Begin the answer, as `send` would with `fields`, and behind them both blocks and X-Request-Id."""

    @abstractmethod
    def rest(self, message: Message) -> Awaitable[None]:
        """Send a message that comes after the beginning, by whichever way that went."""


def block(*fields: Header) -> Block:
    """Return the fields with their lines."""
    return Block(fields, header_lines(fields))


def header_lines(headers: Iterable[Header]) -> bytes:
    """Return the fields as a block."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])
