"""The server process: when it listens, what it says when it cannot, how it ends, and what becomes of its workers."""

import os
import signal
import socket
import time

import pytest

from tests.edge.rig import Echo, echo, is_alive, read_all, replies, wait_until

SLOW = b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n"
END_WITHIN_S = 10


def listens(server: Echo) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return False
    return True


def end(server: Echo, number: signal.Signals = signal.SIGTERM) -> float:
    """Signal it, and return how long it took to end, with code 0 and nothing on stderr."""
    began = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(END_WITHIN_S + 2) == 0
    assert server.errors() == ""
    return time.monotonic() - began


def pids(server: Echo, count: int) -> set[int]:
    """Ask until `count` workers have answered."""
    found: set[int] = set()

    def complete() -> bool:
        found.add(server.get("/pid").json()[0])
        return len(found) >= count

    assert wait_until(complete, 10), found
    return found


@pytest.fixture(params=[1, 2])
def workers(request: pytest.FixtureRequest) -> int:
    count: int = request.param
    return count


def test_it_listens_only_when_it_is_ready(workers: int) -> None:
    server = Echo(workers, {"ECHO_START_S": "1"})
    try:
        began = time.monotonic()
        while time.monotonic() - began < 0.9:
            assert not listens(server)
            time.sleep(0.05)
        server.wait_ready()
        assert server.get().status == 200
        end(server)
    finally:
        server.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_when_idle(workers: int, number: signal.Signals) -> None:
    with echo(workers) as server:
        idle = server.connect()
        idle.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert idle.recv(4_096)
        assert end(server, number) < 3
        idle.close()


def test_open_requests_are_finished(workers: int) -> None:
    with echo(workers) as server:
        connections = [server.connect() for _ in range(5)]
        for connection in connections:
            connection.sendall(SLOW)
        time.sleep(0.3)
        assert end(server) < 4
        for connection in connections:
            assert [reply.status for reply in replies(read_all(connection))] == [200]
            connection.close()


def test_it_ends_in_time_though_clients_do_not(workers: int) -> None:
    with echo(workers) as server:
        half = server.connect()
        half.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc")
        reader = server.connect()
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        reader.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        server.process.wait(END_WITHIN_S + 2)
        assert time.monotonic() - began < END_WITHIN_S
        half.close()
        reader.close()
        server.errors()


def test_a_start_that_hangs_ends_in_time(workers: int) -> None:
    server = Echo(workers, {"ECHO_FAIL": "hang"})
    try:
        time.sleep(1.5)
        server.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        server.process.wait(END_WITHIN_S + 2)
        assert time.monotonic() - began < END_WITHIN_S
    finally:
        server.kill()


def test_a_taken_port_is_one_sentence_and_code_2(workers: int) -> None:
    with echo() as first:
        second = Echo(workers, port=first.port)
        try:
            assert second.process.wait(10) == 2
            (line,) = second.errors().splitlines()
            assert f"127.0.0.1:{first.port} is taken" in line
        finally:
            second.kill()


def test_an_app_that_does_not_start_is_one_line_and_code_1(workers: int) -> None:
    for fail, expected in (("raise", "RuntimeError: the lake is frozen"), ("no database", "no database")):
        server = Echo(workers, {"ECHO_FAIL": fail})
        try:
            assert server.process.wait(10) == 1
            (line,) = server.errors().splitlines()
            assert line.startswith(f"garrison serve: the app did not start: {expected}")
        finally:
            server.kill()


def test_workers_share_the_port_stay_in_the_process_group_and_know_their_number() -> None:
    with echo(3) as server:
        found = pids(server, 3)
        assert server.process.pid not in found
        _, parent, group, processes = server.get("/pid").json()
        assert parent == server.process.pid
        assert group == os.getpgrp()
        assert processes == "3"


def test_a_dead_worker_is_replaced() -> None:
    server = Echo(2)
    try:
        server.wait_ready()
        before = pids(server, 2)
        assert server.ask(b"GET /die HTTP/1.1\r\nHost: a\r\n\r\n") == []
        assert wait_until(lambda: sum(map(is_alive, before)) == 1, 5)
        after = pids(server, 2)
        assert len(after - before) == 1
        os.kill(min(after & before), signal.SIGKILL)
        assert wait_until(lambda: sum(map(is_alive, after)) == 1, 5)
        assert not pids(server, 2) & before
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(END_WITHIN_S) == 0
        assert server.errors() == "garrison serve: a worker ended and is replaced.\n" * 2
    finally:
        server.kill()


def test_workers_end_with_their_parent() -> None:
    server = Echo(2)
    try:
        server.wait_ready()
        found = pids(server, 2)
        server.process.kill()
        server.process.wait(5)
        assert wait_until(lambda: not any(map(is_alive, found)), END_WITHIN_S)
        assert not listens(server)
    finally:
        server.kill()
