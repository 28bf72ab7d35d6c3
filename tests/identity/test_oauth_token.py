"""`POST /oauth/token` for machines: the RFC's form, and nothing that a client is not registered for."""

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from fastapi import FastAPI
from sqlalchemy import text
from starlette.testclient import TestClient

from garrison import Garrison, Policy, allow, public
from garrison.core.clock import SystemClock
from garrison.core.durations import Limit
from garrison.core.errors import GarrisonError
from garrison.fastapi import Me
from garrison.identity.clients.model import GRANTS
from garrison.identity.clients.service import ClientService, Made
from garrison.identity.settings import PasswordCost
from garrison.serve.settings import Settings
from tests.stores import store_url

AUDIENCE, OTHER = "https://api.example.com", "https://other.example.com"
PLENTY = Limit(10**6, 60)


class Api:
    """A guarded app with a client, asked in process."""

    def __init__(self, path: Path, **more: Any) -> None:
        app = FastAPI()

        @app.get("/tasks")
        async def tasks(me: Me) -> dict[str, Any]:
            return {"id": me.id, "kind": me.kind, "scopes": sorted(me.scopes), "via": me.via}

        for name in ("/open", "/signed-in", "/admin", "/clients"):
            app.get(name)(lambda: "ok")
        settings = Settings(
            database_url=store_url(path / "g.db"),
            secret="s" * 40,
            audience=AUDIENCE,
            password_cost=PasswordCost(8, 1, 1),
            signing_algorithm="ES256",
            limit_address=PLENTY,
            limit_api=PLENTY,
            **{"limit_oauth_token": PLENTY, "limit_oauth_token_failed": PLENTY, **more},
        )
        policy = Policy(
            ("GET /open", public),
            ("GET /tasks", allow(scope="tasks:read")),
            ("GET /signed-in", allow(signed_in=True)),
            ("GET /admin", allow(role="admin")),
            ("GET /clients", allow(credentials="client")),
            roles={"editor": ["tasks:write"]},
        )
        self.garrison = Garrison(policy, settings=settings)
        self.client = TestClient(self.garrison.protect(app))
        self._later = 0.0

    def __enter__(self) -> "Api":
        self.client.__enter__()
        self.made = self.make("reports", [AUDIENCE, OTHER], ["tasks:read tasks:write"])
        return self

    def __exit__(self, *error: Any) -> None:
        self.client.__exit__(*error)

    @property
    def clients(self) -> ClientService:
        return self.garrison._runtime._identity.clients  # type: ignore[union-attr]

    def make(self, name: str, audiences: list[str], scopes: list[str]) -> Made:
        made: Made = self.portal(lambda: self.clients.create(name, audiences=audiences, scopes=scopes))
        return made

    def portal(self, work: Any) -> Any:
        assert self.client.portal is not None
        return self.client.portal.call(work)

    def execute(self, statement: str, **values: Any) -> int:
        """Change rows as another process does whose news has not been heard here; return how many."""
        database = self.garrison._runtime._database  # type: ignore[union-attr]
        changed: int = self.portal(
            lambda: database.write(lambda connection: connection.execute(text(statement), values).rowcount)
        )
        return changed

    def wait(self, seconds: float) -> None:
        """Move the store's time, as the app sees it from here on."""
        clock = self.garrison._runtime._clock  # type: ignore[union-attr]

        class Later(SystemClock):
            __slots__ = ()

            def adjust(self, store_now_s: float, asked_at: float | None = None) -> None:
                SystemClock.adjust(self, store_now_s + later, asked_at)

        later = self._later = self._later + seconds
        clock.__class__ = Later
        clock.adjust(time.time())

    def ask(self, *, secret: str | None = None, json_body: bool = False, **more: Any) -> Any:
        fields = {
            "grant_type": "client_credentials",
            "client_id": self.made.client.id,
            "client_secret": self.made.secret if secret is None else secret,
            **more,
        }
        kept = {name: value for name, value in fields.items() if value is not None}
        if json_body:
            return self.client.post("/oauth/token", json=kept)
        return self.client.post("/oauth/token", data=kept)

    def token(self, **more: Any) -> str:
        answer = self.ask(**more)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def get(self, path: str, token: str) -> int:
        return int(self.client.get(path, headers={"authorization": f"Bearer {token}"}).status_code)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path) as opened:
        yield opened


def claims(token: str) -> dict[str, Any]:
    body = token.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return found


@pytest.mark.parametrize("json_body", [False, True])
def test_a_client_gets_a_token_by_form_and_by_json(api: Api, json_body: bool) -> None:
    answer = api.ask(json_body=json_body)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    assert set(answer.json()) == {"access_token", "token_type", "expires_in", "scope"}
    assert (answer.json()["token_type"], answer.json()["expires_in"]) == ("Bearer", 900)
    said = claims(answer.json()["access_token"])
    assert said["sub"] == said["client_id"] == api.made.client.id
    assert (said["aud"], said["scope"]) == (AUDIENCE, "tasks:read tasks:write")
    assert {"iss", "iat", "exp", "jti"} <= said.keys()


def test_a_clients_token_passes_only_rules_that_name_a_scope_or_clients(api: Api) -> None:
    token = api.token()
    assert [api.get(path, token) for path in ("/open", "/tasks", "/clients")] == [200, 200, 200]
    assert [api.get(path, token) for path in ("/signed-in", "/admin", "/auth/session")] == [403, 403, 403]
    shown = api.client.get("/tasks", headers={"authorization": f"Bearer {token}"}).json()
    assert shown == {"id": api.made.client.id, "kind": "client", "scopes": ["tasks:read", "tasks:write"], "via": "jwt"}
    assert api.get("/tasks", api.token(scope="tasks:write")) == 403
    assert api.get("/tasks", api.token(audience=OTHER)) == 401, "a token for somebody else"


def test_the_log_says_that_a_token_is_for_another_audience_and_the_client_hears_one_answer(api: Api) -> None:
    def asked(token: str) -> dict[str, Any]:
        answer = api.client.get("/tasks", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 401
        return {name: value for name, value in answer.json().items() if name != "request_id"}

    with structlog.testing.capture_logs() as logs:
        heard = asked(api.token(audience=OTHER))
    assert [one["reason"] for one in logs if one["event"] == "refused"] == ["audience"]
    assert asked("a.b.c") == heard


def test_a_refused_request_says_why_without_what_came(api: Api) -> None:
    for name in ("scope", "audience", "grant_type"):
        with structlog.testing.capture_logs() as logs:
            more: dict[str, Any] = {name: "canary"}
            told = api.ask(**more).json()
        assert told["error_description"], name
        assert "canary" not in told["error_description"] + str(logs)
        (refused,) = [one for one in logs if one["event"] == "refused"]
        assert (refused["code"], refused["reason"]) == (told["error"], told["error_description"])


def test_both_ways_to_authenticate_and_never_two_at_once(api: Api) -> None:
    client_id, secret = api.made.client.id, api.made.secret
    form = {"grant_type": "client_credentials"}
    assert api.client.post("/oauth/token", data=form, auth=(client_id, secret)).status_code == 200
    both = api.client.post("/oauth/token", data={**form, "client_secret": secret}, auth=(client_id, secret))
    assert (both.status_code, both.json()["error"]) == (400, "invalid_request")
    other = api.client.post("/oauth/token", data={**form, "client_id": "cli_other"}, auth=(client_id, secret))
    assert other.json()["error"] == "invalid_request"
    failed = api.client.post("/oauth/token", data=form, auth=(client_id, "wrong"))
    assert (failed.status_code, failed.json()) == (401, {"error": "invalid_client"})
    assert failed.headers["www-authenticate"].startswith("Basic ")
    for header in ("Basic", "Basic !!!", "Basic eA==", "Bearer " + api.token(), "Basic " + "A" * 9000):
        assert api.client.post("/oauth/token", data=form, headers={"authorization": header}).status_code == 401


def test_unknown_wrong_and_disabled_are_the_same_answer(api: Api) -> None:
    answers = [api.ask(client_id="cli_" + "0" * 24), api.ask(secret="wrong"), api.ask(secret=""), api.ask(client_id="")]
    api.portal(lambda: api.clients.set_status(api.made.client.id, "disabled"))
    answers.append(api.ask())
    answers.append(api.client.post("/oauth/token", headers={"content-type": "application/x-www-form-urlencoded"}))
    assert {(one.status_code, one.text) for one in answers} == {(401, '{"error":"invalid_client"}')}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"grant_type": None}, "invalid_request"),
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "authorization_code"}, "unauthorized_client"),
        ({"scope": "tasks:read admin"}, "invalid_scope"),
        ({"audience": "https://evil.example.com"}, "invalid_target"),
        ({"resource": "https://evil.example.com"}, "invalid_target"),
        ({"audience": AUDIENCE, "resource": OTHER}, "invalid_target"),
    ],
)
def test_every_error_has_the_rfcs_name(api: Api, change: dict[str, Any], error: str) -> None:
    answer = api.ask(**change)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"


def test_what_a_client_may_not_say_is_ignored(api: Api) -> None:
    """better-auth CVE-2025-61928: `userId` in the body made a key for anyone."""
    injected = {"user_id": "acc_1", "userId": "acc_1", "sub": "acc_1", "role": "admin", "roles": "admin", "org_id": "o"}
    said = claims(api.token(**injected))
    assert said["sub"] == api.made.client.id
    assert not said.keys() & {"role", "roles", "org_id", "user_id"}


@pytest.mark.parametrize(
    ("content", "media"),
    [
        (b"grant_type=client_credentials&grant_type=password", "application/x-www-form-urlencoded"),
        (b"grant_type=client_credentials&client_id=a&client_id=b", "application/x-www-form-urlencoded"),
        (b"&".join(b"a%d=1" % n for n in range(200)), "application/x-www-form-urlencoded"),
        (b"%ff=%fe", "application/x-www-form-urlencoded"),
        (b"grant_type", "application/x-www-form-urlencoded"),
        (b"\xff", "application/x-www-form-urlencoded"),
        (b"grant_type=client_credentials", "text/plain"),
        (b"grant_type=client_credentials", ""),
        (b'{"grant_type":"client_credentials","grant_type":"password"}', "application/json"),
        (b'{"grant_type":["client_credentials","password"]}', "application/json"),
        (b'{"grant_type":7}', "application/json"),
        (b'{"grant_type":{"a":1}}', "application/json"),
        (b"[]", "application/json"),
        (b"[" * 100_000, "application/json"),
        (b"", "application/json"),
    ],
)
def test_bodies_that_cannot_be_read_are_invalid_request(api: Api, content: bytes, media: str) -> None:
    answer = api.client.post("/oauth/token", content=content, headers={"content-type": media})
    assert answer.status_code in (400, 413)
    assert answer.json()["error"] == "invalid_request"


def test_another_site_may_ask_since_no_cookie_counts_here(api: Api) -> None:
    headers = {"origin": "https://elsewhere.example.com", "cookie": "garrison=x"}
    fields = {"grant_type": "client_credentials", "client_id": api.made.client.id, "client_secret": api.made.secret}
    assert api.client.post("/oauth/token", data=fields, headers=headers).status_code == 200
    assert api.client.get("/oauth/token").status_code == 405


def test_limits_are_on_by_default(tmp_path: Path) -> None:
    with Api(tmp_path, limit_oauth_token=Limit(60, 60), limit_oauth_token_failed=Limit(20, 900)) as api:
        for _ in range(20):
            assert api.ask(secret="wrong").status_code == 401
        refused = api.ask(secret="wrong")
        assert (refused.status_code, refused.json()["error"]) == (429, "temporarily_unavailable")
        assert int(refused.headers["retry-after"]) > 0
        statuses = [api.ask().status_code for _ in range(61)]
        assert statuses[:60] == [200] * 60, "a right secret is no guess"
        assert statuses[60] == 429


def test_a_secret_is_rotated_with_overlap_and_a_client_ended_at_once(api: Api) -> None:
    token = api.token()
    assert api.get("/tasks", token) == 200
    secret = api.portal(lambda: api.clients.rotate(api.made.client.id))
    assert (api.ask().status_code, api.ask(secret=secret).status_code) == (200, 200)
    again = api.portal(lambda: api.clients.rotate(api.made.client.id, overlap_s=0))
    assert (api.ask().status_code, api.ask(secret=secret).status_code, api.ask(secret=again).status_code) == (
        401,
        401,
        200,
    )
    assert api.get("/tasks", token) == 200
    api.portal(lambda: api.clients.set_status(api.made.client.id, "disabled"))
    assert api.get("/tasks", token) == 401, "warm, too"
    api.portal(lambda: api.clients.set_status(api.made.client.id, "active"))
    assert api.get("/tasks", token) == 401, "what was ended stays ended"
    fresh = api.token(secret=again)
    assert api.get("/tasks", fresh) == 200
    api.portal(lambda: api.clients.delete(api.made.client.id))
    assert api.get("/tasks", fresh) == 401
    with pytest.raises(GarrisonError):
        api.portal(lambda: api.clients.delete(api.made.client.id))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"name": " "}, "name"),
        ({"grants": ["password"]}, "grants are"),
        ({"grants": []}, "grants are"),
        ({"scopes": ['a"b']}, "a scope is"),
        ({"audiences": ["ä"]}, "an audience is"),
        ({"redirect_uris": ["https://a.example.com/#x"]}, "redirect URI"),
        ({"redirect_uris": ["http://a.example.com/"]}, "redirect URI"),
        ({"redirect_uris": ["https://a@b.example.com/"]}, "redirect URI"),
        ({"redirect_uris": ["https://b.example.com\\@evil.example.com/"]}, "redirect URI"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "redirect URI"),
        ({"scopes": [f"s{n}" for n in range(33)]}, "at most 32"),
    ],
)
def test_a_client_that_cannot_be_is_told(api: Api, more: dict[str, Any], says: str) -> None:
    arguments = {"name": "x", **more}
    with pytest.raises(ValueError, match=says):
        api.portal(lambda: api.clients.create(arguments.pop("name"), **arguments))


@pytest.mark.parametrize("slash", ["", "/"])
def test_the_metadata_tells_the_truth(tmp_path: Path, slash: str) -> None:
    with Api(tmp_path, issuer=f"http://127.0.0.1:8000{slash}") as api:
        server = api.client.get("/.well-known/oauth-authorization-server").json()
        assert server["issuer"] == f"http://127.0.0.1:8000{slash}"
        assert server["jwks_uri"] == "http://127.0.0.1:8000/.well-known/jwks.json"
        assert server["token_endpoint"] == "http://127.0.0.1:8000/oauth/token"
        assert server["grant_types_supported"] == sorted(GRANTS)
        assert api.client.get("/.well-known/jwks.json").json()["keys"]
        assert claims(api.token())["iss"] == server["issuer"]
        assert api.get("/tasks", api.token()) == 200
        discovery = api.client.get("/.well-known/openid-configuration").json()
        assert discovery.items() >= server.items()
        assert discovery["request_uri_parameter_supported"] is False, "it counts as true where it is not said"
        resource = api.client.get("/.well-known/oauth-protected-resource").json()
        assert (resource["resource"], resource["authorization_servers"]) == (AUDIENCE, [server["issuer"]])
