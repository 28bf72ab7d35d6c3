"""Running uvicorn: one process, or workers that share one socket (contract, "Commands").

It listens only when it is ready: the socket is bound at once, so that a taken port is told at once, and begins to
listen when the first worker has started. Workers are forked before anything of an event loop exists, stay in the
caller's process group, and end with their parent. One that dies is replaced, ever more slowly if it keeps dying.
SIGTERM and SIGINT drain: open requests may finish for `GRACE_S`, and everything has ended within 10 seconds.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import uvicorn

from garrison.serve.edge import EdgeProtocol
from garrison.serve.settings import PROCESSES
from garrison.wire.answer import ASGIApp

GRACE_S = 6
KILL_AFTER_S = 8.5
BACKLOG = 2048
_PR_SET_PDEATHSIG = 1
_SLOWEST_RESTART_S = 5.0


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    workers: int = 1,
    ready: Callable[[], None] | None = None,
) -> int:
    """Serve the app until told to end; return the exit code. Workers are forked, so it must not have been started.

    `ready` is called once, in the parent, when the first worker listens.
    """
    try:
        listener = _bound(host, port)
    except OSError as error:
        reason = "is taken by another program" if error.errno == 98 else f"cannot be used: {error.strerror}"
        print(f"garrison serve: {host}:{port} {reason}; choose another with --port.", file=sys.stderr)
        return 2
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=EdgeProtocol,
        ws="websockets-sansio",
        lifespan="on",
        loop="uvloop",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=True,
        timeout_keep_alive=20,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
        ws_max_size=1 << 20,
    )
    if workers == 1:
        server = _Server(config, ready)
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
        return 0 if server.started else 1
    return _Parent(config, listener, workers, ready).run()


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    listener.set_inheritable(True)
    return listener


class _Server(uvicorn.Server):
    """Says when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self._ready is not None:
            self._ready()


class _Parent:
    """Forks workers, replaces those that die, ends them all."""

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, workers: int, ready: Callable[[], None] | None
    ) -> None:
        self._config = config
        self._listener = listener
        self._wanted = workers
        self._ready = ready
        self._workers: dict[int, float] = {}
        self._stopping = False
        self._failed = 0
        self._was_ready = False

    def run(self) -> int:
        os.environ[PROCESSES] = str(self._wanted)
        reading, self._writing = os.pipe()
        os.set_blocking(reading, False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        for _ in range(self._wanted):
            self._fork()
        while not self._stopping:
            self._reap()
            if not self._was_ready and _has_byte(reading):
                self._was_ready = True
                if self._ready is not None:
                    self._ready()
            if not self._was_ready and self._failed >= self._wanted:
                return 1
            while not self._stopping and len(self._workers) < self._wanted and self._was_ready:
                self._fork()
            time.sleep(0.05)
        self._end()
        return 0

    def _fork(self) -> None:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            self._workers[pid] = time.monotonic()
            return
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        _die_with(parent)
        server = _Server(self._config, lambda: _write_byte(self._writing))
        try:
            server.run(sockets=[self._listener])
        except (KeyboardInterrupt, SystemExit):
            pass
        except BaseException as error:
            print(f"garrison serve: a worker ended: {type(error).__name__}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(0 if server.started else 1)

    def _reap(self) -> None:
        while True:
            try:
                pid, _status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            began = self._workers.pop(pid, None)
            if began is not None and not self._stopping:
                self._failed += 1
                if self._was_ready:
                    print("garrison serve: a worker ended and is replaced.", file=sys.stderr)
                    lived = time.monotonic() - began
                    time.sleep(0.0 if lived > _SLOWEST_RESTART_S else min(_SLOWEST_RESTART_S, 0.1 * self._failed))

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _end(self) -> None:
        self._listener.close()
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + KILL_AFTER_S
        while self._workers and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.02)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for pid in list(self._workers):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _die_with(parent: int) -> None:
    """Let the kernel end this worker when its parent dies (Linux); elsewhere SIGTERM to the parent ends both."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(1)


def _write_byte(descriptor: int) -> None:
    with contextlib.suppress(OSError):
        os.write(descriptor, b".")


def _has_byte(descriptor: int) -> bool:
    try:
        return bool(os.read(descriptor, 1))
    except BlockingIOError:
        return False
