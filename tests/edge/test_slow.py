"""Clients that take their time: each is let go when its time is up, and nobody else notices (CWE-400).

200 that say nothing, 200 that send a header now and then, 50 whose bodies trickle; `make soak` has ten times as many.
"""

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.edge.rig import Echo, echo, replies, wait_until

pytestmark = pytest.mark.alone

DEADLINE_S = 3.0
SLACK_S = 5.0
"""For a loaded machine: what is measured is that connections end, not how good the clock is."""
TRICKLE_S = 0.25
HEAD = b"GET /honest HTTP/1.1\r\nHost: a\r\n"
SLOW_HEAD = b"GET /never HTTP/1.1\r\nHost: a\r\n"
SLOW_BODY = b"POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
SLOW_CHUNKS = b"POST /body HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


class End(NamedTuple):
    kind: str
    after_s: float
    status: int | None


class Kind(NamedTuple):
    name: str
    count: int
    first: bytes
    further: bytes
    status: int | None


KINDS = (
    Kind("silent", 200, b"", b"", None),
    Kind("slow headers", 200, SLOW_HEAD, b"X: y\r\n", 408),
    Kind("slow body", 25, SLOW_BODY, b"b", 408),
    Kind("slow chunks", 25, SLOW_CHUNKS, b"1\r\nb\r\n", 408),
)


@pytest.fixture
def server() -> Iterator[Echo]:
    with echo(header_deadline_s=DEADLINE_S, body_grace_s=DEADLINE_S) as server:
        yield server


def test_slow_clients_are_let_go_in_time_while_others_are_served(server: Echo) -> None:
    before = open_files(server)
    ends, served, errors = asyncio.run(besiege(server.port))
    assert errors == []
    assert served > 20
    for kind in KINDS:
        own = [end for end in ends if end.kind == kind.name]
        assert len(own) == kind.count
        assert {end.status for end in own} == {kind.status}, kind.name
        early = [end for end in own if end.after_s < DEADLINE_S * 0.8]
        late = [end for end in own if end.after_s > DEADLINE_S + SLACK_S]
        assert (early, late) == ([], []), kind.name
    assert wait_until(lambda: open_files(server) <= before + 2, 10), "connections were left behind"
    assert ["GET", "/never"] not in server.seen()


def test_a_head_in_time_is_served_though_it_comes_in_pieces(server: Echo) -> None:
    with server.connect() as connection:
        for piece in (HEAD[:10], HEAD[10:], b"Connection: close\r\n", b"\r\n"):
            connection.sendall(piece)
            time.sleep(0.1)
        assert [reply.status for reply in replies(received(connection))] == [200]


def test_a_second_request_on_a_connection_has_a_deadline_too(server: Echo) -> None:
    with server.connect(DEADLINE_S + SLACK_S) as connection:
        connection.sendall(HEAD + b"\r\n" + SLOW_HEAD)
        assert [reply.status for reply in replies(received(connection))] == [200, 408]


def test_a_body_that_keeps_the_pace_may_take_longer_than_the_grace(server: Echo) -> None:
    pieces = 2 * int(DEADLINE_S / TRICKLE_S)
    head = b"POST /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % (pieces * 1_024)
    with server.connect() as connection:
        connection.sendall(head)
        for _ in range(pieces):
            connection.sendall(b"b" * 1_024)
            time.sleep(TRICKLE_S)
        assert [reply.status for reply in replies(received(connection))] == [200]


def test_a_full_house_lets_go_of_the_one_that_has_waited_longest() -> None:
    with echo(max_connections=40) as server:
        silent = [server.connect() for _ in range(60)]
        assert [reply.status for reply in server.ask(HEAD + b"Connection: close\r\n\r\n")] == [200]
        assert wait_until(lambda: sum(map(is_closed, silent)) >= 60 - 40, 10)
        assert is_closed(silent[0])
        assert not is_closed(silent[-1])
        for connection in silent:
            connection.close()


def test_a_full_house_of_idle_connections_takes_new_ones() -> None:
    with echo(max_connections=40) as server:
        idle = []
        for _ in range(40):
            connection = server.connect()
            connection.sendall(HEAD + b"\r\n")
            answer = b""
            while not answer.endswith(b"}"):
                answer += connection.recv(65_536)
            idle.append(connection)
        for _ in range(10):
            assert [reply.status for reply in server.ask(HEAD + b"Connection: close\r\n\r\n")] == [200]
        for connection in idle:
            connection.close()


async def besiege(port: int) -> tuple[list[End], int, list[str]]:
    """Let all slow clients in; ask honestly until the last has gone. Returns their ends, honest answers, errors."""
    attackers = [
        asyncio.create_task(trickle(port, kind)) for kind in KINDS for _ in range(kind.count)
    ]  # the honest begin at the same moment
    errors: list[str] = []
    served = 0

    def attacked() -> bool:
        return not all(task.done() for task in attackers)

    async def honest(ask: Callable[[int], "asyncio.Future[int] | object"]) -> None:
        nonlocal served
        while attacked():
            try:
                status = await asyncio.wait_for(ask(port), 15)  # type: ignore[arg-type]
            except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
                errors.append(repr(error))
                return
            if status == 200:
                served += 1
            else:
                errors.append(str(status))
            await asyncio.sleep(0.02)

    await asyncio.gather(honest(get), honest(get), honest(post))
    return list(await asyncio.gather(*attackers)), served, errors


async def trickle(port: int, kind: Kind) -> End:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    if kind.first:
        writer.write(kind.first)
    received = b""
    while True:
        try:
            piece = await asyncio.wait_for(reader.read(4_096), TRICKLE_S)
        except TimeoutError:
            if kind.further and not received:
                writer.write(kind.further)
            if time.monotonic() - began > DEADLINE_S + 2 * SLACK_S:
                break
            continue
        except OSError:
            break
        if not piece:
            break
        received += piece
    after_s = time.monotonic() - began
    writer.close()
    return End(kind.name, after_s, int(received.split(b" ", 2)[1]) if received else None)


async def get(port: int) -> int:
    return await exchange(port, HEAD + b"Connection: close\r\n\r\n")


async def post(port: int) -> int:
    head = b"POST /honest HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3000\r\n\r\n"
    return await exchange(port, head + b"b" * 3_000)


async def exchange(port: int, data: bytes) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        answer = await reader.read()
        return int(answer.split(b" ", 2)[1]) if answer else 0
    finally:
        writer.close()


def received(connection: socket.socket) -> bytes:
    found = b""
    while piece := connection.recv(65_536):
        found += piece
    return found


def is_closed(connection: socket.socket) -> bool:
    """Tell whether the server closed, of a connection on which it says nothing else."""
    connection.setblocking(False)
    try:
        return connection.recv(4_096, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def open_files(server: Echo) -> int:
    return len(os.listdir(Path("/proc", str(server.process.pid), "fd")))
