"""Clients that are slow on purpose (T9, at CI size): each is let go in time, and honest ones do not notice.

The deadlines are made short, so that the test is.
"""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from tests.edge.rig import Echo, echo, read_all, replies

pytestmark = [pytest.mark.anyio, pytest.mark.alone]

DEADLINE_S = 2.0
GET = b"GET /honest HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
def server() -> Iterator[Echo]:
    with echo(header_deadline_s=DEADLINE_S, body_grace_s=DEADLINE_S, stalled_answer_s=DEADLINE_S) as server:
        yield server


async def drip(port: int, begin: bytes, drop: bytes) -> tuple[float, bytes]:
    """Send `begin`, then `drop` every third of a second; return how long it took to be let go, and the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    writer.write(begin)
    received = b""
    try:
        while time.monotonic() - began < 20:
            try:
                piece = await asyncio.wait_for(reader.read(4_096), 0.33)
            except TimeoutError:
                writer.write(drop)
                continue
            if not piece:
                break
            received += piece
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return time.monotonic() - began, received


async def honest(port: int, until: asyncio.Event) -> list[float]:
    """Ask again and again, on kept and on new connections; raise where an answer is not as it should be."""
    times = []
    while not until.is_set():
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(5):
            began = time.monotonic()
            writer.write(GET)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 "), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            times.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
        writer.close()
    return times


async def test_the_slow_are_let_go_in_time_and_the_honest_do_not_notice(server: Echo) -> None:
    done = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        asking = [group.create_task(honest(server.port, done)) for _ in range(4)]
        await asyncio.sleep(0.5)
        loris = [group.create_task(drip(server.port, b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"x")) for _ in range(200)]
        silent = [group.create_task(drip(server.port, b"", b"")) for _ in range(200)]
        blank = [group.create_task(drip(server.port, b"\r\n", b"\r\n")) for _ in range(20)]
        body = [
            group.create_task(
                drip(server.port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n", b"b" * 100)
            )
            for _ in range(50)
        ]
        await asyncio.wait([*loris, *silent, *blank, *body])
        done.set()
    for task in (*loris, *silent, *blank):
        took, received = task.result()
        assert DEADLINE_S / 2 < took < DEADLINE_S + 2.5, (took, received)
    for task in loris:
        assert task.result()[1].startswith(b"HTTP/1.1 408 ")
    assert {task.result()[1] for task in silent} == {b""}, "who said nothing is told nothing"
    for task in body:
        took, received = task.result()
        assert DEADLINE_S / 2 < took < 2 * DEADLINE_S + 2.5, took
        assert received.startswith(b"HTTP/1.1 408 "), received
    times = sorted(one for task in asking for one in task.result())
    assert len(times) > 200
    assert times[int(len(times) * 0.99)] < 0.5, times[-5:]


async def test_a_body_at_an_honest_pace_may_take_longer(server: Echo) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 20000\r\n\r\n")
    for _ in range(20):
        writer.write(b"b" * 1_000)
        await asyncio.sleep(0.25)
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    writer.close()


async def test_a_client_that_waits_for_100_continue_is_not_slow(server: Echo) -> None:
    took, received = await drip(
        server.port, b"POST /slow HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n", b""
    )
    assert received.startswith(b"HTTP/1.1 200 "), (took, received)


def test_a_head_that_follows_an_answer_has_the_same_deadline(server: Echo) -> None:
    with server.connect() as connection:
        connection.sendall(GET + b"GET /next HT")
        began = time.monotonic()
        first, second = replies(read_all(connection))
        assert (first.status, second.status) == (200, 408)
        assert time.monotonic() - began < DEADLINE_S + 1.5


def test_a_body_whose_request_was_answered_has_to_come_too(server: Echo) -> None:
    with server.connect() as connection:
        connection.sendall(b"POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nb")
        began = time.monotonic()
        assert [reply.status for reply in replies(read_all(connection))] == [200]
        assert time.monotonic() - began < DEADLINE_S + 1.5


def test_an_answer_that_is_not_taken_ends(server: Echo) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", server.port))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(DEADLINE_S + 0.5)
        assert len(read_all(connection)) < 64 * 1_048_576


def test_a_full_house_lets_go_of_who_waits_longest() -> None:
    with echo(max_connections=50) as server:
        waiting = [server.connect() for _ in range(120)]
        began = time.monotonic()
        for _ in range(20):
            assert server.get().status == 200
        assert time.monotonic() - began < 5
        gone = [connection for connection in waiting if is_closed(connection)]
        assert gone == waiting[: len(gone)], "the oldest first"
        assert 70 <= len(gone) <= 92
        for connection in waiting:
            connection.close()


def test_a_full_house_of_idle_ones_lets_go_of_some() -> None:
    with echo(max_connections=50) as server:
        idle = []
        for _ in range(80):
            connection = server.connect()
            connection.sendall(GET)
            assert connection.recv(4_096).startswith(b"HTTP/1.1 200 ")
            idle.append(connection)
        for connection in idle:
            connection.close()


def test_a_full_house_of_busy_ones_says_so() -> None:
    with echo(max_connections=10) as server:
        busy = []
        for _ in range(12):
            busy.append(server.connect())
            busy[-1].sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            time.sleep(0.02)
        found = [replies(read_all(connection)) for connection in busy]
        assert [reply.status for (reply,) in found] == [200] * 10 + [503] * 2
        assert b"\r\nretry-after: " in found[-1][0].head
        for connection in busy:
            connection.close()


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
