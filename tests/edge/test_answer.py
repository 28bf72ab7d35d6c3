"""The edge begins an answer as uvicorn does, and takes the guard's fields as one block."""

import asyncio
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from garrison.serve.edge_answer import EdgeAnswer
from garrison.wire.header_lines import block

NAMES = st.sampled_from([b"Content-Type", b"x-a", b"content-length", b"transfer-encoding", b"connection", b"bad name"])
ADDED = block((b"x-added", b"2"))
VALUES = st.sampled_from([b"7", b"chunked", b"CLOSE", b"keep-alive, Close", b"text/plain", b"a\r\nb: c", b"", b"\xff"])


class Written:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        self.data += b"(closed)"


class Flow:
    write_paused = False


def answer(kind: type[RequestResponseCycle], method: str, *, keep_alive: bool) -> tuple[RequestResponseCycle, Written]:
    written: Any = Written()
    scope: Any = {"type": "http", "method": method, "http_version": "1.1", "path": "/", "query_string": b""}
    flow: Any = Flow()
    logger = logging.getLogger("test")
    made = kind(
        scope=scope,
        transport=written,
        flow=flow,
        logger=logger,
        access_logger=logger,
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )
    return made, written


def told(
    kind: type[RequestResponseCycle], method: str, keep_alive: bool, messages: list[Any], lines: bytes | None = None
) -> Any:
    made, written = answer(kind, method, keep_alive=keep_alive)

    async def send_all() -> None:
        for message in messages:
            if lines is not None and "headers" in message:
                assert isinstance(made, EdgeAnswer)
                await made.begin(message["status"], message["headers"], lines, (ADDED,), "id")
            else:
                await made.send(message)

    try:
        asyncio.run(send_all())
    except (RuntimeError, ValueError) as error:
        return type(error), str(error), written.data
    return made.keep_alive, made.chunked_encoding, written.data


@given(
    st.lists(st.tuples(NAMES, VALUES) | st.tuples(NAMES, VALUES).map(list), max_size=4),
    st.sampled_from([200, 204, 304, 404]),
    st.sampled_from(["GET", "HEAD"]),
    st.booleans(),
    st.binary(max_size=8),
)
def test_a_block_comes_behind_what_uvicorn_would_have_written(
    headers: list[Any], status: int, method: str, keep_alive: bool, body: bytes
) -> None:
    start = {"type": "http.response.start", "status": status, "headers": headers}
    rest = {"type": "http.response.body", "body": body}
    plain = told(RequestResponseCycle, method, keep_alive, [start, rest])
    assert told(EdgeAnswer, method, keep_alive, [start, rest]) == plain
    with_block = told(EdgeAnswer, method, keep_alive, [start, rest], b"x-block: 1\r\n")
    assert with_block[:2] == plain[:2]
    once = 1 if plain[2] else 0
    for line in (b"x-block: 1\r\n", b"x-added: 2\r\n", b"x-request-id: id\r\n"):
        assert with_block[2].count(line) == once
        with_block = (*with_block[:2], with_block[2].replace(line, b"", 1))
    assert with_block == plain


def test_a_field_of_the_app_cannot_break_out_beside_a_block() -> None:
    made, written = answer(EdgeAnswer, "GET", keep_alive=True)
    with pytest.raises(RuntimeError, match="Invalid HTTP header value"):
        asyncio.run(made.begin(200, [(b"x-a", b"1\r\nset-cookie: a=b")], b"x-block: 1\r\n", (), "id"))  # type: ignore[attr-defined]
    assert written.data == b""
