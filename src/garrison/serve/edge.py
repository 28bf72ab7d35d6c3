"""The edge: what uvicorn's httptools protocol takes and we do not (RFC 9112; CWE-444, CWE-400; ASVS 5.0 V4.2).

    time         10 s from the connection, or the first byte of a further request, to the end of the headers;
                 a body comes at 1 kB/s after 10 s; an answer is taken at about the same pace
    size         100 headers, 32 kB of them, a target of 8 kB; 256 bytes a chunk line, 4 kB of trailers; pipelined 64
    framing      Content-Length or Transfer-Encoding, once, digits only or exactly `chunked`; HTTP/1.0 and 1.1 only
    addressing   exactly one Host; absolute form only for the Host it names, `*` only for OPTIONS, no CONNECT, no `#`
    connections  bounded: beyond, the one that has waited longest for its headers goes, then idle ones

A refusal is a problem document, never a 5xx but for a full house, and closes the connection: nothing behind it is read.

**Why nothing here can be desynchronised.** Where a request ends is decided by llhttp alone, and it is strict: bare LF,
obs-fold, control bytes, space before a colon, CL with TE, malformed chunks end in its own errors (`tests/edge` pins
each, so that a lenient release is found). What it lets pass is judged in its callbacks, on what *it* read. The only
thing we do to the bytes is to hand them over in slices that end where a head or a chunk line probably ends, so that
lengths can be counted; a parser that takes one byte at a time reads the same out of any slices, so a wrong guess could
cost a refusal, not a different reading (`test_slices.py`). `_phase`, which says what comes next, is set by callbacks.

Two requests are written anew instead of continued, and only where the parser stopped exactly at the end of our slice:
an upgrade to a web socket (uvicorn's own doing: the head goes to its web socket parser, so nothing may follow it and it
may have no body), and an upgrade that we ignore, such as `h2c`: llhttp would take the body behind it for a further
request, so a new parser gets the head as read, without the upgrade.

The pace of bodies is held here for every request, since an app that streams a body reads without a clock;
`wire/body.py` holds the same pace under other servers. Not here: TLS, HTTP/2, limits by address (`guard/`).
"""

import asyncio
import re
import secrets
from typing import Any, NoReturn
from urllib.parse import unquote

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from garrison.serve.edge_answer import EdgeAnswer
from garrison.wire.problem import problem

HEADER_DEADLINE_S = 10.0
BODY_GRACE_S = 10.0
BODY_BYTES_PER_S = 1024
STALLED_ANSWER_S = 60.0
"""uvicorn buffers 64 kB: a client that has not taken 48 of them in this time reads slower than 1 kB/s."""
LINGER_S, LINGER_BYTES = 1.0, 1 << 20
"""After a refusal: closing with bytes unread would reset the connection, and the client might never see the answer."""
MAX_HEADERS = 100
MAX_HEADER_BYTES = 32_768
MAX_TARGET_BYTES = 8_192
MAX_HEAD_BYTES = MAX_HEADER_BYTES + MAX_TARGET_BYTES + 64
MAX_CHUNK_LINE_BYTES = 256
MAX_TRAILER_BYTES = 4_096
MAX_PIPELINED = 64
MAX_UNWANTED_BYTES = 65_536
"""So much of a body is read on after its request was answered, to keep the connection; beyond, it closes."""
MAX_WEBSOCKET_LINE_BYTES = 8_000  # the web socket library takes lines of 8,192 bytes and falls silent beyond
MAX_CONNECTIONS = 4_096

_HEAD, _LENGTH, _LINE, _CHUNK, _TRAILER = range(5)
_END = b"\r\n\r\n"
_NOTED = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect"})
_HOST = re.compile(rb"[A-Za-z0-9._-]{1,255}(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)(.*)", re.DOTALL)
_HOP = frozenset({b"upgrade", b"http2-settings"})


class EdgeProtocol(HttpToolsProtocol):
    """uvicorn's protocol with bounds, one per connection. What a subclass or a test may set stands first."""

    # In the instance's dictionary they would make more than 30 keys, and every attribute of uvicorn's slower (+1.3 µs).
    __slots__ = (
        "_before",
        "_body_began",
        "_body_bytes",
        "_code",
        "_followed",
        "_head_bytes",
        "_known_host",
        "_left",
        "_line",
        "_lone_host",
        "_noted",
        "_phase",
        "_refused",
        "_stalled",
        "_tail",
        "_timer",
        "_upgrading",
        "_waiting",
    )
    header_deadline_s = HEADER_DEADLINE_S
    body_grace_s = BODY_GRACE_S
    stalled_answer_s = STALLED_ANSWER_S
    max_connections = MAX_CONNECTIONS
    is_draining = False
    """Set on this class once the process was told to end: each connection closes with its next answer."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.url = b""
        self._waiting: dict[EdgeProtocol, None] = vars(server_state).setdefault("waiting_for_head", {})
        self._refused = False
        self._code = ""
        self._timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self._before: RequestResponseCycle | None = None
        self._known_host: bytes | None = None
        self._lone_host: list[tuple[bytes, bytes]] | None = None
        self._noted: list[tuple[bytes, bytes]] = []  # of the headers, those that `on_headers_complete` judges
        self._upgrading = False
        self._followed = False
        self._phase = _HEAD
        self._tail = b""  # the last three bytes of an unfinished head
        self._head_bytes = 0
        self._left = 0  # of a body, a chunk, the trailers
        self._line = b""
        self._body_began = 0.0
        self._body_bytes = 0

    # Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            self._make_room()
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._left -= len(data)
            if self._left < 0:
                self.transport.close()
            return
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None
        size = len(data)
        end = 0 if self._phase or self._tail else data.find(_END) + 4
        if 3 < end <= MAX_HEAD_BYTES:  # a whole head, and as a rule nothing but it
            self._head_bytes = end
            self._followed = end < size
            try:
                self.parser.feed_data(data if end == size else data[:end])
            except httptools.HttpParserUpgrade as upgrade:
                self._upgrade(read=upgrade.args[0], given=end)
            except httptools.HttpParserError:
                self._refuse("bad_request")
        else:
            end = 0
        if end < size:
            if self._phase == _LENGTH and size - end <= self._left and not self._refused:
                self._left -= size - end
                self._feed(data[end:])
            else:
                self._feed_slices(data, end)
        if self._phase:
            self._pace_body(size)
        elif self._timer is None:
            cycle = self.cycle
            if cycle is None or cycle.response_complete:
                self._await_head()
            elif self._tail and not self._refused:  # the next head began while this answer is made
                cycle.on_response = self._answered_amid_head

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.stalled_answer_s, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _feed(self, piece: bytes) -> None:
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(read=upgrade.args[0], given=len(piece))
        except httptools.HttpParserError:
            self._refuse("bad_request")

    def _feed_slices(self, data: bytes, position: int) -> None:
        size = len(data)
        while position < size and not self._refused:
            end = self._slice_end(data, position)
            if self._refused:
                return
            self._followed = end < size
            self._feed(data[position:end])
            position = end

    def _slice_end(self, data: bytes, position: int) -> int:
        """Return where to cut, at most the end of the data; refuse what is too long already."""
        size, phase = len(data), self._phase
        if phase == _HEAD:
            return self._head_end(data, position)
        if phase in (_LENGTH, _CHUNK):
            end = min(size, position + self._left)
            self._left -= end - position
            return max(end, position + 1)
        end = data.find(b"\n", position) + 1 or size
        if phase == _LINE:
            if len(self._line) + end - position > MAX_CHUNK_LINE_BYTES:
                self._refuse("bad_request")
            else:
                self._line += data[position:end]
            return end
        self._left -= end - position
        if self._left < 0:
            self._refuse("headers_too_large")
        return end

    def _head_end(self, data: bytes, position: int) -> int:
        tail = self._tail
        if not tail:
            self._head_bytes = 0
        across = (tail + data[position : position + 3]).find(_END) if tail else -1  # the end may lie across two pieces
        found = data.find(_END, position) if across == -1 else position + across - len(tail)
        complete = across != -1 or found != -1
        end = found + 4 if complete else len(data)
        self._head_bytes += end - position
        self._tail = b"" if complete else (tail + data[position:end])[-3:]
        if self._head_bytes > MAX_HEAD_BYTES:
            first_line_goes_on = not tail and b"\r" not in data[position : position + MAX_TARGET_BYTES]
            too_long = first_line_goes_on or len(self.url) > MAX_TARGET_BYTES
            self._refuse("uri_too_long" if too_long else "headers_too_large")
        return end

    # What the parser read

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        field = (name, value)
        if name in _NOTED:
            self._noted.append(field)
        self.headers.append(field)

    def on_headers_complete(self) -> None:
        """Judge the head, then do what uvicorn does here, written out: asking the parser twice costs 5 %.

        A test holds that the scope is uvicorn's own.
        """
        parser, scope, headers = self.parser, self.scope, self.headers
        version, method = parser.get_http_version(), parser.get_method()
        host = length = chunked = None
        noted = self._noted
        if noted != self._lone_host:  # a Host that was judged before, and no body: nothing more to see
            for name, value in noted:
                if name == b"host":
                    if host is not None:
                        self._stop("bad_host")
                    host = value
                elif name == b"content-length":
                    if length is not None or not value.isdigit() or len(value) > 18:
                        self._stop("bad_request")
                    length = value
                elif name == b"transfer-encoding":
                    if chunked is not None or value != b"chunked":
                        self._stop("bad_request")
                    chunked = value
                elif value.lower() == b"100-continue":
                    self.expect_100_continue = True
            if host is None or host != self._known_host:
                if host is None or _HOST.fullmatch(host) is None:
                    self._stop("bad_host")
                self._known_host = host
            if len(noted) == 1:
                self._lone_host = noted.copy()
        else:
            host = noted[0][1]
        noted.clear()
        if version != "1.1":
            if version != "1.0" or chunked:
                self._stop("bad_request")
            scope["http_version"] = version
        if length and chunked:
            self._stop("bad_request")
        if len(headers) > MAX_HEADERS or (
            self._head_bytes > MAX_HEADER_BYTES and sum(len(n) + len(v) + 4 for n, v in headers) > MAX_HEADER_BYTES
        ):
            self._stop("headers_too_large")
        url = self.url
        if len(url) > MAX_TARGET_BYTES:
            self._stop("uri_too_long")
        if url[:1] != b"/":
            self.url = url = self._origin_form(url, method, host)
        if 35 in url:  # "#": a fragment is no part of a target (RFC 9112 3.2)
            self._stop("bad_request")
        scope["method"] = method.decode("ascii")
        if parser.should_upgrade():
            if method == b"CONNECT":  # to a path, even
                self._stop("bad_request")
            self._upgrading = True
            return
        raw_path, _, query = url.partition(b"?")
        path = raw_path.decode("ascii")
        if "%" in path:
            path = unquote(path)
        scope["path"] = self.root_path + path
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path if self.root_path else raw_path
        scope["query_string"] = query
        before = self.cycle
        self.cycle = cycle = EdgeAnswer(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=version != "1.0" and parser.should_keep_alive() and not EdgeProtocol.is_draining,
            on_response=self.on_response_complete,
        )
        if self._timer is not None:
            self._disarm()
        if length:
            self._phase, self._left = _LENGTH, int(length)
        elif chunked:
            self._phase, self._line = _LINE, b""
            self.headers = []  # trailers end here: the scope keeps the list that holds the headers
        if before is None or before.response_complete:
            self._start_asgi_task(cycle, self.app)
        else:
            if len(self.pipeline) >= MAX_PIPELINED:
                self.cycle, self._phase = before, _HEAD
                self._stop("bad_request")
            self._before = before
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def on_chunk_header(self) -> None:
        size = int(self._line.partition(b";")[0], 16)
        if size:
            self._phase, self._left = _CHUNK, size + 2
        else:
            self._phase, self._left = _TRAILER, MAX_TRAILER_BYTES

    def on_chunk_complete(self) -> None:
        self._phase, self._line = _LINE, b""

    def on_message_complete(self) -> None:
        if self._upgrading:
            return
        if self._phase:
            self._phase = _HEAD
            self._noted.clear()  # trailers are nobody's headers
            if self._timer is not None:
                self._disarm()
        cycle = self.cycle
        if not cycle.response_complete:
            cycle.more_body = False
            cycle.message_event.set()

    def _answered_amid_head(self) -> None:
        self.on_response_complete()
        if self._tail and self.cycle.response_complete:
            self._unset_keepalive_if_required()
            self._await_head()

    def _origin_form(self, target: bytes, method: bytes, host: bytes) -> bytes:
        """Return what an absolute target names (RFC 9112 3.2.2); stop where it is another host's, or another form."""
        if target == b"*" and method == b"OPTIONS":
            return target
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or absolute[1].lower() != host.lower():
            self._stop("bad_request")
        return absolute[2] if absolute[2][:1] == b"/" else b"/" + absolute[2]

    def _stop(self, code: str) -> NoReturn:
        """Refuse from within a callback."""
        self._refuse(code)
        raise _Refused

    # Upgrades

    def _upgrade(self, read: int, given: int) -> None:
        if self._refused:
            return
        if read != given:  # the head ended before our slice did, whose rest would be lost: a body, read as a request
            self._refuse("bad_request")
        elif self._should_upgrade():
            self._to_websocket()
        else:
            self._without_upgrade()

    def _to_websocket(self) -> None:
        headers = self.headers
        body = any(
            name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers
        )
        long = max(len(self.url), max(len(name) + len(value) for name, value in headers)) > MAX_WEBSOCKET_LINE_BYTES
        busy = self.cycle is not None and not self.cycle.response_complete
        if self._followed or body or busy or self.scope["method"] != "GET" or self.scope["http_version"] != "1.1":
            self._refuse("bad_request")  # frames have to wait for our answer
        elif long:
            self._refuse("headers_too_large")
        else:
            self._disarm()
            self._refused = True  # from here on the bytes are the web socket's
            self.handle_websocket_upgrade()
            if not getattr(self.transport.get_protocol(), "handshake_initiated", True):
                self.transport.close()  # it could not read the head, and would wait without end

    def _without_upgrade(self) -> None:
        """Read the head again as if no upgrade had been asked for (RFC 9110 7.8: a server may ignore it)."""
        lines = [
            self.scope["method"].encode(),
            b" ",
            self.url,
            b" HTTP/",
            self.scope["http_version"].encode(),
            b"\r\n",
        ]
        for name, value in self.headers:
            if name == b"connection":
                options = [option.strip() for option in value.split(b",")]
                value = b", ".join(option for option in options if option.lower() not in _HOP)
            if name not in _HOP and (value or name != b"connection"):
                lines += (name, b": ", value, b"\r\n")
        self._upgrading = False
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn: it ignores, it does not read
        self._feed(b"".join((*lines, b"\r\n")))

    # Time and room

    def _await_head(self) -> None:
        if self._timer is None and not self._refused:
            self._timer = self.loop.call_later(self.header_deadline_s, self._head_too_slow)
            self._waiting[self] = None

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._waiting.pop(self, None)

    def _head_too_slow(self) -> None:
        self._disarm()
        if self._tail:
            self._refuse("request_timeout")
        else:
            self.transport.close()  # it never said a word

    def _pace_body(self, size: int) -> None:
        if self._timer is None:
            self._body_began, self._body_bytes = self.loop.time(), 0
            self._timer = self.loop.call_later(self.body_grace_s, self._check_pace)
            return
        self._body_bytes += size
        if self.cycle.response_complete and self._body_bytes > MAX_UNWANTED_BYTES:
            self._refuse("body_too_large")

    def _check_pace(self) -> None:
        now = self.loop.time()
        earned = self._body_bytes / BODY_BYTES_PER_S
        if self.flow.read_paused or self.cycle.waiting_for_100_continue:  # the client waits for us: begin anew
            self._body_began = now - earned
        due = self._body_began + self.body_grace_s + earned
        if due > now:
            self._timer = self.loop.call_at(due, self._check_pace)
        else:
            self._refuse("request_timeout")

    def _make_room(self) -> None:
        """Let go of the oldest that waits for its headers; without any, of idle ones; without those, of this one."""
        oldest = next(iter(self._waiting), None)
        if oldest is not None:
            oldest._head_too_slow()
            return
        # Looking costs the length of the list, so several go at once.
        idle = [one for one in self.connections if isinstance(one, EdgeProtocol) and one._is_idle()]
        for one in idle[: self.max_connections // 16 + 1]:
            one.transport.close()
        if not idle:
            self._refuse("overloaded")

    def _is_idle(self) -> bool:
        return self.timeout_keep_alive_task is not None and not self._phase

    # No

    def _refuse(self, code: str) -> None:
        """Answer with a problem and close, after the answers to what came before. Repeated, it does nothing."""
        if self._refused:
            return
        self._refused, self._code, self._left = True, code, LINGER_BYTES
        self._disarm()
        last: RequestResponseCycle | None = self.cycle
        if self._phase and last is not None and last.response_complete:  # it has its answer
            self._code = ""
        elif self._phase and last is not None:  # its body will never be complete
            last.disconnected = True
            last.waiting_for_100_continue = False  # uvicorn would write "100 Continue" after our last byte
            last.message_event.set()
            if self.pipeline and self.pipeline[0][0] is last:
                self.pipeline.popleft()
                last = self._before
            elif last.response_started:
                self.transport.close()
                return
            else:
                last = None
        if last is None or last.response_complete:
            self._answer()
        else:
            last.on_response = self._answer

    def _answer(self) -> None:
        transport = self.transport
        if transport.is_closing():
            return
        self._unset_keepalive_if_required()
        if self._code:
            transport.write(_problem(self._code))
        if not transport.can_write_eof():
            transport.close()
            return
        transport.write_eof()
        self.flow.resume_reading()
        self._timer = self.loop.call_later(LINGER_S, transport.close)


class _Refused(Exception):
    """Unwinds the parser, which wraps what its callbacks raise, once the refusal was given."""


def _problem(code: str) -> bytes:
    retry = ((b"retry-after", b"5"),) if code == "overloaded" else ()
    answer = problem(code, secrets.token_hex(10), headers=retry)
    headers = (
        *answer.headers,
        (b"content-length", str(len(answer.body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
        (b"connection", b"close"),
    )
    lines = b"".join(b"%b: %b\r\n" % header for header in headers)
    return STATUS_LINE[answer.status] + lines + b"\r\n" + answer.body
