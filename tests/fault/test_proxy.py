"""The fault proxy does what it says, against an echo server."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from tests.fault.proxy import BLACK_HOLE, DROP, HALF_OPEN, PASS, Fault, FaultProxy, delay, reset, truncate


@pytest.fixture
def heard() -> list[bytes]:
    """What the server was told."""
    return []


@pytest.fixture
def proxy(heard: list[bytes]) -> Iterator[FaultProxy]:
    listener = socket.create_server(("127.0.0.1", 0))

    def echo(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65_536):
                    heard.append(data)
                    connection.sendall(data)
            except OSError:
                return

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with FaultProxy(*listener.getsockname(), seed=7) as proxy:
        yield proxy
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connected(proxy: FaultProxy, timeout_s: float = 5.0) -> "closing[socket.socket]":
    return closing(socket.create_connection(("127.0.0.1", proxy.port), timeout=timeout_s))


def read(connection: socket.socket, size: int) -> bytes:
    """Read until there is so much, or the end."""
    read = b""
    while len(read) < size and (data := connection.recv(size - len(read))):
        read += data
    return read


def test_it_passes_bytes_and_ends_on(proxy: FaultProxy) -> None:
    with connected(proxy) as connection:
        sent = bytes(range(256)) * 1000
        threading.Thread(target=connection.sendall, args=(sent,)).start()
        assert read(connection, len(sent)) == sent
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_a_delay_is_taken_by_each_piece(proxy: FaultProxy) -> None:
    with connected(proxy) as connection:
        proxy.set(delay(0.1))
        began = time.monotonic()
        connection.sendall(b"x")
        assert read(connection, 1) == b"x"
        assert time.monotonic() - began >= 0.2, "there and back"


def test_what_is_dropped_is_neither_heard_nor_answered_and_such_a_connection_does_not_live_on(
    proxy: FaultProxy, heard: list[bytes]
) -> None:
    with connected(proxy, 0.2) as connection:
        connection.sendall(b"a")
        assert read(connection, 1) == b"a"
        proxy.set(DROP)
        connection.sendall(b"b")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        proxy.set(PASS)
        with pytest.raises(ConnectionResetError):
            read(connection, 1)
    assert heard == [b"a"]


def test_nothing_leaves_a_black_hole_until_it_ends(proxy: FaultProxy) -> None:
    with connected(proxy, 0.2) as connection:
        connection.sendall(b"a")
        assert read(connection, 1) == b"a"
        proxy.set(BLACK_HOLE)
        connection.sendall(b"b")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with connected(proxy, 0.2) as another:
            another.sendall(b"c")
            with pytest.raises(TimeoutError):
                another.recv(1)
        proxy.set(PASS)
        connection.settimeout(5)
        assert read(connection, 1) == b"b"


def test_the_server_hears_a_half_open_connection_and_nobody_hears_the_server(
    proxy: FaultProxy, heard: list[bytes]
) -> None:
    with connected(proxy, 0.5) as connection:
        proxy.set(HALF_OPEN)
        connection.sendall(b"a")
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert heard == [b"a"]


@pytest.mark.parametrize("how", [reset, truncate])
def test_a_connection_ends_at_a_byte_of_its_own(proxy: FaultProxy, how: Callable[[int], Fault]) -> None:
    ends: set[int] = set()
    for _ in range(8):
        proxy.set(PASS)
        with connected(proxy) as connection:
            connection.sendall(b"a")
            assert read(connection, 1) == b"a"
            proxy.set(how(2000))
            got = 0
            try:
                for _ in range(1000):
                    connection.sendall(b"x" * 50)
                    data = connection.recv(50)
                    got += len(data)
                    if not data:
                        break
            except ConnectionError:
                assert how is reset
            else:
                assert how is truncate
        assert got <= 2000
        ends.add(got)
    assert len(ends) > 1
