"""How the server starts, ends, and replaces its workers, as a process that is told so from outside."""

import os
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.edge.rig import Echo, echo, free_port, is_alive, replies, wait_until
from tests.process.server import GARRISON, children

BOTH = pytest.mark.parametrize("workers", [1, 2])
END_S = 10.0
"""What is promised (contract, "Commands"). The server keeps it with a second to spare, by the kernel's clock."""
HEAD = b"GET /%b HTTP/1.1\r\nHost: a\r\n"


@BOTH
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_ends_at_once_when_nothing_is_open(workers: int, number: int) -> None:
    with echo(workers) as server:
        pids = [server.process.pid, *children(server.process.pid)]
        assert told_to_end(server, number) == 0
        assert not any(map(is_alive, pids))
        assert server.errors() == ""


@BOTH
def test_open_requests_are_finished_and_open_connections_do_not_hold_it(workers: int) -> None:
    with echo(workers) as server, ExitStack() as open_:
        pids = children(server.process.pid)
        idle, silent, half, body, slow = (open_.enter_context(server.connect()) for _ in range(5))
        idle.sendall(HEAD % b"idle" + b"\r\n")
        answered(idle)
        half.sendall(HEAD % b"half")
        body.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc")
        slow.sendall(HEAD % b"slow" + b"\r\n")
        time.sleep(0.4)  # nothing tells from outside that it has been read; it takes a second
        assert told_to_end(server) == 0
        assert [reply.status for reply in replies(rest_of(slow))] == [200]
        assert [rest_of(one) for one in (idle, silent, half)] == [b"", b"", b""]
        assert not any(map(is_alive, pids))


def test_ends_in_time_though_start_up_hangs() -> None:
    hanging = [Echo(workers, {"ECHO_FAIL": "hang"}) for workers in (1, 2)]
    for server in hanging:
        assert wait_until(lambda pid=server.process.pid: catches(pid, signal.SIGTERM), 20)
    time.sleep(0.5)  # into the hang; where it comes too early, it is a harder test of the same
    pids = [pid for server in hanging for pid in (server.process.pid, *children(server.process.pid))]
    for server in hanging:
        server.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert wait_until(lambda: all(map(has_ended, hanging)), END_S + 5)
    assert time.monotonic() - began < END_S + 1
    assert wait_until(lambda: not any(map(is_alive, pids)), 2)
    for server in hanging:
        server.stop()


def test_a_dead_worker_is_replaced() -> None:
    with echo(2) as server:
        assert wait_until(lambda: len(children(server.process.pid)) == 2, 10)
        for number in (signal.SIGKILL, signal.SIGTERM):
            victim = min(children(server.process.pid))
            os.kill(victim, number)

            def replaced(victim: int = victim) -> bool:
                living = [pid for pid in children(server.process.pid) if is_alive(pid)]
                return len(living) == 2 and victim not in living

            assert wait_until(replaced, 15)
            assert server.get().status == 200
        assert wait_until(lambda: len(answering(server)) == 2, 15)
        assert told_to_end(server) == 0
        assert server.errors().count("a worker ended and is replaced") == 2


def test_workers_end_with_their_parent() -> None:
    with echo(2) as server:
        assert wait_until(lambda: len(children(server.process.pid)) == 2, 10)
        pids = children(server.process.pid)
        server.process.kill()
        server.process.wait(5)
        assert wait_until(lambda: not any(map(is_alive, pids)), END_S)
        with socket.socket() as again:  # nobody holds the port
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", server.port))


@BOTH
def test_listens_only_when_ready(workers: int) -> None:
    began = time.monotonic()
    server = Echo(workers, {"ECHO_START_S": "1.5"})
    try:
        assert server.process.stdout is not None
        refused = 0
        while not can_connect(server.port):
            refused += 1
            assert time.monotonic() - began < 30
            time.sleep(0.02)
        assert time.monotonic() - began > 1.5
        assert refused > 10
        assert server.get().status == 200
        readable, _, _ = select.select([server.process.stdout], [], [], 10)
        assert readable
        assert server.process.stdout.readline() == b"ready\n"
    finally:
        assert server.stop() == 0


@BOTH
def test_workers_stay_in_the_callers_process_group_and_know_how_many_they_are(workers: int) -> None:
    with echo(workers) as server:
        pid, parent, group, processes = server.get("/pid").json()
        assert (pid if workers == 1 else parent) == server.process.pid
        assert (group, processes) == (os.getpgrp(), str(workers))


@BOTH
def test_an_app_that_does_not_start_is_told_in_one_line(workers: int) -> None:
    for how, reason in (("raise", "the lake is frozen"), ("no boats today", "no boats today")):
        server = Echo(workers, {"ECHO_FAIL": how})
        assert server.process.wait(20) == 1
        told = server.errors()
        assert reason in told
        assert (told.count("\n"), "Traceback" in told) == (1, False), told
        server.stop()


APP = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from garrison import Garrison, public

@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("the lake is frozen")
    yield

broken = FastAPI(lifespan=lifespan)
sound = FastAPI()
for app in (broken, sound):
    app.get("/")(public(lambda: "boat"))
    Garrison().protect(app)
"""


@BOTH
def test_the_command_tells_a_broken_start_in_one_line(tmp_path: Path, workers: int) -> None:
    (tmp_path / "boats.py").write_text(APP)
    code, told = serve(tmp_path, "boats:broken", free_port(), workers)
    assert code == 1, told
    assert "the lake is frozen" in told
    assert "Traceback" not in told


@BOTH
def test_the_command_tells_a_taken_port_in_one_sentence(tmp_path: Path, workers: int) -> None:
    (tmp_path / "boats.py").write_text(APP)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        code, told = serve(tmp_path, "boats:sound", port, workers)
    assert code == 2, told
    complaint = [line for line in told.splitlines() if "taken" in line]
    assert complaint == [
        f"garrison serve: 127.0.0.1:{port} is taken by another program; choose another with --host and --port."
    ]
    assert "Traceback" not in told


def serve(directory: Path, app: str, port: int, workers: int) -> tuple[int, str]:
    """Run `garrison serve`, which is expected to end by itself; return its exit code and what stood on stderr."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GARRISON_")}
    done = subprocess.run(
        [sys.executable, GARRISON, "serve", app, "--port", str(port), "--workers", str(workers)],
        cwd=directory,
        env=inherited,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return done.returncode, done.stderr


def told_to_end(server: Echo, number: int = signal.SIGTERM) -> int:
    server.process.send_signal(number)
    return server.process.wait(END_S)


def answered(connection: socket.socket) -> None:
    """Take one whole answer off a connection that stays open."""
    received = b""
    while not received.endswith(b"}"):
        received += connection.recv(65_536)
    assert received.startswith(b"HTTP/1.1 200 ")


def rest_of(connection: socket.socket) -> bytes:
    found = b""
    try:
        while piece := connection.recv(65_536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def answering(server: Echo) -> set[int]:
    """Return the processes that answer, of several connections."""
    return {server.get("/pid").json()[0] for _ in range(20)}


def has_ended(server: Echo) -> bool:
    return server.process.poll() is not None


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


def catches(pid: int, number: int) -> bool:
    """Tell whether the process has a handler for the signal."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(mask >> (number - 1) & 1)
