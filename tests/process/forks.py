"""Processes of `garrison` without its imports, which take longer than all else that most commands do.

One process for each that runs tests has imported what commands need, and opened nothing. It forks one for each command,
with a directory, an environment and open files of its own: a whole process, which ends as any other does. What starts
otherwise than by `[GARRISON, …]`, within another program say or with a library loaded first, is started as ever.
"""

import atexit
import contextlib
import ctypes
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[2]
GARRISON = str(Path(sys.executable).with_name("garrison"))
_PRELOADED = """
alembic.command alembic.config alembic.runtime.migration argon2 asyncpg fastapi httptools joserfc.jwt rich.console
sqlalchemy.dialects.postgresql.asyncpg sqlalchemy.dialects.sqlite structlog.dev uvicorn.lifespan.on
uvicorn.loops.uvloop uvloop websockets garrison.cli.main garrison.cli.serve garrison.serve.frameworks.fastapi
garrison.serve.frameworks.starlette garrison.serve.server garrison.serve.start garrison.store.postgresql
garrison.store.redis
"""
_MAIN = "import sys; sys.path.pop(0); from tests.process import forks; forks.serve(int(sys.argv[1]))\nforks.go_on()"
_PR_SET_PDEATHSIG = 1
_REQUEST_BYTES = 1 << 20


class Forked:
    """A process that runs, or ran, one command. As `subprocess.Popen`, as far as tests ask it."""

    def __init__(self, args: Sequence[str], said: socket.socket) -> None:
        self.args = args
        self.returncode: int | None = None
        self._said = said
        self.pid = self._hear(None) or 0
        if not self.pid:
            raise RuntimeError("nothing was forked")

    def poll(self) -> int | None:
        """See `Popen.poll`."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See `Popen.wait`."""
        if self.returncode is None:
            status = self._hear(timeout)
            if status is None:
                raise subprocess.TimeoutExpired(list(self.args), timeout or 0)
            self._said.close()
            self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """See `Popen.send_signal`."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """See `Popen.terminate`."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """See `Popen.kill`."""
        self.send_signal(signal.SIGKILL)

    def _hear(self, timeout: float | None) -> int | None:
        poll = select.poll()
        poll.register(self._said, select.POLLIN)
        if not poll.poll(None if timeout is None else timeout * 1000):
            return None
        return int(struct.unpack("q", self._said.recv(8, socket.MSG_WAITALL))[0])


Process: TypeAlias = Forked | subprocess.Popen[bytes]


class _Forks:
    """Who forks, for this process. It ends with it."""

    def __init__(self) -> None:
        self._asked, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.owner = os.getpid()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _MAIN, str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def start(
        self, args: Sequence[str], directory: Path, environment: Mapping[str, str], files: Sequence[int]
    ) -> Forked:
        said, theirs = socket.socketpair()
        with theirs:
            request = json.dumps({"args": list(args), "cwd": str(directory), "env": dict(environment)}).encode()
            socket.send_fds(self._asked, [request], [*files, theirs.fileno()])
        return Forked(args, said)

    def end(self) -> None:
        self._asked.close()
        self._process.wait(10)


_forks: _Forks | None = None
_making = threading.Lock()


def start(
    args: Sequence[str], directory: Path, environment: Mapping[str, str], *, stdin: int, stdout: int, stderr: int
) -> Process:
    """Start a command with these open files. `[GARRISON, …]` ends at the latest with the process that asked."""
    global _forks
    if args[0] != GARRISON or "LD_PRELOAD" in environment:
        return subprocess.Popen(args, cwd=directory, env=environment, stdin=stdin, stdout=stdout, stderr=stderr)
    with _making:
        if _forks is None or _forks.owner != os.getpid():
            _forks = _Forks()
            atexit.register(_forks.end)
    return _forks.start(args, directory, environment, (stdin, stdout, stderr))


def run(
    args: Sequence[str],
    directory: Path,
    environment: Mapping[str, str],
    *,
    stdin: str = "",
    timeout: float = 60,
) -> "subprocess.CompletedProcess[str]":
    """Run a command and return what it said, as `subprocess.run` does with `capture_output` and `text`."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        given.write(stdin.encode())
        given.seek(0)
        process = start(args, directory, environment, stdin=given.fileno(), stdout=out.fileno(), stderr=err.fileno())
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise
        out.seek(0)
        err.seek(0)
        said = out.read().decode(), err.read().decode()
    return subprocess.CompletedProcess(list(args), process.returncode or 0, *said)


def serve(asked_fd: int) -> None:
    """Fork until nobody asks any more. Returns in each process that is forked, ready to run its command."""
    for name in _PRELOADED.split():
        __import__(name)
    gc.freeze()  # what is imported is not collected when a command ends: that copies each page of it, 0.2 s
    libc = ctypes.CDLL(None)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # its children are nobody's to wait for
    with socket.socket(fileno=asked_fd) as asked:
        while True:
            data, fds, _, _ = socket.recv_fds(asked, _REQUEST_BYTES, 4)
            if not data:
                os._exit(0)
            if not os.fork():
                break
            for fd in fds:
                os.close(fd)
    # This one waits for the command, and tells what became of it.
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *files, said = fds
    pid = os.fork()
    if pid:
        for fd in files:
            os.close(fd)
        with contextlib.suppress(BrokenPipeError):
            os.write(said, struct.pack("q", pid))
            os.write(said, struct.pack("q", os.waitpid(pid, 0)[1]))
        os._exit(0)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(said)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in a shell's background
    for number, fd in enumerate(files):
        os.dup2(fd, number)
        os.close(fd)
    request = json.loads(data)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    sys.argv = request["args"]


def go_on() -> None:
    """Run the command, at the bottom of its process's stack."""
    from garrison.cli.main import main

    sys.exit(main())  # type: ignore[func-returns-value]
