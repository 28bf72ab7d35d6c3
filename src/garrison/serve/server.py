"""Running uvicorn: one process, or workers that share one socket (contract, "Commands").

It listens only when it is ready: the socket is bound at once, so that a taken port is told at once, and begins to
listen when the app has started. The first worker starts alone, since it may have a database to make and its failure is
told once; then come the others. Workers are forked before anything of an event loop exists, stay in the caller's
process group, and end with their parent. One that dies is replaced, ever more slowly if it keeps dying.

SIGTERM and SIGINT end it: open requests may finish for `GRACE_S`; everything has ended after 10 seconds, also where
start-up or the app hangs: a timer of the kernel's ends each process at `KILL_AFTER_S`, and the parent its workers.
Between SIGTERM and that end lies the drain (`GARRISON_DRAIN`): the server says that it is not ready and serves on,
each connection for one more request, until whoever sends the traffic has looked and sends it elsewhere. Without that, a
request can reach the socket at the moment it is closed, and nobody may repeat it unless it changes nothing.

Not here: reloading (`fastapi dev`), TLS (a proxy's), HTTP/2.
"""

import contextlib
import ctypes
import errno
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any

import uvicorn

from garrison.serve.edge import MAX_CONNECTIONS, EdgeProtocol
from garrison.serve.frameworks import guard_of
from garrison.serve.lifespan import QuietLifespan
from garrison.serve.settings import PROCESSES
from garrison.wire.answer import ASGIApp

GRACE_S = 6
KILL_AFTER_S = 9
BACKLOG = 2048
KEEP_ALIVE_S = 15
TAKEN, FAILED = 2, 1
_PR_SET_PDEATHSIG = 1
_SLOWEST_RESTART_S = 5.0
_TCP_USER_TIMEOUT_MS = 30_000
_SPARE_DESCRIPTORS = 256
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    workers: int = 1,
    ready: Callable[[], None] | None = None,
    protocol: type[EdgeProtocol] = EdgeProtocol,
    drain_s: float = 0.0,
) -> int:
    """Serve the app until told to end. Workers are forked, so it must not have been started.

    `ready` is called once, in the calling process, when the server listens. `protocol` may carry other bounds.
    `drain_s` is how long it serves on after SIGTERM, while `/health/ready` says no.
    Returns the exit code: 0 ended as told, 1 the app did not start, 2 the address cannot be had. What went wrong stands
    on stderr, in one message.
    """
    try:
        listener = _bound(host, port)
    except OSError as error:
        _tell_taken(host, port, error)
        return TAKEN
    # Inherited by the workers: N processes share the limits.
    os.environ[PROCESSES] = str(workers)
    guard = guard_of(app)
    if guard is not None:
        guard.behind_edge = True
    config = _config(app if guard is None else guard.door(app), _fitting(protocol))

    def server(ready: Callable[[], None] | None, parent: int | None = None) -> "_Server":
        return _Server(config, ready, guard, drain_s, parent)

    if workers == 1:
        return _run(server(ready), listener)
    return _Parent(server, listener, workers, ready).run()


def _config(app: ASGIApp, protocol: type[EdgeProtocol]) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http=protocol,
        ws="websockets-sansio",
        ws_max_size=1 << 20,
        ws_per_message_deflate=False,  # 64 kB a connection, and a length that tells of secrets (CRIME)
        lifespan="on",
        interface="asgi3",
        loop="uvloop",
        log_config=None,
        access_log=False,
        proxy_headers=False,  # uvicorn would believe X-Forwarded-For of every loopback peer; the guard decides
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    config.load()
    config.lifespan_class = QuietLifespan
    return config


def _bound(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # the kernel lets go of a client that takes nothing of its answer
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _TCP_USER_TIMEOUT_MS)
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _tell_taken(host: str, port: int, error: OSError) -> None:
    taken = error.errno == errno.EADDRINUSE
    reason = "is taken by another program" if taken else f"cannot be used: {error.strerror}"
    mend = "choose another with --port or PORT=" if taken else "choose another with --host and --port"
    print(f"garrison serve: {host}:{port} {reason}; {mend}.", file=sys.stderr)


def _fitting(protocol: type[EdgeProtocol]) -> type[EdgeProtocol]:
    """Raise the soft limit of open files, and bound the connections by what there is.

    Without descriptors left, accepting and the database fail, for everyone.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_CONNECTIONS
    if soft != resource.RLIM_INFINITY and soft < wanted:
        raised = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
    if soft == resource.RLIM_INFINITY or soft >= protocol.max_connections + _SPARE_DESCRIPTORS:
        return protocol
    bound = max(16, soft - _SPARE_DESCRIPTORS)
    return type("FittingEdgeProtocol", (protocol,), {"__slots__": (), "max_connections": bound})


def _run(server: "_Server", listener: socket.socket) -> int:
    server.run(sockets=[listener])
    if server.taken is not None:
        address = listener.getsockname()
        _tell_taken(address[0], address[1], server.taken)
        return TAKEN
    return 0 if server.started or server.told else FAILED


class _Server(uvicorn.Server):
    """Says when it listens, ends in time, and ends with its parent."""

    def __init__(
        self,
        config: uvicorn.Config,
        ready: Callable[[], None] | None,
        guard: Any,
        drain_s: float,
        parent: int | None,
    ) -> None:
        super().__init__(config)
        self.taken: OSError | None = None
        self.told = False
        self._ready = ready
        self._guard = guard
        self._drain_s = drain_s
        self._drained_at = 0.0
        self._parent = parent

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        try:
            await super().startup(sockets)
        except SystemExit:  # the app did not start; its lifespan has told why
            self.should_exit = True
        except OSError as error:  # bound by two at once, and the other listens first
            self.taken, self.should_exit = error, True
            await self.lifespan.shutdown()
        if self.started and self._ready is not None:
            self._ready()

    async def on_tick(self, counter: int) -> bool:
        if self._parent is not None and os.getppid() != self._parent:  # where no kernel tells (`_die_with`)
            return True
        return await super().on_tick(counter) and time.monotonic() >= self._drained_at

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Handle signals as uvicorn does, without raising them again at the end: having ended is what was asked."""
        before = {number: signal.signal(number, self.handle_exit) for number in _SIGNALS}
        try:
            yield
        finally:
            signal.alarm(0)
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.told:
            # Not a handler of ours: the kernel ends this process even where the interpreter hangs.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(KILL_AFTER_S)
            if sig == signal.SIGTERM and self.started:
                self._drain()
        if sig == signal.SIGINT:  # somebody waits for it
            self._drained_at = 0.0
        self.told = True
        super().handle_exit(sig, frame)

    def _drain(self) -> None:
        self._drained_at = time.monotonic() + self._drain_s
        EdgeProtocol.is_draining = True
        if self._guard is not None:
            self._guard.is_draining = True


class _Parent:
    """Forks workers, replaces those that die, ends them all."""

    def __init__(
        self,
        server: "Callable[[Callable[[], None], int], _Server]",
        listener: socket.socket,
        workers: int,
        ready: Callable[[], None] | None,
    ) -> None:
        self._server = server
        self._listener = listener
        self._wanted = workers
        self._ready = ready
        self._began: dict[int, float] = {}
        self._stopping = False
        self._listening = False
        self._deaths = 0
        self._next_fork = 0.0

    def run(self) -> int:
        reading, self._writing = os.pipe()
        os.set_blocking(reading, False)
        for number in _SIGNALS:
            signal.signal(number, self._stop)
        self._fork()
        while not self._stopping and not _has_byte(reading):
            code = self._reap()
            if code is not None:
                return code if code in (FAILED, TAKEN) else FAILED
            time.sleep(0.02)
        self._listening = True
        if not self._stopping and self._ready is not None:
            self._ready()
        while not self._stopping:
            self._reap()
            while not self._stopping and len(self._began) < self._wanted and time.monotonic() >= self._next_fork:
                self._fork()
            time.sleep(0.05)
        self._end()
        return 0

    def _fork(self) -> None:
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal between the fork and the worker's own handlers would be heard by the parent's copy, and lost.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._began[pid] = time.monotonic()
            return
        code = FAILED
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            _die_with(parent)
            code = _run(self._server(self._say_ready, parent), self._listener)
        except BaseException as error:
            print(f"garrison serve: a worker ended: {type(error).__name__}", file=sys.stderr)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _say_ready(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._writing, b".")

    def _reap(self) -> int | None:
        """Bury workers that have ended, and decide when the next may start; return the last exit code, None if none."""
        code: int | None = None
        for pid, began in list(self._began.items()):
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended, status = pid, 1 << 8
            if not ended:
                continue
            del self._began[pid]
            code = os.waitstatus_to_exitcode(status)
            now = time.monotonic()
            self._deaths = self._deaths + 1 if now - began < 2 * _SLOWEST_RESTART_S else 0
            self._next_fork = now + min(_SLOWEST_RESTART_S, 0.1 * 2**self._deaths if self._deaths else 0.0)
            if self._listening and not self._stopping:
                print("garrison serve: a worker ended and is replaced.", file=sys.stderr)
        return code

    def _stop(self, _number: int, _frame: object) -> None:
        self._stopping = True

    def _end(self) -> None:
        self._listener.close()
        deadline = time.monotonic() + KILL_AFTER_S
        told = 0.0
        while self._began and time.monotonic() < deadline:
            if time.monotonic() - told > 1.0:  # again and again: a worker may have been forked a moment ago
                told = time.monotonic()
                self._signal(signal.SIGTERM)
            self._reap()
            time.sleep(0.02)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        for pid in self._began:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _die_with(parent: int) -> None:
    """Let the kernel end this worker when its parent dies (Linux); elsewhere `_Server.on_tick` looks for it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died before the kernel was told
            os._exit(FAILED)


def _has_byte(descriptor: int) -> bool:
    try:
        return bool(os.read(descriptor, 1))
    except BlockingIOError:
        return False
