"""The edge's way of beginning an answer: the app's header fields checked as uvicorn does, the guard's as one block.

uvicorn's `send`, written out for the first message alone, with one line more and with media types checked once; a test
holds that but for the block both write the same bytes. Without an access log, since `garrison serve` has none of
uvicorn's (RFC 9110 section 5.5, RFC 9112 section 5; CWE-113).

The head of an answer whose length is known waits for the first of its body, which comes at once as a rule: ASGI allows
that ("need not flush"), and both are written together. Not while the request's body is still to come, since its client
may be waiting for the head.
"""

from collections.abc import Mapping

from uvicorn.protocols.http.httptools_impl import HEADER_RE, HEADER_VALUE_RE, STATUS_LINE, RequestResponseCycle

from garrison.wire.answer import Header, Message
from garrison.wire.header_lines import TakesHeaderLines, header_lines

_BODILESS = frozenset({204, 304})
_MOST_KINDS = 256
_kinds: dict[bytes | None, bytes] = {}
"""The media types of answers, as lines: few, the same each time, and nobody's secret."""
_own: tuple[list[Header], bytes] = ([], b"")
"""The server's own fields, and as a block: a date, in a list that uvicorn makes anew each second."""


class EdgeAnswer(RequestResponseCycle, TakesHeaderLines):
    """One request and its answer; made by `EdgeProtocol`."""

    _head = b""
    """The beginning of the answer, while it waits for the first of the body."""

    async def begin(
        self, status: int, fields: Mapping[bytes, bytes], lines: bytes, added: bytes, request_id: str
    ) -> None:
        """Begin the answer. Raises RuntimeError where one of `fields` is none."""
        global _own
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        self.response_started = True
        self.waiting_for_100_continue = False
        own, own_lines = _own
        if own is not self.default_headers:
            own_lines = header_lines(self.default_headers)
            _own = self.default_headers, own_lines
        length, kind = fields.get(b"content-length"), _kinds.get(fields.get(b"content-type"))
        if kind is not None and length is not None and length.isdigit() and len(fields) == 2 and self.keep_alive:
            self.expected_content_length = int(length)  # the usual answer
            self.chunked_encoding = False
            said = b"content-length: %b\r\n%b" % (length, kind)
        else:
            said = self._lines_of(status, fields)
        head = b"%b%b%b%b%bx-request-id: %b\r\n\r\n" % (
            STATUS_LINE[status],
            own_lines,
            said,
            lines,
            added,
            request_id.encode(),
        )
        if self.more_body or self.chunked_encoding is not False:
            self.transport.write(head)
        else:
            self._head = head

    async def rest(self, message: Message) -> None:
        """Send what follows `begin`."""
        head = self._head
        if head:
            self._head = b""
            body = message.get("body", b"")
            if (
                len(body) == self.expected_content_length
                and message["type"] == "http.response.body"
                and not message.get("more_body")
                and not self.flow.write_paused
                and not self.disconnected
                and self.scope["method"] != "HEAD"
            ):  # all of it, ended as uvicorn does
                self.transport.writelines((head, body))
                self.response_complete = True
                self.message_event.set()
                if not self.keep_alive:
                    self.transport.close()
                self.on_response()
                return
            if not self.disconnected:
                self.transport.write(head)
        await self.send(message)  # type: ignore[arg-type]

    def _lines_of(self, status: int, fields: Mapping[bytes, bytes]) -> bytes:
        """Return the app's fields as a block, and what they say of the framing; uvicorn's own way."""
        content: list[bytes] = []
        closes = False
        for name, value in fields.items():
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
            if name == b"content-type" and len(_kinds) < _MOST_KINDS:
                _kinds[value] = line
            content.append(line)
        if not self.keep_alive and not closes:
            content.append(b"connection: close\r\n")
        if self.chunked_encoding is None and self.scope["method"] != "HEAD" and status not in _BODILESS:
            self.chunked_encoding = True
            content.append(b"transfer-encoding: chunked\r\n")
        return b"".join(content)
