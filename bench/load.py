"""The load: one process that keeps N connections busy, one request at a time on each, and counts what comes back.

Own code rather than `wrk`: nothing to install, every answer's status is seen, latency is kept by status (a storm of
sign-ins is 200s and 503s in one), and the server's CPU time is read at the very edges of the timed window. On epoll and
raw sockets it costs about 12 µs a request, so that the server is the limit; its share of its core is reported.

    parent ── one JSON line a job ──▶ `python -m bench.load` ── one JSON line of figures ──▶ parent

A closed loop never sleeps, it asks the kernel again and again: waking a sleeper costs the *server* up to 7 µs a
request, and the faster it answers the less often, which would count against whatever is slower.

No pipelining, keep-alive always. A connection that the server closes is counted and opened again.
"""

import heapq
import json
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_WARM_UP_S = 0.08
_LENGTH = b"content-length: "


@dataclass(frozen=True, slots=True)
class Job:
    """What to do: `request` is the whole request as latin-1 text; `pid` is the process whose CPU time counts."""

    port: int
    request: str
    pid: int
    seconds: float = 1.0
    connections: int = 32
    interval_s: float = 0.0
    """Time from one request to the next on a connection; 0: as soon as the answer is there."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of it. Times of one status are under its number: seconds, median and 99th percentile."""

    count: int
    seconds: float
    server_cpu_s: float
    load_cpu_s: float
    statuses: dict[str, int] = field(default_factory=dict)
    median_s: dict[str, float] = field(default_factory=dict)
    p99_s: dict[str, float] = field(default_factory=dict)
    closed: int = 0

    @property
    def per_second(self) -> float:
        """Requests a second."""
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        """Microseconds of the server's CPU, all threads, user and system, a request."""
        return self.server_cpu_s / max(1, self.count) * 1e6


def cpu_clock(pid: int) -> int:
    """Return the id of a process's CPU clock, nanoseconds where /proc/PID/stat has ticks (clock_getcpuclockid(3))."""
    return (~pid << 3) | 2


def drive(job: Job) -> Figures:
    """Keep the connections busy for the warm-up and then `job.seconds`, and return the figures of the latter."""
    return _Driver(job).run()


class _Driver:
    def __init__(self, job: Job) -> None:
        self._job = job
        self._request = job.request.encode("latin-1")
        self._epoll = select.epoll()
        self._sockets: dict[int, socket.socket] = {}
        self._began: dict[int, int] = {}
        self._partial: dict[int, bytes] = {}
        self._due: list[tuple[int, int]] = []
        self._times: dict[bytes, list[int]] = {}
        self._closed = 0

    def run(self) -> Figures:
        for _ in range(self._job.connections):
            self._open()
        try:
            self._until(time.perf_counter_ns() + int(_WARM_UP_S * 1e9))
            self._times, self._closed = {}, 0
            clock = cpu_clock(self._job.pid)
            began, server, own = time.perf_counter_ns(), time.clock_gettime_ns(clock), time.process_time_ns()
            self._until(began + int(self._job.seconds * 1e9))
            ended, server_end, own_end = time.perf_counter_ns(), time.clock_gettime_ns(clock), time.process_time_ns()
        finally:
            for one in self._sockets.values():
                one.close()
            self._epoll.close()
        times = {status.decode("latin-1"): sorted(found) for status, found in self._times.items()}
        return Figures(
            count=sum(map(len, times.values())),
            seconds=(ended - began) / 1e9,
            server_cpu_s=(server_end - server) / 1e9,
            load_cpu_s=(own_end - own) / 1e9,
            statuses={status: len(found) for status, found in times.items()},
            median_s={status: statistics.median(found) / 1e9 for status, found in times.items()},
            p99_s={status: found[min(len(found) - 1, len(found) * 99 // 100)] / 1e9 for status, found in times.items()},
            closed=self._closed,
        )

    def _open(self) -> None:
        one = socket.create_connection(("127.0.0.1", self._job.port), timeout=10)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.setblocking(False)
        number = one.fileno()
        self._sockets[number] = one
        self._partial[number] = b""
        self._epoll.register(number, select.EPOLLIN)
        self._send(number)

    def _send(self, number: int) -> None:
        self._began[number] = time.perf_counter_ns()
        self._sockets[number].send(self._request)

    def _until(self, end: int) -> None:
        interval = int(self._job.interval_s * 1e9)
        now = time.perf_counter_ns()
        while now < end:
            wake = min(end, self._due[0][0]) if self._due else end
            for number, _ in self._epoll.poll(max(0, wake - now) / 1e9 if interval else 0):
                if not self._answered(number):
                    continue
                due = self._began[number] + interval
                if interval and due > time.perf_counter_ns():
                    heapq.heappush(self._due, (due, number))
                else:
                    self._send(number)
            now = time.perf_counter_ns()
            while self._due and self._due[0][0] <= now:
                self._send(heapq.heappop(self._due)[1])

    def _answered(self, number: int) -> bool:
        """Read what is there and say whether the answer is complete."""
        try:
            data = self._sockets[number].recv(65_536)
        except ConnectionError:
            data = b""
        if not data:
            self._reopen(number)
            return False
        if self._partial[number]:
            data = self._partial[number] + data
        head = data.find(b"\r\n\r\n")
        found = data.find(_LENGTH, 0, head)
        length = int(data[found + 16 : data.find(b"\r", found)]) if found > 0 else 0
        if head < 0 or len(data) < head + 4 + length:
            self._partial[number] = data
            return False
        self._partial[number] = b""
        self._times.setdefault(data[9:12], []).append(time.perf_counter_ns() - self._began[number])
        return True

    def _reopen(self, number: int) -> None:
        self._closed += 1
        self._epoll.unregister(number)
        self._sockets.pop(number).close()
        self._open()


class Load:
    """The load process, pinned to a core; used as a context manager."""

    def __init__(self, core: int | None = None) -> None:
        self._core = core

    def __enter__(self) -> "Load":
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._core is not None:
            os.sched_setaffinity(self._process.pid, {self._core})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def start(self, job: Job) -> None:
        """Begin; `result` waits for the end."""
        if self._process.stdin is None:
            raise RuntimeError("the load process has no input")
        self._process.stdin.write(json.dumps(asdict(job)) + "\n")
        self._process.stdin.flush()

    def result(self) -> Figures:
        """Wait for what was started."""
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise RuntimeError("the load process ended")
        return Figures(**json.loads(line))

    def run(self, job: Job) -> Figures:
        """Do a job and return its figures."""
        self.start(job)
        return self.result()


def request(
    path: str, *, method: str = "GET", headers: dict[str, str] | None = None, body: dict[str, Any] | None = None
) -> str:
    """Return a whole request as text, with the headers that a plain HTTP client sends besides the given ones."""
    content = json.dumps(body) if body is not None else ""
    lines = [f"{method} {path} HTTP/1.1", "host: 127.0.0.1", "accept: */*", "accept-encoding: gzip, deflate"]
    lines += ["user-agent: bench/1.0", *(f"{name}: {value}" for name, value in (headers or {}).items())]
    if body is not None:
        lines += ["content-type: application/json", f"content-length: {len(content.encode())}"]
    return "\r\n".join((*lines, "", content))


def _serve_jobs() -> None:
    for line in sys.stdin:
        print(json.dumps(asdict(drive(Job(**json.loads(line))))), flush=True)


if __name__ == "__main__":
    _serve_jobs()
