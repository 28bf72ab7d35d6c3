"""Nodes as they run in production: `garrison serve` processes on one PostgreSQL, behind the proxies of `deploy/`."""

import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from tests.process import forks
from tests.process.server import GARRISON, RAISED, ROOT, Server, free_port
from tests.store.postgresql import database

DEPLOY = ROOT / "deploy"
NAMES = "abcd"
LOOPBACK = "127.0.0.1"
STRANGER = "127.0.0.2"
"""Where clients call from, so that the proxy's address is nobody else's."""
APP = """
import os
from typing import Any
from fastapi import Request
from examples.tasks.app import app
from garrison import allow, public
from garrison.fastapi import Me

@app.get("/node")
@public
async def node() -> int: return os.getpid()

@app.get("/seen")
@public
async def seen(request: Request) -> dict[str, Any]:
    of = request.scope
    return {"client": of["client"][0], "scheme": of["scheme"], "path": of["raw_path"].decode(),
            "forwarded_for": request.headers.getlist("x-forwarded-for")}

@app.get("/whoami")
@allow(signed_in=True)
async def whoami(me: Me) -> str: return me.id
"""


def program(name: str) -> str:
    """Return where Debian put a program. Skips where it is not."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        pytest.skip(f"no {name} here: make system")
    return found


def certificate(directory: Path) -> Path:
    """Make a certificate for `localhost`, signed by itself, and return the file that holds it and its key."""
    key, chain, both = (directory / f"{name}.pem" for name in ("key", "chain", "certificate"))
    command = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", chain], check=True, capture_output=True)
    both.write_text(chain.read_text() + key.read_text())
    return both


def tls(directory: Path) -> ssl.SSLContext:
    """Return what a client needs to believe the certificate that was made in this directory."""
    return ssl.create_default_context(cafile=str(directory / "chain.pem"))


class Node(Server):
    """A node of several. It is called past the proxy by `direct`; `before` stands before its command."""

    before: tuple[str, ...] = ()

    def command(self) -> list[str]:
        return [*self.before, GARRISON]

    def direct(self, host: str) -> httpx2.Client:
        """Return a client that speaks to this node as the proxy does; it is closed with the node."""
        client = self.client()
        client.headers.update({"host": host, "x-forwarded-proto": "https"})
        return client

    def terminate(self) -> int:
        """SIGTERM; return the exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(12)


@dataclass
class Nodes:
    """Four nodes; more may be made. `directory` belongs to one test."""

    directory: Path
    database_url: str
    https: int = field(default_factory=free_port)
    http: int = field(default_factory=free_port)
    nodes: dict[str, Node] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.https}"

    @property
    def host(self) -> str:
        return f"localhost:{self.https}"

    def settings(self) -> dict[str, str]:
        return {
            **RAISED,
            "GARRISON_ENV": "production",
            "GARRISON_SECRET": "of these tests and of nothing else 1234567890",
            "GARRISON_ISSUER": self.url,
            "GARRISON_DATABASE_URL": self.database_url,
            "GARRISON_EMAIL_VERIFICATION": "optional",
            "GARRISON_TRUSTED_PROXIES": LOOPBACK,
            "GARRISON_DRAIN": "2s",
        }

    def make(self, name: str, environment: Mapping[str, str] | None = None) -> Node:
        """Make a node without starting it; `environment` is what it has beside the others' settings."""
        directory = self.directory / name
        directory.mkdir()
        (directory / "nodes_app.py").write_text(APP)
        node = Node(directory, app="nodes_app:app", environment={**self.settings(), **(environment or {})})
        node.port = free_port()
        self.nodes[name] = node
        return node

    def migrate(self) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("GARRISON_")}
        done = forks.run([GARRISON, "migrate"], self.directory, {**inherited, **self.settings()})
        if done.returncode:
            raise RuntimeError(done.stderr)

    def start(self, *names: str) -> None:
        """Start nodes side by side."""
        together(*(self.nodes[name].start for name in names or self.nodes))

    def stop(self) -> None:
        for node in self.nodes.values():
            if node.process is not None and node.process.poll() is None:
                node.process.terminate()
        for node in self.nodes.values():
            node.stop()

    def proxy_environment(self, pem: Path) -> dict[str, str]:
        return {
            "PROXY_HTTPS": f"{LOOPBACK}:{self.https}",
            "PROXY_HTTP": f"{LOOPBACK}:{self.http}",
            "PROXY_CERTIFICATE": str(pem),
            "PROXY_SOCKET": str(self.directory / "haproxy.sock"),
            **{f"NODE_{name.upper()}": f"{LOOPBACK}:{self.nodes[name].port}" for name in NAMES},
        }

    def client(self, pem: Path) -> httpx2.Client:
        """Return a client that comes from an address of its own, over TLS."""
        transport = httpx2.HTTPTransport(verify=tls(pem.parent), local_address=STRANGER)
        return httpx2.Client(base_url=self.url, transport=transport, timeout=20)


def together(*works: Callable[[], object]) -> None:
    """Run these side by side; the first failure is raised."""
    failures: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@contextmanager
def four_nodes(directory: Path) -> Iterator[Nodes]:
    """Start four nodes on a database of their own."""
    with ExitStack() as stack:
        nodes = Nodes(directory, stack.enter_context(database()))
        stack.callback(nodes.stop)
        nodes.migrate()
        for name in NAMES:
            nodes.make(name)
        nodes.start()
        yield nodes


@contextmanager
def haproxy(nodes: Nodes, pem: Path) -> Iterator[Path]:
    """Run HAProxy with `deploy/haproxy.cfg` as it stands; give the socket of its runtime API."""
    found = program("haproxy")
    if os.geteuid() != 0:
        pytest.skip("HAProxy changes to a user of its own, which only root can")
    environment = nodes.proxy_environment(pem)
    with running([found, "-db", "-f", str(DEPLOY / "haproxy.cfg")], nodes, environment):
        yield Path(environment["PROXY_SOCKET"])


@contextmanager
def nginx(nodes: Nodes, pem: Path) -> Iterator[None]:
    """Run nginx with `deploy/nginx.conf`, filled in as its first lines say."""
    found = program("nginx")
    environment = nodes.proxy_environment(pem)
    names = " ".join(f"${name}" for name in environment)
    text = (DEPLOY / "nginx.conf").read_text()
    filled = subprocess.run(
        [program("envsubst"), names], input=text, env=environment, text=True, check=True, capture_output=True
    ).stdout
    (nodes.directory / "nginx.conf").write_text(filled)
    directives = f"daemon off; pid {nodes.directory}/nginx.pid;"
    with running([found, "-c", str(nodes.directory / "nginx.conf"), "-g", directives], nodes, {}):
        yield


@contextmanager
def running(command: list[str], nodes: Nodes, environment: Mapping[str, str]) -> Iterator[None]:
    log = nodes.directory / "proxy.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:
        wait_until_answered(nodes, process, log)
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        if process.poll() is None:
            process.kill()
            process.wait(5)


def wait_until_answered(nodes: Nodes, process: "subprocess.Popen[bytes]", log: Path) -> None:
    end = time.monotonic() + 30
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the proxy ended: {log.read_text()[-2000:]}")
        try:
            # Over plain http the nodes redirect it: it went through the proxy to a node and back.
            if httpx2.get(f"http://localhost:{nodes.http}/node", timeout=5).status_code == 308:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise RuntimeError(f"the proxy does not answer: {log.read_text()[-2000:]}")
