"""Requests broken at random against the whole server: never a 5xx, never a traceback, nothing left behind (T11).

20,000 of them, or `MALFORMED_COUNT`, from a seed that is printed and can be given again as `MALFORMED_SEED`.
"""

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge.rig import wait_until
from tests.process.server import Server, children

pytestmark = pytest.mark.alone

COUNT = int(os.environ.get("MALFORMED_COUNT", "20000"))
AT_ONCE = 96
UNFINISHED_S = 0.25
"""What is left open by a mutation is closed by us: that the server does so too is `test_slow.py`'s."""
APP = """
from typing import Annotated
from fastapi import Body, FastAPI, Header, Request, Response
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from garrison import Garrison, allow, public

app = FastAPI()

class Boat(BaseModel):
    name: str
    sails: int = 0

@app.get("/boats/{number}")
@public
async def boat(number: int, deep: bool = False, x_oar: Annotated[str | None, Header()] = None): return {}

@app.post("/boats")
@public
async def build(boat: Boat): return boat

@app.post("/cargo")
@public
async def load(request: Request):
    try:
        return {"size": sum([len(piece) async for piece in request.stream()])}
    except ClientDisconnect:
        return Response(status_code=400)

@app.put("/free")
@public
async def free(thing: Annotated[object, Body()]): return {}

@app.get("/captain")
@allow(signed_in=True)
async def captain(): return {}

@app.api_route("/{path:path}", methods=["GET", "POST", "OPTIONS"])
@public
async def sea(path: str): return {"length": len(path)}

Garrison().protect(app)
"""
_COMMON = b"Host: 127.0.0.1\r\nConnection: close\r\nUser-Agent: oar/1\r\nAccept: */*\r\nCookie: a=b; c=d\r\n"
_CREDENTIALS = b"Authorization: Bearer eyJhbGciOiJFUzI1NiJ9.e30.AAAA\r\nCookie: garrison_session=AAAA\r\n"


def _request(line: bytes, body: bytes = b"", kind: bytes = b"application/json", more: bytes = b"") -> bytes:
    length = b"Content-Type: %b\r\nContent-Length: %d\r\n" % (kind, len(body)) if body else b""
    return line + b" HTTP/1.1\r\n" + _COMMON + more + length + b"\r\n" + body


_FORM = b'--boat\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\noars\r\n--boat--\r\n'
BASES = (
    _request(b"GET /boats/7?deep=true", more=b"X-Oar: long\r\n"),
    _request(b"POST /boats", b'{"name": "Anna", "sails": 3}'),
    _request(b"POST /boats", more=b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n")
    + b'8;a=b\r\n{"name":\r\n7\r\n "Anna"\r\n1\r\n}\r\n0\r\nX-Trailer: a\r\n\r\n',
    _request(b"POST /cargo", _FORM, b"multipart/form-data; boundary=boat"),
    _request(b"PUT /free", b'[1, "\\u00e9", {"a": [null, true, 1e5]}]'),
    _request(b"GET /captain", more=_CREDENTIALS),
    _request(b"GET /captain", more=b"X-Forwarded-For: 1.2.3.4, 5.6.7.8\r\nForwarded: for=1.2.3.4\r\n"),
    _request(b"GET /any/%C3%A9/thing%2e%2e?a=%ff&b=&&"),
    _request(b"OPTIONS /boats", more=b"Origin: https://a.example\r\nAccess-Control-Request-Method: POST\r\n"),
    _request(b"GET /live", more=b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"),
    _request(b"POST /auth/sign-in", b'{"email": "nobody", "password": 5}'),
    _request(b"POST /auth/refresh", b'{"refresh_token": "AAAA"}'),
    _request(b"POST /auth/sign-up", b'{"email": 1}', more=b"Sec-Fetch-Site: same-origin\r\n"),
    _request(b"GET /auth/sessions", more=_CREDENTIALS),
    _request(b"GET /health/ready"),
    _request(b"GET http://127.0.0.1/boats/1"),
)
TOKENS = (
    *(b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"%00", b"%", b"%zz", b"%c0%af", b"..", b"//", b"?", b"#"),
    *(b"\xff", b"\xc3\xa9", b"\x80", b"\x1f", b"\x7f", b";", b",", b'"', b"\\", b"{", b"[" * 2_000, b"1e999", b"NaN"),
    *(b"-1", b"9" * 30, b"0" * 5_000, b"A" * 9_000, b"\xef\xbb\xbf", b"\\ud800", b"HTTP/1.0", b"HTTP/2.0", b"close"),
    *(b"Transfer-Encoding: chunked\r\n", b"Content-Length: 5\r\n", b"Host: b\r\n", b"Expect: 100-continue\r\n"),
    *(b"Content-Encoding: gzip\r\n", b"Upgrade: h2c\r\n", b"Connection: upgrade\r\n", b"X: \xe9\r\n", b"\r\n\r\n"),
    *(b"Cookie: " + b"a=b;" * 500 + b"\r\n", b"Content-Type: text/plain; charset=utf-7\r\n", b"Range: bytes=0-0\r\n"),
)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "boats.py").write_text(APP)
    with Server(tmp_path, app="boats:app") as server:
        yield server


def test_broken_requests_are_refused_and_leave_nothing_behind(server: Server) -> None:
    seed = int(os.environ.get("MALFORMED_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"MALFORMED_SEED={seed}")
    assert server.process is not None
    pids = (server.process.pid, *children(server.process.pid))
    asyncio.run(send_all(server.port, [base for base in BASES for _ in range(10)]))  # everything is open and loaded
    before = open_files(pids)
    found, culprits = asyncio.run(send_all(server.port, mutated(random.Random(seed), COUNT)))
    print(dict(sorted(found.items())))
    assert culprits == [], seed
    assert server.process.poll() is None
    assert server.client().get("/boats/7").status_code == 200
    assert found[400] > COUNT // 10, "the mutations hit nothing"
    assert found[200] > COUNT // 50, "the mutations break everything at the first byte"
    log = server.log.read_text()
    assert [word for word in ("Traceback", "failed") if word in log] == [], (seed, log[-3_000:])
    assert wait_until(lambda: open_files(pids) <= before + 4, 10), (seed, before, open_files(pids))


def mutated(chance: random.Random, count: int) -> Iterator[bytes]:
    for _ in range(count):
        data = bytearray(chance.choice(BASES))
        for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
            chance.choice(MUTATIONS)(chance, data)
        yield bytes(data)


def flip(chance: random.Random, data: bytearray) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def overwrite(chance: random.Random, data: bytearray) -> None:
    if data:
        data[chance.randrange(len(data))] = chance.randrange(256)


def insert(chance: random.Random, data: bytearray) -> None:
    position = chance.randrange(len(data) + 1)
    data[position:position] = chance.choice(TOKENS)


def cut(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data) + 1)
    del data[start : start + chance.choice((1, 2, 5, 30))]


def end(chance: random.Random, data: bytearray) -> None:
    if not chance.randrange(4):  # each waits for what does not come
        del data[chance.randrange(len(data) + 1) :]


def repeat(chance: random.Random, data: bytearray) -> None:
    start = chance.randrange(len(data) + 1)
    piece = data[start : start + chance.choice((1, 10, 60))]
    data[start:start] = piece * chance.choice((1, 2, 40))


def swap_lines(chance: random.Random, data: bytearray) -> None:
    lines = bytes(data).split(b"\r\n")
    first, second = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[first], lines[second] = lines[second], lines[first]
    data[:] = b"\r\n".join(lines)


def add_line(chance: random.Random, data: bytearray) -> None:
    lines = bytes(data).split(b"\r\n")
    lines.insert(chance.randrange(len(lines)), chance.choice(TOKENS).removesuffix(b"\r\n"))
    data[:] = b"\r\n".join(lines)


def splice(chance: random.Random, data: bytearray) -> None:
    other = chance.choice(BASES)
    data[chance.randrange(len(data) + 1) :] = other[chance.randrange(len(other)) :]


def line_end(chance: random.Random, data: bytearray) -> None:
    position = data.find(b"\r\n", chance.randrange(len(data) + 1))
    if position >= 0:
        data[position : position + 2] = chance.choice((b"\n", b"\r", b"\n\r", b"\r\r\n", b"\r\n ", b""))


MUTATIONS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    *(flip, overwrite, insert, cut, end, repeat, swap_lines, add_line, splice, line_end),
)


async def send_all(port: int, requests: "Iterator[bytes] | list[bytes]") -> tuple[Counter[int], list[bytes]]:
    """Send each on a connection of its own; return how often each status came, and the requests a 5xx answered."""
    found: Counter[int] = Counter()
    culprits: list[bytes] = []
    waiting = iter(requests)

    async def sender() -> None:
        for data in waiting:
            statuses = await exchange(port, data)
            found.update(statuses or [0])
            if any(status >= 500 for status in statuses):
                culprits.append(data[:2_000])

    async with asyncio.TaskGroup() as senders:
        for _ in range(AT_ONCE):
            senders.create_task(sender())
    return found, culprits[:5]


async def exchange(port: int, data: bytes) -> list[int]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = b""
    try:
        writer.write(data)
        while piece := await asyncio.wait_for(reader.read(65_536), UNFINISHED_S if b"HTTP/" in data else 0.05):
            received += piece
    except (TimeoutError, OSError):
        pass  # unfinished, or refused in the middle
    finally:
        writer.transport.abort()
    return [int(status) for status in _STATUS.findall(received)]


def open_files(pids: tuple[int, ...]) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)
