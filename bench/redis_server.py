"""A Redis of our own, for measurements and for faults: in memory alone, on a free port, ended with its context."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from types import TracebackType

PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
"""None where there is none to be had."""


class RedisServer:
    """A private server. `options` are those of its command line: `("--requirepass", "…")`."""

    def __init__(self, *options: str, core: int | None = None) -> None:
        self._options = options
        self._core = core
        self._process: subprocess.Popen[bytes] | None = None
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def __enter__(self) -> "RedisServer":
        self._directory = tempfile.TemporaryDirectory(prefix="garrison-redis-")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._directory.cleanup()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        if PROGRAM is None:
            raise RuntimeError("neither redis-server nor valkey-server is there")
        named = ("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir", self._directory.name)
        self._process = subprocess.Popen(
            [PROGRAM, *named, *self._options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        if self._core is not None:
            os.sched_setaffinity(self._process.pid, {self._core})
        end = time.monotonic() + 10
        while time.monotonic() < end:
            try:
                self.ask("PING")
                return
            except OSError:
                time.sleep(0.01)
        raise RuntimeError("the private Redis does not answer")

    def kill(self) -> None:
        """End it at once: what it knew is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def stop(self) -> None:
        """Let it hang: connections are taken and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def ask(self, *words: str, password: str = "") -> str:
        """Send one command on a connection of its own; return what came back, as it came."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            if password:
                connection.sendall(f"AUTH {password}\r\n".encode())
                connection.recv(65_536)
            parts = "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
            connection.sendall(f"*{len(words)}\r\n{parts}".encode())
            return connection.recv(65_536).decode()

    def _signal(self, number: int) -> None:
        if self._process is not None:
            self._process.send_signal(number)
