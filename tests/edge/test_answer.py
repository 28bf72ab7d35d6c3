"""The edge begins an answer as uvicorn does, and takes the guard's fields as one block."""

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from garrison.serve.edge_answer import EdgeAnswer
from garrison.wire.header_lines import block

pytestmark = pytest.mark.anyio
NAMES = st.sampled_from(
    [b"Content-Type", b"content-type", b"x-a", b"content-length", b"transfer-encoding", b"connection", b"bad name"]
)
ADDED = block((b"x-added", b"2"))
VALUES = st.sampled_from([b"7", b"chunked", b"CLOSE", b"keep-alive, Close", b"text/plain", b"a\r\nb: c", b"", b"\xff"])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Written:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def writelines(self, data: Iterable[bytes]) -> None:
        self.data += b"".join(data)

    def close(self) -> None:
        self.data += b"(closed)"


class Flow:
    write_paused = False
    drained = 0

    async def drain(self) -> None:
        self.drained += 1


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
    kind: type[RequestResponseCycle],
    method: str,
    keep_alive: bool,
    messages: list[Any],
    lines: bytes | None = None,
    read: bool = True,
) -> Any:
    """Return what became of these messages; `read`: whether the request's body is there already."""
    made, written = answer(kind, method, keep_alive=keep_alive)
    made.more_body = not read

    async def send_all() -> None:
        for message in messages:
            if lines is None:
                await made.send(message)
                continue
            assert isinstance(made, EdgeAnswer)
            if "headers" in message:
                await made.begin(message["status"], dict(message["headers"]), lines, ADDED.lines, "id")
            else:
                await made.rest(message)

    try:
        asyncio.run(send_all())
    except (RuntimeError, ValueError) as error:
        return type(error), str(error), written.data
    return made.keep_alive, made.chunked_encoding, written.data


@given(
    st.lists(
        st.tuples(NAMES, VALUES) | st.tuples(NAMES, VALUES).map(list), max_size=4, unique_by=lambda field: field[0]
    ),
    st.sampled_from([200, 204, 304, 404]),
    st.sampled_from(["GET", "HEAD"]),
    st.booleans(),
    st.booleans(),
    st.lists(st.binary(max_size=8), min_size=1, max_size=3),
)
def test_a_block_comes_behind_what_uvicorn_would_have_written(
    headers: list[Any], status: int, method: str, keep_alive: bool, read: bool, bodies: list[bytes]
) -> None:
    start = {"type": "http.response.start", "status": status, "headers": headers}
    rest = [{"type": "http.response.body", "body": body, "more_body": True} for body in bodies[:-1]]
    messages = [start, *rest, {"type": "http.response.body", "body": bodies[-1]}]
    plain = told(RequestResponseCycle, method, keep_alive, messages)
    assert told(EdgeAnswer, method, keep_alive, messages) == plain
    with_block = told(EdgeAnswer, method, keep_alive, messages, b"x-block: 1\r\n", read=read)
    assert with_block[:2] == plain[:2]
    once = 1 if plain[2] else 0
    for line in (b"x-block: 1\r\n", b"x-added: 2\r\n", b"x-request-id: id\r\n"):
        assert with_block[2].count(line) == once
        with_block = (*with_block[:2], with_block[2].replace(line, b"", 1))
    assert with_block == plain


def test_a_field_of_the_app_cannot_break_out_beside_a_block() -> None:
    made, written = answer(EdgeAnswer, "GET", keep_alive=True)
    with pytest.raises(RuntimeError, match="Invalid HTTP header value"):
        asyncio.run(made.begin(200, {b"x-a": b"1\r\nset-cookie: a=b"}, b"x-block: 1\r\n", b"", "id"))  # type: ignore[attr-defined]
    assert written.data == b""


USUAL = {b"content-type": b"text/plain", b"content-length": b"2"}


@pytest.mark.parametrize(
    ("fields", "more_body", "waits"),
    [(USUAL, False, True), (USUAL, True, False), ({b"content-type": b"text/plain"}, False, False)],
)
async def test_a_head_waits_for_its_body_only_where_nobody_waits_for_the_head(
    fields: dict[bytes, bytes], more_body: bool, waits: bool
) -> None:
    made, written = answer(EdgeAnswer, "GET", keep_alive=True)
    made.more_body = more_body
    assert isinstance(made, EdgeAnswer)
    await made.begin(200, fields, b"", b"", "id")
    assert (written.data == b"") is waits
    await made.rest({"type": "http.response.body", "body": b"ok"})
    assert written.data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert made.response_complete
    before = written.data
    with pytest.raises(RuntimeError, match="after response already completed"):
        await made.rest({"type": "http.response.body", "body": b"ok"})
    assert written.data == before


def piece(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "bodies",
    [
        [piece(b"ok")],
        [piece(b"o")],
        [piece(b"okay")],
        [piece(b"o", more=True), piece(b"k")],
        [piece(b"ok", more=True), piece(b"")],
        [piece(b"ok", more=True)],
        [piece(b"", more=True), piece(b"ok")],
        [{"type": "http.response.trailers", "body": b"ok"}],
    ],
)
def test_whatever_follows_the_head_is_sent_as_uvicorn_would(method: str, bodies: list[Any]) -> None:
    messages = [{"type": "http.response.start", "status": 200, "headers": list(USUAL.items())}, *bodies]
    for _ in range(2):  # the second time the media type is known
        plain, ours = (
            told(RequestResponseCycle, method, True, messages),
            told(EdgeAnswer, method, True, messages, b"", read=True),
        )
        for line in (b"content-type: text/plain\r\n", b"x-added: 2\r\n", b"x-request-id: id\r\n"):
            plain, ours = (*plain[:2], plain[2].replace(line, b"")), (*ours[:2], ours[2].replace(line, b""))
        assert ours == plain


async def test_whoever_has_gone_gets_nothing() -> None:
    made, written = answer(EdgeAnswer, "GET", keep_alive=True)
    made.more_body = False
    assert isinstance(made, EdgeAnswer)
    await made.begin(200, USUAL, b"", b"", "id")
    made.disconnected = True
    await made.rest({"type": "http.response.body", "body": b"ok"})
    assert written.data == b""


async def test_an_answer_waits_for_a_client_that_reads_slowly() -> None:
    made, written = answer(EdgeAnswer, "GET", keep_alive=True)
    made.more_body = False
    flow: Any = made.flow
    assert isinstance(made, EdgeAnswer)
    await made.begin(200, USUAL, b"", b"", "id")
    assert flow.drained == 0
    flow.write_paused = True
    await made.rest({"type": "http.response.body", "body": b"ok"})
    assert flow.drained == 1
    assert written.data.endswith(b"\r\n\r\nok")
