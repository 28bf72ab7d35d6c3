"""Starting the echo app, and talking to it in bytes."""

import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[2]
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class Reply(NamedTuple):
    status: int
    head: bytes
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Echo:
    """One running server; ends only what it started."""

    def __init__(
        self,
        workers: int = 1,
        environment: Mapping[str, str] | None = None,
        bounds: Mapping[str, float] | None = None,
        port: int = 0,
    ) -> None:
        self.port = port or free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.edge.echo", str(self.port), str(workers)]
            + [f"{name}={value}" for name, value in (bounds or {}).items()],
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )

    def wait_ready(self, within_s: float = 20) -> None:
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], within_s)
        line = self.process.stdout.readline() if readable else b""
        assert line == b"ready\n", (line, self.errors() if self.process.poll() is not None else "silent")

    def errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def connect(self, timeout_s: float = 10) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def ask(self, data: bytes, *, piece: int = 0, timeout_s: float = 10) -> list[Reply]:
        """Send bytes, whole or in pieces, half-close nothing, and return every reply until the server closes."""
        with self.connect(timeout_s) as connection:
            try:
                for start in range(0, len(data), piece or len(data)):
                    connection.sendall(data[start : start + (piece or len(data))])
            except OSError:
                pass  # refused in the middle
            return replies(read_all(connection))

    def get(self, target: str = "/", *lines: str) -> Reply:
        head = "\r\n".join((f"GET {target} HTTP/1.1", "Host: a", "Connection: close", *lines, "", ""))
        (reply,) = self.ask(head.encode())
        return reply

    def seen(self) -> list[list[str]]:
        """Return what the app has seen since the last call."""
        found: list[list[str]] = self.get("/seen").json()
        return found

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(5)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


@contextmanager
def echo(workers: int = 1, environment: Mapping[str, str] | None = None, **bounds: float) -> Iterator[Echo]:
    server = Echo(workers, environment, bounds)
    try:
        server.wait_ready()
        yield server
        if server.process.poll() is None:
            server.process.send_signal(signal.SIGTERM)
            assert server.process.wait(12) == 0
            assert server.errors() == ""
    finally:
        server.kill()


def read_all(connection: socket.socket) -> bytes:
    received = b""
    try:
        while piece := connection.recv(65_536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def replies(received: bytes) -> list[Reply]:
    """Split what came back; every answer of the echo app and of the edge has a length."""
    found = []
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        assert end, received
        status = int(head.split(b" ", 2)[1])
        length = _LENGTH.search(head + b"\r\n")
        size = int(length[1]) if length else 0
        found.append(Reply(status, head, rest[:size]))
        received = rest[size:]
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_until(condition: Any, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False
