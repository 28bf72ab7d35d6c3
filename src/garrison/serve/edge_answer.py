"""The edge's way of beginning an answer: the app's header fields checked as uvicorn does, the guard's as one block.

uvicorn's `send`, written out for the first message alone, with one line more; a test holds that but for the block both
write the same bytes. Without an access log, since `garrison serve` has none of uvicorn's (RFC 9110 section 5.5,
RFC 9112 section 5; CWE-113).
"""

from collections.abc import Awaitable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

from garrison.wire.header_lines import HEADER_LINES, TakesHeaderLines

_BODILESS = frozenset({204, 304})


class EdgeAnswer(RequestResponseCycle, TakesHeaderLines):
    """One request and its answer; made by `EdgeProtocol`."""

    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]
        """Take a message from the app. Raises RuntimeError where it breaks the protocol."""
        if HEADER_LINES in message and not self.response_started and message["type"] == "http.response.start":
            return self._begin(message["status"], message.get("headers", ()), message[HEADER_LINES])
        return RequestResponseCycle.send(self, message)

    async def _begin(self, status: int, headers: Any, lines: bytes) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        content = [STATUS_LINE[status]]
        closes = False
        for name, value in (*self.default_headers, *headers):
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
            content += (name, b": ", value, b"\r\n")
        content.append(lines)
        if not self.keep_alive and not closes:
            content.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _BODILESS:
            self.chunked_encoding = True
            content.append(b"transfer-encoding: chunked\r\n")
        content.append(b"\r\n")
        self.transport.write(b"".join(content))
