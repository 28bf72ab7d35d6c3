"""A real server process for tests: `garrison serve` over TCP in a directory of its own."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import httpx2

from tests.ports import free_port as free_port
from tests.process import forks
from tests.process.forks import GARRISON as GARRISON
from tests.process.forks import ROOT as ROOT
from tests.stores import REDIS, STORE, store_url

PLENTY = "100000000/minute"
RAISED = {
    f"GARRISON_LIMIT_{name}": PLENTY for name in ("ADDRESS", "API", "SIGN_IN", "SIGN_IN_ADDRESS", "SIGN_UP", "REFRESH")
}
"""Limits raised, layers in place."""
PASSWORD = "a long walk to the sea"


@dataclass
class Server:
    """One running `garrison serve`. Used as a context manager; ends only the process it started."""

    directory: Path
    app: str | None = "examples.tasks.app:app"
    workers: int = 1
    environment: Mapping[str, str] = field(default_factory=lambda: RAISED)
    port: int = 0
    process: forks.Process | None = None
    log: Path = field(init=False)
    clients: list[httpx2.Client] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.log = self.directory / "server.log"
        chosen = {}
        if STORE != "sqlite" and "GARRISON_DATABASE_URL" not in self.environment:
            chosen["GARRISON_DATABASE_URL"] = store_url(self.directory / "garrison.db")
        if REDIS and "GARRISON_REDIS_URL" not in self.environment:
            chosen["GARRISON_REDIS_URL"] = REDIS
        if chosen:  # in a file, so that commands in this directory mean the same
            with (self.directory / ".env").open("a") as file:
                file.writelines(f"\n{name}={value}\n" for name, value in chosen.items())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return what `garrison` is called by."""
        return [GARRISON]

    def start(self) -> "Server":
        self.spawn()
        try:
            self.wait_ready()
        except RuntimeError:  # nobody leaves the context that was not entered
            self.kill()
            raise
        return self

    def spawn(self) -> None:
        """Start the process, and wait for nothing."""
        if not self.port:
            self.port = free_port()
        arguments = [*self.command(), "serve", "--port", str(self.port), "--workers", str(self.workers)]
        arguments += [self.app] if self.app else []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GARRISON_")}
        environment = {**inherited, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}", **self.environment}
        with self.log.open("ab") as log, open(os.devnull, "rb") as nothing:
            files = {"stdin": nothing.fileno(), "stdout": log.fileno(), "stderr": log.fileno()}
            self.process = forks.start(arguments, self.directory, environment, **files)

    def wait_ready(self, deadline_s: float = 60.0) -> None:
        end = time.monotonic() + deadline_s
        while time.monotonic() < end:
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"the server ended: {self.log.read_text()[-2000:]}")
            try:
                if httpx2.get(f"{self.url}/health/ready", timeout=2).status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.02)
        raise RuntimeError(f"the server is not ready after {deadline_s} s: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """End the server and its workers at once, as a power cut would (kill -9)."""
        assert self.process is not None
        for pid in (*children(self.process.pid), self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait(10)

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.kill()
                raise

    def client(self) -> httpx2.Client:
        """Return a new client, which is closed with the server."""
        made = httpx2.Client(base_url=self.url, timeout=20)
        self.clients.append(made)
        return made

    def __enter__(self) -> "Server":
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextmanager
def serving(directory: Path, **options: object) -> Iterator[Server]:
    with Server(directory, **options) as server:  # type: ignore[arg-type]
        yield server


def children(pid: int) -> list[int]:
    """Return the process's descendants, deepest first."""
    found: list[int] = []
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            text = status.read_text()
        except OSError:
            continue
        parent = re.search(r"^PPid:\s+(\d+)$", text, re.MULTILINE)
        if parent and int(parent[1]) == pid:
            child = int(status.parent.name)
            found.extend((*children(child), child))
    return found


def sign_up(client: httpx2.Client, email: str, password: str = PASSWORD) -> None:
    answer = client.post("/auth/sign-up", json={"email": email, "password": password})
    assert answer.status_code == 202, answer.text


def sign_in(client: httpx2.Client, email: str, password: str = PASSWORD, deliver: str = "cookie") -> httpx2.Response:
    answer = client.post("/auth/sign-in", json={"email": email, "password": password, "deliver": deliver})
    assert answer.status_code == 200, answer.text
    return answer


def person(server: Server, name: str) -> httpx2.Client:
    """Return a client signed in by cookie as a new account."""
    client = server.client()
    sign_up(client, f"{name}@example.com")
    sign_in(client, f"{name}@example.com")
    return client
