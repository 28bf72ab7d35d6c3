"""The proxies' files of `deploy/` as they stand: a session goes round all nodes, and what clients say of themselves is
no matter."""

import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path

import httpx2
import pytest

from tests.deploy.nodes import LOOPBACK, STRANGER, Nodes, haproxy, nginx, tls
from tests.process.server import PASSWORD, sign_in, sign_up

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module", params=["haproxy", "nginx"])
def client(request: pytest.FixtureRequest, nodes: Nodes, pem: Path) -> Iterator[httpx2.Client]:
    with {"haproxy": haproxy, "nginx": nginx}[request.param](nodes, pem), nodes.client(pem) as client:
        yield client


def test_requests_of_one_connection_go_round_the_nodes(client: httpx2.Client) -> None:
    met, end = set[int](), time.monotonic() + 20
    while len(met) < 4:  # at start, the proxy may take a slow node to be down for a while
        assert time.monotonic() < end, met
        met.add(client.get("/node").json())


@pytest.mark.parametrize("deliver", ["cookie", "token"])
def test_a_session_lives_on_every_node_from_its_first_request_to_its_last(
    client: httpx2.Client, nodes: Nodes, deliver: str, request: pytest.FixtureRequest
) -> None:
    email = f"{abs(hash(request.node.name)):x}@example.com"
    sign_up(client, email)
    shown = sign_in(client, email, deliver=deliver)
    client.cookies.clear()
    if deliver == "cookie":
        cookie = shown.headers["set-cookie"].partition(";")[0]
        assert cookie.startswith("__Host-garrison=")
        headers = {"cookie": cookie, "origin": nodes.url}
    else:
        headers = {"authorization": f"Bearer {shown.json()['access_token']}"}

    def call(method: str, path: str, status: int, body: object = None) -> httpx2.Response:
        answer = client.request(method, path, headers=headers, json=body)
        assert answer.status_code == status, (method, path, answer.status_code, answer.text)
        client.cookies.clear()
        return answer

    for _ in range(2):
        made = call("POST", "/tasks", 201, {"title": "Buy milk"}).json()
        for _ in range(4):
            assert call("GET", f"/tasks/{made['id']}", 200).json() == made
        assert call("PATCH", f"/tasks/{made['id']}", 200, {"done": True}).json()["done"]
        assert call("GET", "/tasks", 200).json() == [{**made, "done": True}]
        call("DELETE", f"/tasks/{made['id']}", 204)
        call("GET", f"/tasks/{made['id']}", 404)
    if deliver == "token":
        before, tokens = headers, shown.json()
        for _ in range(5):  # each by another node than the one before
            answer = client.post("/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
            assert answer.status_code == 200, answer.text
            tokens = answer.json()
            headers = {"authorization": f"Bearer {tokens['access_token']}"}
            assert call("GET", "/whoami", 200).json().startswith("acc_")
        assert before != headers
    call("POST", "/auth/sign-out", 204)


def test_what_a_client_says_of_itself_is_replaced(client: httpx2.Client) -> None:
    lies = {
        "x-forwarded-for": f"192.0.2.7, {LOOPBACK}",
        "forwarded": f"for=192.0.2.8;proto=http, for={LOOPBACK}",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "evil.example",
        "x-real-ip": "192.0.2.9",
        "x-request-id": "chosen-by-a-stranger",
        "x-forwarded-user": "acc_admin",
        "x-user-id": "acc_admin",
        "remote-user": "acc_admin",
    }
    for name, value in [*lies.items(), ("forwarded", '";broken'), ("x-forwarded-for", ",,")]:
        for _ in range(4):
            answer = client.get("/seen", headers={name: value})
            assert answer.status_code == 200, (name, answer.text)
            assert (answer.json()["client"], answer.json()["scheme"]) == (STRANGER, "https"), name
            assert answer.headers["x-request-id"] != value
    for _ in range(4):
        assert client.get("/whoami", headers=lies).status_code == 401
        seen = client.get("/seen", headers=lies).json()
        assert seen["client"] == STRANGER
        assert seen["forwarded_for"] == [STRANGER], "replaced, and not added to"


@pytest.mark.parametrize(
    "path", ["/seen", "/se%65n", "/tasks/..%2fseen", "//seen", "/a/../seen", "/seen/.", "/%2e/seen", "/seen?a=%2f&b"]
)
def test_the_nodes_decide_by_the_path_that_the_client_wrote(client: httpx2.Client, nodes: Nodes, path: str) -> None:
    by_node = ask(HTTPConnection(LOOPBACK, nodes.nodes["a"].port, timeout=10), nodes, path)
    by_proxy = ask(HTTPSConnection("localhost", nodes.https, timeout=10, context=tls(nodes.directory)), nodes, path)
    assert by_proxy[0] == by_node[0]
    assert by_proxy[1].get("path") == by_node[1].get("path")
    assert (by_node[0] == 200) == (path in ("/seen", "/se%65n", "/seen?a=%2f&b"))


def ask(connection: HTTPConnection, nodes: Nodes, target: str) -> tuple[int, dict[str, str]]:
    """Ask by a client that sends the target as it stands, which others tidy up."""
    headers = {"host": nodes.host, "x-forwarded-proto": "https"}
    try:
        connection.request("GET", target, headers=headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"{}")
    finally:
        connection.close()


def test_plain_http_is_redirected_when_bare_and_refused_with_a_credential(client: httpx2.Client, nodes: Nodes) -> None:
    bare = httpx2.get(f"http://localhost:{nodes.http}/seen")
    assert (bare.status_code, bare.headers["location"]) == (308, f"{nodes.url}/seen")
    token = {"authorization": "Bearer x", "x-forwarded-proto": "https"}
    assert httpx2.get(f"http://localhost:{nodes.http}/seen", headers=token).json()["code"] == "https_required"
    body = {"email": "ada@example.com", "password": PASSWORD}
    answer = httpx2.post(f"http://localhost:{nodes.http}/auth/sign-in", json=body)
    assert answer.json()["code"] == "https_required"


def test_health_is_not_for_the_outside(client: httpx2.Client, nodes: Nodes) -> None:
    assert client.get("/health/ready").status_code == 404
    direct = httpx2.get(f"http://{LOOPBACK}:{nodes.nodes['a'].port}/health/ready")
    assert direct.status_code == 200
    assert direct.json()["parts"]["serving"]
