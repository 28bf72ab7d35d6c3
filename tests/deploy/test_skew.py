"""T16: nodes whose clocks differ agree all the same, by the store's time; one that is far off is sent no requests."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.deploy.nodes import Node, Nodes, together
from tests.process.server import sign_in, sign_up

pytestmark = pytest.mark.alone
BOUND_S = 2.0


def faked() -> dict[str, str]:
    """Return the environment of a process whose wall clock is what `FAKETIME` says."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not libraries:
        pytest.skip("no libfaketime here: make system")
    return {"LD_PRELOAD": str(libraries[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@pytest.fixture(scope="module")
def off(nodes: Nodes) -> Iterator[dict[int, Node]]:
    """Seconds by which its clock is ahead → the node."""

    def node(ahead_s: int) -> Node:
        return nodes.make(f"ahead{ahead_s}", {**faked(), "FAKETIME": f"{ahead_s:+}s"})

    made = {ahead_s: node(ahead_s) for ahead_s in (30, -30, 90)}
    try:
        together(made[30].start, made[-30].start, made[90].spawn)
        yield made
    finally:
        together(*(one.stop for one in made.values()))
        for ahead_s in made:
            del nodes.nodes[f"ahead{ahead_s}"]


def test_nodes_half_a_minute_off_each_way_share_sessions_tokens_and_revocations(
    nodes: Nodes, off: dict[int, Node]
) -> None:
    everyone = [node.direct(nodes.host) for node in (nodes.nodes["a"], off[30], off[-30])]
    for made_by in everyone:
        email = f"clock{everyone.index(made_by)}@example.com"
        sign_up(made_by, email)
        tokens = sign_in(made_by, email, deliver="token").json()
        issued_at = claims(tokens["access_token"])["iat"]
        assert abs(issued_at - time.time()) < 15, "it is issued by the store's time"
        for client in everyone * 2:
            assert whoami(client, tokens).status_code == 200
            answer = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
            assert answer.status_code == 200, answer.text
            tokens = answer.json()
        cookie = sign_in(made_by, email).headers["set-cookie"].partition(";")[0]
        made_by.cookies.clear()
        for client in everyone:
            assert client.get("/whoami", headers={"cookie": cookie}).status_code == 200
        assert made_by.post("/auth/sign-out", headers=bearer(tokens)).status_code == 204
        began = time.monotonic()
        for client in everyone:
            while whoami(client, tokens).status_code == 200:
                assert time.monotonic() - began < BOUND_S
        for client in everyone:
            assert whoami(client, tokens).status_code == 401


def test_a_node_a_minute_and_a_half_off_is_not_ready_and_says_why(off: dict[int, Node]) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            answer = httpx2.get(f"http://127.0.0.1:{off[90].port}/health/ready", timeout=10)
            break
        except httpx2.TransportError:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert answer.status_code == 503
    parts = answer.json()["parts"]
    assert parts == {**dict.fromkeys(parts, True), "clock": False}
    for ahead_s in (30, -30):
        assert httpx2.get(f"http://127.0.0.1:{off[ahead_s].port}/health/ready").json()["parts"]["clock"]


def test_a_node_whose_clock_jumps_goes_on_by_the_stores_time_and_is_not_ready(nodes: Nodes, tmp_path: Path) -> None:
    """An hour on, and two back: nothing expires, nothing is issued in the future, nothing that ended comes back."""
    jump = tmp_path / "jump"
    jump.write_text("+0")
    file = {"FAKETIME_TIMESTAMP_FILE": str(jump), "FAKETIME_CACHE_DURATION": "1"}
    jumping = nodes.make("jumps", {**faked(), **file})
    with jumping:
        here, there = jumping.direct(nodes.host), nodes.nodes["b"].direct(nodes.host)
        sign_up(here, "jumps@example.com")
        kept = sign_in(here, "jumps@example.com", deliver="token").json()
        ended = sign_in(here, "jumps@example.com", deliver="token").json()
        assert here.post("/auth/sign-out", headers=bearer(ended)).status_code == 204
        for to, is_right in (("+3600", False), ("-3600", False), ("+0", True)):
            jump.write_text(to)
            clock_becomes(jumping, is_right)
            for first, second in ((here, there), (there, here)):
                made = sign_in(first, "jumps@example.com", deliver="token").json()
                assert abs(claims(made["access_token"])["iat"] - time.time()) < 15
                assert [whoami(client, made).status_code for client in (first, second)] == [200, 200]
                kept = second.post("/auth/refresh", json={"refresh_token": kept["refresh_token"]}).json()
                assert [whoami(client, kept).status_code for client in (first, second)] == [200, 200]
                assert [whoami(client, ended).status_code for client in (first, second)] == [401, 401]
    del nodes.nodes["jumps"]


def clock_becomes(node: Node, is_right: bool) -> None:
    end = time.monotonic() + 15
    while httpx2.get(f"http://127.0.0.1:{node.port}/health/ready", timeout=10).json()["parts"]["clock"] != is_right:
        assert time.monotonic() < end
        time.sleep(0.05)


def bearer(tokens: dict[str, str]) -> dict[str, str]:
    return {"authorization": f"Bearer {tokens['access_token']}"}


def whoami(client: httpx2.Client, tokens: dict[str, str]) -> httpx2.Response:
    return client.get("/whoami", headers=bearer(tokens))


def claims(token: str) -> dict[str, int]:
    """Read the claims without verifying them."""
    part = token.split(".")[1]
    found: dict[str, int] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found
