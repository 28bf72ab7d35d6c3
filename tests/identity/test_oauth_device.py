"""The device grant: a code at the device, a person elsewhere, and nobody who can guess, replay or be talked into it."""

import html
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from garrison.core.durations import Limit
from garrison.identity.clients.model import SHORT_NAMES
from garrison.identity.clients.service import Made
from garrison.identity.oauth import device_codes
from garrison.identity.oauth.device_codes import new_user_code, read_user_code
from tests.identity.test_oauth_authorize import end_elsewhere
from tests.identity.test_oauth_token import AUDIENCE, OTHER, Api, claims

EMAIL, PASSWORD = "ada@example.com", "a long walk to the sea"
GRANT = SHORT_NAMES["device_code"]


class Device:
    """A television, and the browser that its owner has at hand."""

    def __init__(self, api: Api, *, is_public: bool = True, **more: Any) -> None:
        self.api = api
        arguments = {
            "grants": ["device_code", "refresh_token"],
            "audiences": [AUDIENCE],
            "scopes": ["tasks:read tasks:write"],
            "is_public": is_public,
            **more,
        }
        self.made: Made = api.portal(lambda: api.clients.create("television", **arguments))
        self.browser = self.another()

    def another(self) -> TestClient:
        browser = TestClient(self.api.client.app, follow_redirects=False)
        browser.portal = self.api.client.portal
        return browser

    def credentials(self) -> dict[str, str]:
        secret = {} if self.made.client.is_public else {"client_secret": self.made.secret}
        return {"client_id": self.made.client.id, **secret}

    def begin(self, **fields: str) -> Any:
        data = {**self.credentials(), "scope": "openid email tasks:read", **fields}
        return self.api.client.post("/oauth/device", data={name: value for name, value in data.items() if value})

    def poll(self, device_code: str, **fields: str) -> Any:
        data = {"grant_type": GRANT, "device_code": device_code, **self.credentials(), **fields}
        return self.api.client.post("/oauth/token", data=data)

    def error(self, device_code: str, **fields: str) -> str:
        answer = self.poll(device_code, **fields)
        assert (answer.status_code, answer.headers["cache-control"]) == (400, "no-store")
        return str(answer.json()["error"])

    def sign_in(self, browser: TestClient | None = None, *, user_code: str = "", password: str = PASSWORD) -> Any:
        browser = browser or self.browser
        page = browser.get("/oauth/device", params={"user_code": user_code} if user_code else None)
        assert 'name="password"' in page.text
        fields = {"request": hidden(page.text), "step": "sign-in", "email": EMAIL, "password": password}
        return browser.post("/oauth/device/verify", data=fields)

    def look(self, user_code: str, browser: TestClient | None = None) -> Any:
        fields = {"step": "code", "user_code": user_code}
        return (browser or self.browser).post("/oauth/device/verify", data=fields)

    def decide(self, page: str, decision: str = "allow", browser: TestClient | None = None) -> Any:
        fields = {"request": hidden(page), "step": "decide", "decision": decision}
        return (browser or self.browser).post("/oauth/device/verify", data=fields)

    def allowed(self) -> str:
        """Go the whole way and return the device's code."""
        begun = self.begin().json()
        assert self.sign_in().status_code == 303
        assert self.decide(self.look(begun["user_code"]).text).status_code == 200
        return str(begun["device_code"])


def hidden(page: str) -> str:
    (request,) = re.findall(r'name="request" value="([^"]*)"', page)
    return html.unescape(request)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path) as opened:
        opened.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
        yield opened


@pytest.fixture(params=[True, False], ids=["public", "confidential"])
def device(api: Api, request: pytest.FixtureRequest) -> Device:
    return Device(api, is_public=request.param)


def test_from_the_code_to_an_api_call_and_a_refresh(device: Device) -> None:
    api = device.api
    answer = device.begin()
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    begun = answer.json()
    assert begun["verification_uri"] == "http://127.0.0.1:8000/oauth/device"
    assert begun["verification_uri_complete"] == f"{begun['verification_uri']}?user_code={begun['user_code']}"
    assert (begun["expires_in"], begun["interval"]) == (600, 5)
    assert device.error(begun["device_code"]) == "authorization_pending"
    arrived = device.sign_in(user_code=begun["user_code"])
    assert arrived.headers["location"] == f"/oauth/device?user_code={begun['user_code']}"
    page = device.browser.get(arrived.headers["location"])
    assert f'value="{begun["user_code"]}"' in page.text
    assert "Is this the code that your device shows?" in page.text
    assert "Which code does your device show?" in device.browser.get("/oauth/device").text
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    page = device.look(begun["user_code"].replace("-", " ").lower())
    assert "television" in page.text
    assert EMAIL in page.text
    assert "tasks:read" in page.text
    assert device.decide(page.text).status_code == 200
    api.wait(6)
    answer = device.poll(begun["device_code"])
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["scope"] == "email openid tasks:read"
    assert claims(body["access_token"])["client_id"] == device.made.client.id
    assert claims(body["id_token"])["aud"] == device.made.client.id
    assert [api.get(path, body["access_token"]) for path in ("/tasks", "/signed-in", "/admin")] == [200, 403, 403]
    again = api.client.post(
        "/oauth/token",
        data={"grant_type": "refresh_token", "refresh_token": body["refresh_token"], **device.credentials()},
    )
    assert again.status_code == 200
    assert device.error(begun["device_code"]) == "invalid_grant", "a code is spent once"


def test_who_asks_too_often_is_told_to_slow_down_and_has_to(device: Device) -> None:
    code = device.begin().json()["device_code"]
    assert device.error(code) == "authorization_pending"
    device.api.wait(4)
    assert device.error(code) == "slow_down"
    device.api.wait(6)
    assert device.error(code) == "slow_down", "five seconds more are ten"
    device.api.wait(16)
    assert device.error(code) == "authorization_pending"


def test_refused_and_too_late(device: Device) -> None:
    begun = device.begin().json()
    device.sign_in()
    page = device.look(begun["user_code"]).text
    assert device.decide(page, "deny").status_code == 200
    assert device.error(begun["device_code"]) == "access_denied"
    assert device.decide(page).status_code == 400, "what was said stays said"
    assert device.error(begun["device_code"]) == "access_denied"
    late = device.begin().json()
    page = device.look(late["user_code"]).text
    device.api.wait(601)
    assert device.error(late["device_code"]) == "expired_token"
    assert device.look(late["user_code"]).status_code in (400, 401)


def test_a_code_that_was_allowed_and_is_too_old_gives_nothing(device: Device) -> None:
    code = device.allowed()
    device.api.wait(601)
    assert device.error(code) == "expired_token"


def test_of_two_requests_one_wins(device: Device) -> None:
    code = device.allowed()
    with ThreadPoolExecutor(4) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: device.poll(code), range(4))]
    assert sorted(statuses) == [200, 400, 400, 400]


def test_a_code_is_its_clients(device: Device) -> None:
    code = device.allowed()
    other = Device(device.api)
    assert other.error(code) == "invalid_grant"
    assert device.error("x" * 43) == "invalid_grant"
    assert device.poll("").json()["error"] == "invalid_request"
    assert device.poll(code).status_code == 200


@pytest.mark.parametrize("how", ["disabled", "password", "signed out everywhere"])
def test_what_changed_about_the_account_since_counts(device: Device, how: str) -> None:
    code, api = device.allowed(), device.api
    accounts = api.garrison.accounts
    found = api.portal(lambda: api.garrison._runtime.accounts.find(EMAIL))  # type: ignore[union-attr]
    if how == "disabled":
        api.portal(lambda: accounts.disable(found.id))
    elif how == "password":
        changed = device.browser.post("/auth/password/change", json={"current": PASSWORD, "new": PASSWORD + " again"})
        assert changed.status_code == 204
    else:
        api.portal(lambda: api.garrison.sessions.revoke_all(found.id))
    assert device.error(code) == "invalid_grant"


def test_the_page_is_bound_to_who_sees_it(device: Device) -> None:
    begun = device.begin().json()
    device.sign_in()
    page = device.look(begun["user_code"]).text
    other = device.another()
    assert device.decide(page, browser=other).status_code == 401, "nobody is signed in there"
    device.sign_in(other)
    assert device.decide(page, browser=other).status_code == 400, "another session"
    tampered = page.replace(hidden(page), hidden(page)[:-2] + "00")
    assert device.decide(tampered).status_code == 400
    assert device.error(begun["device_code"]) == "authorization_pending"
    device.api.wait(301)
    assert device.decide(page).status_code == 401, "signed in too long ago"
    assert device.error(begun["device_code"]) == "authorization_pending"


def test_a_session_that_was_ended_a_moment_ago_at_another_process_allows_nothing(device: Device) -> None:
    begun = device.begin().json()
    device.sign_in()
    page = device.look(begun["user_code"]).text
    end_elsewhere(device.api, device.browser.get("/auth/session").json()["session"]["id"])
    assert device.browser.get("/auth/session").status_code == 200, "this process has not heard of it"
    assert device.decide(page).status_code == 401
    assert device.error(begun["device_code"]) == "authorization_pending"


@pytest.mark.parametrize("allowed", [False, True])
def test_a_client_that_was_disabled_and_enabled_again_has_no_code_from_before(device: Device, allowed: bool) -> None:
    code = device.allowed() if allowed else device.begin().json()["device_code"]
    client_id, clients = device.made.client.id, device.api.clients
    device.api.portal(lambda: clients.set_status(client_id, "disabled"))
    device.api.portal(lambda: clients.set_status(client_id, "active"))
    assert device.error(code) == "invalid_grant"


def test_a_page_of_another_site_cannot_decide(device: Device) -> None:
    begun = device.begin().json()
    device.sign_in()
    page = device.look(begun["user_code"]).text
    headers = {"origin": "https://elsewhere.example.com"}
    fields = {"request": hidden(page), "step": "decide", "decision": "allow"}
    assert device.browser.post("/oauth/device/verify", data=fields, headers=headers).status_code == 403
    assert device.error(begun["device_code"]) == "authorization_pending"


def test_guesses_are_counted_by_account_and_by_network(tmp_path: Path) -> None:
    with Api(tmp_path) as api:
        api.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
        device = Device(api)
        device.sign_in()
        statuses = [device.look(new_user_code()).status_code for _ in range(21)]
        assert statuses == [400] * 20 + [429]
        other = device.another()
        api.client.post("/auth/sign-up", json={"email": "bob@example.com", "password": PASSWORD})
        page = other.get("/oauth/device")
        fields = {
            "request": hidden(page.text),
            "step": "sign-in",
            "email": "bob@example.com",
            "password": PASSWORD,
        }
        assert other.post("/oauth/device/verify", data=fields).status_code == 303
        assert device.look(device.begin().json()["user_code"], other).status_code == 429, "the same network"


def test_the_password_at_this_page_is_limited_like_any_other(tmp_path: Path) -> None:
    with Api(tmp_path, limit_sign_in=Limit(3, 900)) as api:
        api.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
        device = Device(api)
        for _ in range(3):
            assert "not right" in device.sign_in(password="wrong").text
        assert "Too many" in device.sign_in().text


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"scope": "admin"}, "invalid_scope"),
        ({"audience": OTHER}, "invalid_target"),
        ({"client_id": "cli_nobody"}, "invalid_client"),
        ({"client_secret": "wrong"}, "invalid_client"),
    ],
)
def test_beginning_has_the_rfcs_errors(device: Device, fields: dict[str, str], error: str) -> None:
    assert device.begin(**fields).json()["error"] == error


def test_only_who_was_granted_it_may_begin(api: Api) -> None:
    data = {"client_id": api.made.client.id, "client_secret": api.made.secret}
    answer = api.client.post("/oauth/device", data=data)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")
    answer = api.client.post("/oauth/token", data={**data, "grant_type": GRANT, "device_code": "x"})
    assert answer.json()["error"] == "unauthorized_client"


def test_strangers_do_not_use_up_a_public_clients_limit(tmp_path: Path) -> None:
    with Api(tmp_path, limit_oauth_token=Limit(3, 60)) as api:
        device = Device(api)
        assert [device.begin().status_code for _ in range(4)] == [200, 200, 200, 429]
        elsewhere = TestClient(api.client.app, client=("127.0.0.2", 1))
        elsewhere.portal = api.client.portal
        assert elsewhere.post("/oauth/device", data=device.credentials()).status_code == 200


def test_only_so_many_codes_wait_at_a_time(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public client's id is nobody's secret, so strangers from many addresses can ask for codes."""
    monkeypatch.setattr(device_codes, "MOST_WAITING", 3)
    assert [device.begin().status_code for _ in range(3)] == [200] * 3
    full = device.begin()
    assert (full.status_code, full.json()) == (503, {"error": "temporarily_unavailable"})
    assert (full.headers["retry-after"], full.headers["cache-control"]) == ("60", "no-store")
    device.api.wait(601)
    assert device.begin().status_code == 200, "those that are over do not count, swept or not"


def test_codes_for_people_are_read_as_people_type_them() -> None:
    made = {new_user_code() for _ in range(2000)}
    assert len(made) == 2000
    for code in list(made)[:100]:
        assert re.fullmatch(r"[BCDFGHJKLMNPQRSTVWXZ]{4}-[BCDFGHJKLMNPQRSTVWXZ]{4}", code)
        assert read_user_code(f" {code.lower().replace('-', ' ')}.") == code
    assert [read_user_code(one) for one in ("", "BCDF", "BCDF-GHJKL", "A" * 8, "B" * 10_000)] == [""] * 5
