"""The edge's way of beginning an answer: the app's header fields checked as uvicorn does, the guard's as one block.

uvicorn's `send`, written out for the first message alone, with one line more and with media types checked once; a test
holds that but for the block both write the same bytes. Without an access log, since `garrison serve` has none of
uvicorn's (RFC 9110 section 5.5, RFC 9112 section 5; CWE-113).
"""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

from garrison.wire.answer import Header
from garrison.wire.header_lines import Block, TakesHeaderLines, header_lines

_BODILESS = frozenset({204, 304})
_MOST_CHECKED = 256
_checked: dict[bytes, bytes] = {}
"""The media types of answers, as lines: few, the same each time, and nobody's secret."""


_last: tuple[list[Header], bytes] = ([], b"")


def _lines_of(fields: list[Header]) -> bytes:
    """Return the server's own fields as a block: a date, in a list that uvicorn makes anew each second."""
    global _last
    known, lines = _last
    if known is not fields:
        lines = header_lines(fields)
        _last = fields, lines
    return lines


class EdgeAnswer(RequestResponseCycle, TakesHeaderLines):
    """One request and its answer; made by `EdgeProtocol`."""

    async def begin(
        self, status: int, headers: Iterable[Header], lines: bytes, added: Iterable[Block], request_id: str
    ) -> None:
        """Begin the answer. Raises RuntimeError where a field of `headers` is none."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        content = [STATUS_LINE[status]]
        closes = False
        if self.default_headers:
            content.append(_lines_of(self.default_headers))
        for name, value in headers:  # pairs of any kind: an app may send lists
            line = _checked.get(value) if name == b"content-type" else None
            if line is not None:
                content.append(line)
                continue
            if name == b"content-length" and value.isdigit() and self.chunked_encoding is None:  # the usual one
                self.expected_content_length = int(value)
                self.chunked_encoding = False
                content.append(b"content-length: %b\r\n" % value)
                continue
            if HEADER_RE.search(name):
                raise RuntimeError("Invalid HTTP header name.")
            if HEADER_VALUE_RE.search(value):
                raise RuntimeError("Invalid HTTP header value.")
            name = name.lower()
            if name == b"content-length" and self.chunked_encoding is None:
                self.expected_content_length = int(value.decode())
                self.chunked_encoding = False
            elif name == b"transfer-encoding" and value.lower() == b"chunked":
                self.expected_content_length = 0
                self.chunked_encoding = True
            elif name == b"connection" and b"close" in [token.strip() for token in value.lower().split(b",")]:
                self.keep_alive = False
                closes = True
            line = b"%b: %b\r\n" % (name, value)
            if name == b"content-type" and len(_checked) < _MOST_CHECKED:
                _checked[value] = line
            content.append(line)
        content.append(lines)
        for block in added:
            content.append(block.lines)
        if not self.keep_alive and not closes:
            content.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _BODILESS:
            self.chunked_encoding = True
            content.append(b"transfer-encoding: chunked\r\n")
        content.append(b"x-request-id: %b\r\n\r\n" % request_id.encode())
        self.transport.write(b"".join(content))
