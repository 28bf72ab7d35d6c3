"""However the bytes arrive, the same requests are read, and the app is told what uvicorn alone would tell it."""

import asyncio
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from garrison.serve.edge import EdgeProtocol

H = b" HTTP/1.1\r\nHost: a\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
UPGRADE = b"Upgrade: h2c\r\nConnection: keep-alive, Upgrade\r\n"
INNER = b"GET /x HTTP/1.1\r\nHost: a\r\n\r\nab"
MESSAGES: list[tuple[bytes, tuple[str, bytes]]] = [
    (b"GET /a" + H + b"\r\n", ("/a", b"")),
    (b"\r\n\r\nGET /b" + H + b"X: \r\n\r\n", ("/b", b"")),
    (b"POST /c" + H + b"Content-Length: 4\r\n\r\n\r\n\r\n", ("/c", b"\r\n\r\n")),
    (b"POST /d" + H + b"Content-Length: 30\r\n\r\n" + INNER, ("/d", INNER)),
    (b"POST /e" + H + CHUNKED + b"4;x\r\n\r\n\r\n\r\n1\r\ny\r\n0\r\nT: u\r\n\r\n", ("/e", b"\r\n\r\ny")),
    (b"GET /f" + H + UPGRADE + b"\r\n", ("/f", b"")),
    (b"POST /g" + H + UPGRADE + b"Content-Length: 3\r\n\r\nabc", ("/g", b"abc")),
    (b"POST /h" + H + UPGRADE + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n", ("/h", b"abc")),
    (b"GET http://a/i" + H + b"\r\n", ("/i", b"")),
]  # fmt: skip


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1), "sockname": ("127.0.0.1", 2)})
        self.written = b""
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        return

    def resume_reading(self) -> None:
        return


def feed(protocol_class: type[HttpToolsProtocol], pieces: list[bytes]) -> tuple[list[tuple[Any, bytes]], bytes]:
    """Return (scope, body) of every request that the app saw, and what was answered."""
    seen: list[tuple[Any, bytes]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            more = message["more_body"]
        seen.append((scope, body))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def run() -> bytes:
        config = uvicorn.Config(app, lifespan="off", log_config=None, proxy_headers=False, ws="websockets-sansio")
        config.load()
        protocol = protocol_class(config, ServerState(), {}, asyncio.get_running_loop())
        wire = Wire()
        protocol.connection_made(wire)
        for number, piece in enumerate(pieces):
            protocol.data_received(piece)
            if number % 3 == 0:
                await asyncio.sleep(0)
        for _ in range(20 + 4 * len(pieces)):
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        return wire.written

    return seen, asyncio.run(run())


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(range(len(MESSAGES))), min_size=1, max_size=6), st.data())
def test_any_slices_read_the_same(order: list[int], data: st.DataObject) -> None:
    stream = b"".join(MESSAGES[number][0] for number in order)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=60)))
    pieces = [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    seen, _ = feed(EdgeProtocol, pieces)
    assert [(scope["path"], body) for scope, body in seen] == [MESSAGES[number][1] for number in order]


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200), st.sampled_from(range(len(MESSAGES))), st.data())
def test_noise_is_refused_or_read_alike_in_any_slices(noise: bytes, number: int, data: st.DataObject) -> None:
    message = MESSAGES[number][0]
    at = data.draw(st.integers(0, len(message)))
    cut = data.draw(st.integers(0, len(message)))
    stream = message[:at] + noise + message[cut:] + MESSAGES[0][0]
    whole, answers = feed(EdgeProtocol, [stream])
    single, single_answers = feed(EdgeProtocol, [stream[place : place + 1] for place in range(len(stream))])
    assert [(scope["path"], body) for scope, body in whole] == [(scope["path"], body) for scope, body in single]
    assert b"HTTP/1.1 5" not in answers + single_answers


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /a/b%20c%2Fd?x=1&y=%zz" + H + b"Cookie: a=b\r\nCOOKIE: c\r\n\r\n",
        b"GET //a//b??x" + H + b"\r\n",
        b"GET /? HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n",
        b"OPTIONS *" + H + b"\r\n",
        b'GET /a\\b"<>^`{|}~!$&()*+,;=:@' + H + b"\r\n",
        b"HEAD /%" + H + b"\r\n",
        b"QUERY /q?r" + H + b"Content-Length: 2\r\nExpect: 100-continue\r\n\r\nab",
        b"POST /p" + H + CHUNKED + b"2\r\nab\r\n0\r\n\r\n",
    ],
)
def test_the_scope_is_uvicorns(request_: bytes) -> None:
    (mine,), (theirs,) = feed(EdgeProtocol, [request_])[0], feed(HttpToolsProtocol, [request_])[0]
    assert mine == theirs
