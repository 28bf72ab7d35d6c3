"""The edge: what uvicorn's httptools protocol takes and we do not, before a request exists (RFC 9112, CWE-444).

    deadline from connection (or the first byte of a further request) to the end of the headers
    count and bytes of headers, length of the target; bytes of chunk lines
    exactly one Host; Content-Length or Transfer-Encoding, not both, once, digits, `chunked` alone
    HTTP/1.0 and 1.1 only; absolute form only for the Host it names; asterisk form only for OPTIONS; no CONNECT
    trailers dropped, upgrades to anything but a web socket refused

The parser stays llhttp alone: there is no second one that could disagree about where a request ends. It is strict by
itself (bare LF, obs-fold, NUL, space before a colon, malformed chunks; `tests/edge/test_raw.py` pins each), and what it
lets pass is judged in its own callbacks, by what it read. A refusal closes the connection, so nothing after it is ever
read as another request. Chunk extensions, which it skips without a word, are bounded by counting: what came over the
wire less what was body is what the lines took.

Slow bodies are the reader's business (`wire/body.py`), because only whoever reads knows that it waits.
"""

import asyncio
import json
import re
import secrets
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from garrison.core.errors import PROBLEMS

HEADER_DEADLINE_S = 10.0
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32_768
MAX_TARGET_BYTES = 8_192
MAX_HEAD_BYTES = MAX_HEADER_BYTES + MAX_TARGET_BYTES + 4 * MAX_HEADERS + 64
MAX_CHUNK_LINE_BYTES = 256
MAX_CONNECTIONS = 4096
"""Open connections of one process; beyond, the one that has waited longest for its headers goes."""
_HOST = re.compile(rb"[A-Za-z0-9._:\[\]%-]{1,261}")


class EdgeProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds. One per connection."""

    header_deadline_s = HEADER_DEADLINE_S
    _waiting: "dict[EdgeProtocol, None]" = {}  # noqa: RUF012 - of all connections of this process, oldest first

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._refused = False
        self._in_head = True
        self._has_begun = False
        """True from the first byte of a request to its last."""
        self._head_bytes = 0
        self._header_bytes = 0
        self._line_bytes = 0
        self._chunks = 0
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            for oldest in EdgeProtocol._waiting:
                oldest._refuse("request_timeout")
                break
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused or self.parser is None:
            return
        self._unset_keepalive_if_required()
        self._line_bytes += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            if not self._refused:
                if self._should_upgrade():
                    self.handle_websocket_upgrade()
                else:
                    self._refuse("bad_request")
            return
        except (httptools.HttpParserError, _Refusal):
            self._refuse("bad_request")
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse("headers_too_large")
            elif self._deadline is None and self._has_begun:
                self._await_head()
        elif self._line_bytes > MAX_HEAD_BYTES and self._line_bytes > MAX_CHUNK_LINE_BYTES * (self._chunks + 2):
            self._refuse("bad_request")

    # What the parser read

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = self._has_begun = True
        self._header_bytes = 0

    def on_url(self, url: bytes) -> None:
        self.url += url
        if len(self.url) > MAX_TARGET_BYTES:
            raise self._refusal("uri_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_bytes += len(name) + len(value)
        if len(self.headers) >= MAX_HEADERS or self._header_bytes > MAX_HEADER_BYTES:
            raise self._refusal("headers_too_large")
        if not self._in_head:  # a trailer: nobody asked for it
            return
        name = name.lower()
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._head_done()
        code = self._judge()
        if code is not None:
            raise self._refusal(code)
        self._head_bytes = self._chunks = 0
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        self._line_bytes -= len(body)
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True
        self._head_bytes = self._line_bytes = 0
        self._has_begun = False

    def _judge(self) -> str | None:
        """Return the code of what is wrong with the request line and headers, or None."""
        method = self.parser.get_method()
        hosts = lengths = encodings = 0
        host = b""
        for name, value in self.headers:
            if name == b"host":
                hosts += 1
                host = value
            elif name == b"content-length":
                lengths += 1
                if not value.isdigit() or len(value) > 18:
                    return "bad_request"
            elif name == b"transfer-encoding":
                encodings += 1
                if value.strip().lower() != b"chunked":
                    return "bad_request"
        if hosts != 1 or _HOST.fullmatch(host) is None:
            return "bad_host"
        if lengths > 1 or encodings > 1 or (lengths and encodings):
            return "bad_request"
        if encodings and self.parser.get_http_version() == "1.0":
            return "bad_request"
        if method == b"CONNECT" or (self.parser.should_upgrade() and not self._should_upgrade()):
            return "bad_request"
        if self.parser.get_http_version() not in ("1.1", "1.0"):
            return "bad_request"
        url = self.url
        if url[:1] == b"/":
            return None
        if url == b"*" and method == b"OPTIONS":
            return None
        authority, slash, path = url.partition(b"://")[2].partition(b"/")
        if not slash or authority.lower() != host.lower():
            return "bad_request"
        self.url = b"/" + path
        return None

    # Time

    def _await_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_deadline_s, self._too_slow)
            EdgeProtocol._waiting[self] = None

    def _head_done(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
            EdgeProtocol._waiting.pop(self, None)

    def _too_slow(self) -> None:
        self._deadline = None
        EdgeProtocol._waiting.pop(self, None)
        self._refuse("request_timeout")

    # No

    def _refuse(self, code: str) -> None:
        """Answer with a problem and close; a second refusal, or one after an answer has begun, only closes."""
        self._head_done()
        transport = self.transport
        if self._refused or transport.is_closing():
            return
        self._refused = True
        if self.cycle is None or self.cycle.response_complete:
            transport.write(_answer(code))
        transport.close()

    def _refusal(self, code: str) -> "_Refusal":
        """Refuse at once, and return what unwinds the parser, which wraps what its callbacks raise."""
        self._refuse(code)
        return _Refusal()


class _Refusal(Exception):
    """Raised out of a callback, after the answer was given."""


def _answer(code: str) -> bytes:
    status, title = PROBLEMS[code]
    document = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": code,
        "request_id": secrets.token_hex(10),
    }
    body = json.dumps(document, separators=(",", ":")).encode()
    return b"".join(
        (
            STATUS_LINE[status],
            b"content-type: application/problem+json\r\ncontent-length: ",
            str(len(body)).encode(),
            b"\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
            body,
        )
    )
