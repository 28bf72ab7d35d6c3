"""Two people over TCP: every cross-read and cross-write is the same 404 as an unknown id, byte for byte but the id.

Row by row what the example's routes demand, asked by every kind of principal with every kind of credential.
"""

import subprocess
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.process.server import GARRISON, ROOT, Server, person, sign_in, sign_up

UNKNOWN = "00000000-0000-4000-8000-000000000000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("two-people")) as server:
        yield server


def make_task(client: httpx2.Client, title: str = "a task") -> str:
    answer = client.post("/tasks", json={"title": title})
    assert answer.status_code == 201, answer.text
    assert answer.json()["title"] == title
    assert answer.json()["done"] is False
    return str(answer.json()["id"])


def shown(answer: httpx2.Response) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Everything of an answer that could tell one case from another; request ids and dates differ by nature."""
    body = dict(answer.json())
    body.pop("request_id")
    headers = {name: value for name, value in answer.headers.items() if name not in ("x-request-id", "date")}
    return answer.status_code, body, {k: v for k, v in headers.items() if not k.startswith("ratelimit")}


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("GET", None),
        ("HEAD", None),
        ("DELETE", None),
        ("PATCH", {"title": "mine now"}),
        ("PATCH", {"done": True}),
        ("PATCH", {"owner": "me"}),
        ("PATCH", {"title": "x", "done": False}),
    ],
)
def test_a_foreign_task_is_the_same_404_as_an_unknown_one(server: Server, method: str, body: Any) -> None:
    name = f"{method.lower()}-{'-'.join(body or {})}".rstrip("-")
    ada, bob = person(server, f"ada-{name}"), person(server, f"bob-{name}")
    task = make_task(ada, "secret of ada")
    foreign, unknown = (bob.request(method, f"/tasks/{id}", json=body) for id in (task, UNKNOWN))
    unreadable = bob.request(method, "/tasks/not-an-id", json=body)
    if method == "HEAD":
        assert foreign.status_code == unknown.status_code == unreadable.status_code
        assert foreign.status_code in (404, 405)
    else:
        assert shown(foreign) == shown(unknown) == shown(unreadable)
        assert foreign.status_code == 404
    assert b"secret of ada" not in foreign.content
    own = ada.get(f"/tasks/{task}")
    assert own.status_code == 200
    assert own.json() == {"id": task, "title": "secret of ada", "done": False}


def test_lists_hold_ones_own_tasks_only(server: Server) -> None:
    ada, bob = person(server, "ada-lists"), person(server, "bob-lists")
    own = {make_task(ada, f"ada {number}") for number in range(3)}
    other = make_task(bob, "bob's")
    assert {task["id"] for task in ada.get("/tasks").json()} == own
    assert {task["id"] for task in bob.get("/tasks").json()} == {other}


def test_mass_assignment_is_refused_on_every_write(server: Server) -> None:
    ada = person(server, "ada-mass")
    extra = {
        "role": "admin",
        "roles": ["admin"],
        "owner": "acc_x",
        "id": UNKNOWN,
        "user_id": "x",
        "userId": "x",
        "org_id": "x",
        "sub": "x",
    }
    task = make_task(ada)
    for name, value in extra.items():
        body = {
            "email": f"{name.lower().replace('_', '')}@example.com",
            "password": "a long walk to the sea",
            name: value,
        }
        assert ada.post("/auth/sign-up", json=body).status_code == 400
        assert ada.post("/auth/sign-in", json=body).status_code == 400
        assert ada.post("/tasks", json={"title": "x", name: value}).status_code == 400
        assert ada.patch(f"/tasks/{task}", json={name: value}).status_code == 400
        change = {"current": "a long walk to the sea", "new": "another long walk", name: value}
        assert ada.post("/auth/password/change", json=change).status_code == 400
    assert ada.get("/auth/session").json()["account"]["roles"] == ["member"]


# Who may: every route of the example × every kind of caller

ROUTES = {
    ("GET", "/"): {"anonymous": 200, "member": 200, "admin": 200, "stale": 200, "dead": 401},
    ("GET", "/test"): {"anonymous": 200, "member": 200, "admin": 200, "stale": 200, "dead": 401},
    ("GET", "/test-auth"): {"anonymous": 401, "member": 200, "admin": 200, "stale": 401, "dead": 401},
    ("GET", "/tasks"): {"anonymous": 401, "member": 200, "admin": 200, "stale": 401, "dead": 401},
    ("POST", "/tasks"): {"anonymous": 401, "member": 201, "admin": 201, "stale": 401, "dead": 401},
    ("GET", "/tasks/{id}"): {"anonymous": 401, "member": 404, "admin": 404, "stale": 401, "dead": 401},
    ("PATCH", "/tasks/{id}"): {"anonymous": 401, "member": 404, "admin": 404, "stale": 401, "dead": 401},
    ("DELETE", "/tasks/{id}"): {"anonymous": 401, "member": 404, "admin": 404, "stale": 401, "dead": 401},
    ("GET", "/reports/tasks"): {"anonymous": 401, "member": 403, "admin": 200, "stale": 401, "dead": 401},
    ("GET", "/auth/session"): {"anonymous": 401, "member": 200, "admin": 200, "stale": 401, "dead": 401},
    ("GET", "/auth/sessions"): {"anonymous": 401, "member": 200, "admin": 200, "stale": 401, "dead": 401},
    ("DELETE", "/auth/sessions/{id}"): {"anonymous": 401, "member": 404, "admin": 404, "stale": 401, "dead": 401},
    ("POST", "/auth/sign-up"): {"anonymous": 400, "member": 400, "admin": 400, "stale": 400, "dead": 401},
    ("POST", "/auth/sign-in"): {"anonymous": 400, "member": 400, "admin": 400, "stale": 400, "dead": 401},
    ("POST", "/auth/password/change"): {"anonymous": 401, "member": 400, "admin": 400, "stale": 401, "dead": 401},
    ("GET", "/auth/openapi.json"): {"anonymous": 200, "member": 200, "admin": 200, "stale": 200, "dead": 401},
    ("GET", "/openapi.json"): {"anonymous": 200, "member": 200, "admin": 200, "stale": 200, "dead": 401},
    ("GET", "/health/live"): {"anonymous": 200, "member": 200, "admin": 200, "stale": 200, "dead": 200},
    ("GET", "/nothing-here"): {"anonymous": 404, "member": 404, "admin": 404, "stale": 404, "dead": 404},
    ("PUT", "/test"): {"anonymous": 405, "member": 405, "admin": 405, "stale": 405, "dead": 405},
}


@pytest.fixture(scope="module")
def callers(server: Server) -> dict[str, list[httpx2.Client]]:
    """Kind of caller → clients, by cookie and by token where there are both."""
    found: dict[str, list[httpx2.Client]] = {"anonymous": [server.client()]}
    for kind in ("member", "admin"):
        by_cookie, by_token = person(server, f"{kind}-matrix"), server.client()
        token = sign_in(by_token, f"{kind}-matrix@example.com", deliver="token").json()["access_token"]
        by_token.headers["authorization"] = f"Bearer {token}"
        found[kind] = [by_cookie, by_token]
    subprocess.run(
        [GARRISON, "account", "set-role", "admin-matrix@example.com", "admin"],
        cwd=server.directory,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    stale = person(server, "stale-matrix")
    cookie = dict(stale.cookies)
    assert stale.post("/auth/sign-out").status_code == 204
    again = server.client()
    again.cookies.update(cookie)
    found["stale"] = [again]
    found["dead"] = []
    for value in ("Bearer grs_" + "A" * 43, "Bearer x", "Basic YTpi", "Bearer", "Digest x", "Bearer a.b.c"):
        dead = server.client()
        dead.headers["authorization"] = value
        found["dead"].append(dead)
    return found


def wait_for_admin(client: httpx2.Client) -> None:
    """A command's write is seen within the revocation bound."""
    for _ in range(200):
        if "admin" in client.get("/auth/session").json()["account"]["roles"]:
            return
    raise AssertionError("the running server never saw the role")


@pytest.mark.parametrize("caller", ["anonymous", "member", "admin", "stale", "dead"])
def test_every_route_by_every_kind_of_caller(
    server: Server, callers: dict[str, list[httpx2.Client]], caller: str
) -> None:
    if caller == "admin":
        for client in callers["admin"]:
            wait_for_admin(client)
    wrong = []
    for (method, path), expected in ROUTES.items():
        body = {"title": "x"} if path.startswith("/tasks") and method in ("POST", "PATCH") else None
        if path.startswith("/auth/") and method == "POST":
            body = {}
        for client in callers[caller]:
            answer = client.request(method, path.replace("{id}", UNKNOWN), json=body)
            if answer.status_code != expected[caller]:
                wrong.append((caller, method, path, expected[caller], answer.status_code, answer.text[:200]))
            if answer.status_code == 401:
                assert answer.headers["www-authenticate"].startswith("Bearer"), (method, path)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json", (method, path, answer.text)
                assert set(answer.json()) >= {"type", "title", "status", "code", "request_id"}
    assert not wrong, wrong


def test_a_stale_cookie_never_locks_a_browser_out(server: Server) -> None:
    client = person(server, "stale-entry")
    cookie = client.cookies["garrison"]
    assert client.post("/auth/sign-out-everywhere").status_code == 204
    stale = server.client()
    stale.cookies.set("garrison", cookie, domain="127.0.0.1")
    assert stale.get("/auth/session").status_code == 401
    assert stale.get("/test").status_code == 200
    sign_up(stale, "stale-entry-2@example.com")
    assert stale.post("/auth/sign-out").status_code == 204
    stale.cookies.set("garrison", cookie, domain="127.0.0.1")
    sign_in(stale, "stale-entry@example.com")
    assert stale.get("/auth/session").status_code == 200


def test_two_credentials_are_400_and_a_cookie_beside_an_explicit_one_is_ignored(server: Server) -> None:
    ada, bob = person(server, "ada-two"), person(server, "bob-two")
    token = sign_in(server.client(), "bob-two@example.com", deliver="token").json()["access_token"]
    both = ada.get("/auth/session", headers={"authorization": f"Bearer {token}"})
    assert both.json()["account"]["email"] == "bob-two@example.com"
    dead = ada.get("/auth/session", headers={"authorization": "Bearer grs_" + "A" * 43})
    assert dead.status_code == 401
    two = ada.get("/auth/session", headers={"authorization": f"Bearer {token}", "x-api-key": "x"})
    assert (two.status_code, two.json()["code"]) == (400, "two_credentials")
    bob.close()
