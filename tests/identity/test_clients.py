"""`/auth/clients`: for administrators who proved lately who they are, and nobody else."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.identity.test_oauth_assertions import Signing, jwks
from tests.identity.test_oauth_authorize import end_elsewhere
from tests.identity.test_oauth_token import AUDIENCE, Api

ADMIN, MEMBER, PASSWORD = "ada@example.com", "bob@example.com", "a long walk to the sea"
NEW = {"name": "reports", "grants": ["client_credentials"], "audiences": [AUDIENCE], "scopes": ["tasks:read"]}


def browser(api: Api, email: str) -> TestClient:
    found = TestClient(api.client.app)
    found.portal = api.client.portal
    assert found.post("/auth/sign-up", json={"email": email, "password": PASSWORD}).status_code == 202
    if email == ADMIN:
        account = api.portal(lambda: api.garrison._runtime.accounts.find(email))  # type: ignore[union-attr]
        api.portal(lambda: api.garrison.accounts.set_role(account.id, "admin"))
    assert found.post("/auth/sign-in", json={"email": email, "password": PASSWORD}).status_code == 200
    return found


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path) as opened:
        yield opened


@pytest.fixture
def admin(api: Api) -> TestClient:
    return browser(api, ADMIN)


def statuses(client: Any, client_id: str, headers: dict[str, str] | None = None) -> list[int]:
    one = f"/auth/clients/{client_id}"
    return [
        client.get("/auth/clients", headers=headers).status_code,
        client.post("/auth/clients", json=NEW, headers=headers).status_code,
        client.patch(one, json={"status": "active"}, headers=headers).status_code,
        client.post(one + "/rotate", headers=headers).status_code,
        client.delete(one, headers=headers).status_code,
    ]


def test_a_client_from_its_making_to_its_end(api: Api, admin: TestClient) -> None:
    made = admin.post("/auth/clients", json=NEW)
    assert made.status_code == 201, made.text
    client_id, secret = made.json()["client_id"], made.json()["client_secret"]
    token = api.token(client_id=client_id, client_secret=secret)
    assert api.get("/tasks", token) == 200
    listed = admin.get("/auth/clients").json()["items"]
    assert [one["name"] for one in listed] == ["reports", "reports"]
    assert secret not in json.dumps(listed)
    rotated = admin.post(f"/auth/clients/{client_id}/rotate").json()["client_secret"]
    assert api.ask(client_id=client_id, client_secret=rotated).status_code == 200
    changed = admin.patch(f"/auth/clients/{client_id}", json={"status": "disabled"})
    assert (changed.status_code, changed.json()["status"]) == (200, "disabled")
    assert api.get("/tasks", token) == 401
    assert api.ask(client_id=client_id, client_secret=rotated).status_code == 401
    assert admin.patch(f"/auth/clients/{client_id}", json={"status": "active"}).status_code == 200
    fresh = api.token(client_id=client_id, client_secret=rotated)
    assert admin.delete(f"/auth/clients/{client_id}").status_code == 204
    assert api.get("/tasks", fresh) == 401
    assert statuses(admin, client_id)[2:] == [404, 404, 404]


def test_nobody_else_and_no_old_proof(api: Api, admin: TestClient) -> None:
    client_id = api.made.client.id
    assert statuses(TestClient(api.client.app), client_id) == [401] * 5
    assert statuses(browser(api, MEMBER), client_id) == [403] * 5
    assert statuses(api.client, client_id, {"authorization": f"Bearer {api.token()}"}) == [403] * 5
    key = admin.post("/auth/keys", json={"name": "ci", "scopes": ["tasks:read"]}).json()["key"]
    assert statuses(TestClient(api.client.app), client_id, {"x-api-key": key}) == [403] * 5
    api.wait(301)
    late = statuses(admin, client_id)
    assert late == [200, 401, 401, 401, 401], "RFC 9470: prove again"
    assert api.get("/tasks", api.token()) == 200


def test_a_session_that_was_ended_a_moment_ago_at_another_process_leaves_nothing_behind(
    api: Api, admin: TestClient
) -> None:
    key = admin.post("/auth/keys", json={"name": "ci", "scopes": ["tasks:read"]}).json()
    end_elsewhere(api, admin.get("/auth/session").json()["session"]["id"])
    assert admin.get("/auth/session").status_code == 200, "this process has not heard of it"
    assert statuses(admin, api.made.client.id) == [200, 401, 401, 401, 401]
    made = admin.post("/auth/keys", json={"name": "more", "scopes": ["tasks:read"]})
    assert (made.status_code, made.json()["code"]) == (401, "invalid_token")
    assert admin.post(f"/auth/keys/{key['id']}/rotate").status_code == 401
    changed = admin.post("/auth/password/change", json={"current": PASSWORD, "new": PASSWORD + " again"})
    assert (changed.status_code, changed.json()["code"]) == (401, "invalid_token")
    assert api.get("/tasks", api.token()) == 200, "nothing was changed"


def test_a_client_that_signs(api: Api, admin: TestClient) -> None:
    made = admin.post("/auth/clients", json={**NEW, "jwks": json.loads(jwks("ES256"))}).json()
    assert made["client_secret"] is None
    assert made["jwks"]["keys"][0]["kid"] == "ES256"
    client = Signing(api)
    client.made = client.made._replace(client=api.portal(lambda: api.clients.find(made["client_id"])))
    assert client.ask(client.assertion()).status_code == 200
    one = f"/auth/clients/{made['client_id']}"
    assert admin.patch(one, json={"jwks": json.loads(jwks("RS256"))}).status_code == 200
    assert client.ask(client.assertion()).status_code == 401
    assert client.ask(client.assertion("RS256")).status_code == 200
    for path, body in ((one + "/rotate", None), (one, {"jwks": {"keys": []}})):
        answer = admin.request("PATCH" if body else "POST", path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "validation")
    other = admin.patch(f"/auth/clients/{api.made.client.id}", json={"jwks": json.loads(jwks("RS256"))})
    assert (other.status_code, other.json()["code"]) == (400, "validation")


@pytest.mark.parametrize(
    "change",
    [
        {"grants": ["password"]},
        {"grants": []},
        {"name": ""},
        {"name": "\n"},
        {"audiences": ["ä"]},
        {"scopes": ['"']},
        {"redirect_uris": ["http://a.example.com/"]},
        {"jwks": {"keys": []}},
        {"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}},
        {"is_public": True},
        {"owner": "acc_1"},
        {"client_id": "cli_1"},
    ],
)
def test_what_cannot_be_is_400(admin: TestClient, change: dict[str, Any]) -> None:
    answer = admin.post("/auth/clients", json={**NEW, **change})
    assert (answer.status_code, answer.json()["code"]) == (400, "validation")
    assert answer.headers["content-type"] == "application/problem+json"
