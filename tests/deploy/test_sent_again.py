"""What was sent to a node and got no answer is sent to another one only if it changes nothing (RFC 9110 section 9.2.2).

The nodes here are stand-ins that count what reaches them; two of four take a request and close without a word.
"""

import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest

from tests.deploy.nodes import LOOPBACK, NAMES, Node, Nodes, certificate, haproxy, nginx

TIMES = 12


class StandIn(ThreadingHTTPServer):
    """A node that counts. `is_mute`: it closes in place of an answer, unless asked how it is."""

    def __init__(self, *, is_mute: bool) -> None:
        super().__init__((LOOPBACK, 0), Counting)
        self.is_mute = is_mute
        self.taken: list[str] = []


class Counting(BaseHTTPRequestHandler):
    server: StandIn

    def answer(self) -> None:
        if self.path.startswith("/health/"):
            self.say(200)
        elif self.headers.get("x-forwarded-proto") == "http":
            self.say(308)
        else:
            self.server.taken.append(self.command)
            if not self.server.is_mute:
                self.rfile.read(int(self.headers.get("content-length", "0")))
                self.say(200)
            self.close_connection = True

    do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = answer

    def say(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def stand_ins() -> Iterator[list[StandIn]]:
    made = [StandIn(is_mute=number % 2 == 0) for number in range(len(NAMES))]
    for one in made:
        threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield made
    for one in made:
        one.shutdown()
        one.server_close()


@pytest.fixture(params=["haproxy", "nginx"])
def client(request: pytest.FixtureRequest, stand_ins: list[StandIn], tmp_path: Path) -> Iterator[httpx2.Client]:
    nodes = Nodes(tmp_path, "")
    for name, one in zip(NAMES, stand_ins, strict=True):
        nodes.nodes[name] = Node(tmp_path, port=one.server_address[1])
    pem = certificate(tmp_path)
    with {"haproxy": haproxy, "nginx": nginx}[request.param](nodes, pem), nodes.client(pem) as client:
        yield client


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_may_have_been_carried_out_is_not_sent_again(
    client: httpx2.Client, stand_ins: list[StandIn], method: str
) -> None:
    for _ in range(TIMES):
        with suppress(httpx2.RemoteProtocolError):
            assert client.request(method, "/tasks", json={"title": "Buy milk"}).status_code in (200, 502)
    assert sum(one.taken.count(method) for one in stand_ins) == TIMES
    assert any(one.taken for one in stand_ins if one.is_mute), "the mute ones were not asked: this shows nothing"


def test_what_changes_nothing_is_answered_by_another_node(client: httpx2.Client, stand_ins: list[StandIn]) -> None:
    for _ in range(TIMES):
        assert client.get("/tasks").status_code == 200
    assert any(one.taken for one in stand_ins if one.is_mute), "the mute ones were not asked: this shows nothing"
