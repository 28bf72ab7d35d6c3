"""Authorization code with PKCE: a person signs in, says yes, and a client acts within what was given."""

import base64
import hashlib
import html
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import structlog
from starlette.testclient import TestClient

from garrison.core.clock import ManualClock
from garrison.identity.clients.model import Client as OAuthClient
from garrison.identity.clients.service import ClientService, Made
from garrison.identity.oauth.errors import NOT_ITS_AUDIENCE, NOT_ITS_SCOPE
from garrison.identity.oauth.request import is_same_redirect
from garrison.identity.signing.jose import verify
from tests.identity.test_dpop import Key
from tests.identity.test_oauth_token import AUDIENCE, Api, claims

EMAIL, PASSWORD = "ada@example.com", "a long walk to the sea"
BACK = "https://app.example.com/callback?from=garrison"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Flow:
    """One client's way through it, with a browser of its own."""

    def __init__(self, api: Api, made: Made, *, redirect_uri: str = BACK) -> None:
        self.api, self.made, self.redirect_uri = api, made, redirect_uri
        self.browser = TestClient(api.client.app, follow_redirects=False)
        self.browser.portal = api.client.portal
        self.verifier = secrets.token_urlsafe(48)
        self.state, self.nonce = secrets.token_urlsafe(8), secrets.token_urlsafe(8)

    def query(self, **change: str | None) -> str:
        fields = {
            "response_type": "code",
            "client_id": self.made.client.id,
            "redirect_uri": self.redirect_uri,
            "scope": "openid email tasks:read",
            "state": self.state,
            "nonce": self.nonce,
            "code_challenge": b64(hashlib.sha256(self.verifier.encode()).digest()),
            "code_challenge_method": "S256",
            **change,
        }
        return urlencode({name: value for name, value in fields.items() if value is not None})

    def ask(self, **change: str | None) -> Any:
        return self.browser.get(f"/oauth/authorize?{self.query(**change)}")

    def post(self, page: str, **fields: str) -> Any:
        (request,) = re.findall(r'name="request" value="([^"]*)"', page)
        return self.browser.post("/oauth/authorize", data={"request": html.unescape(request), **fields})

    def sign_in(self, change: dict[str, str | None] | None = None, password: str = PASSWORD) -> Any:
        page = self.ask(**(change or {}))
        assert 'name="password"' in page.text
        return self.post(page.text, step="sign-in", email=EMAIL, password=password)

    def consent(self, decision: str = "allow", **change: str | None) -> dict[str, str]:
        answer = self.sign_in(change)
        assert answer.status_code == 303, answer.text
        page = self.browser.get(answer.headers["location"])
        assert 'value="allow"' in page.text
        return self.sent_back(self.post(page.text, step="decide", decision=decision))

    def sent_back(self, answer: Any) -> dict[str, str]:
        assert answer.status_code == 303, answer.text
        location = answer.headers["location"]
        assert location.startswith(self.redirect_uri)
        return {name: values[0] for name, values in parse_qs(urlsplit(location).query).items()}

    def exchange(self, code: str, headers: dict[str, str] | None = None, **change: str | None) -> Any:
        fields = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": self.verifier,
            "client_id": self.made.client.id,
            "client_secret": None if self.made.client.is_public else self.made.secret,
            **change,
        }
        kept = {name: value for name, value in fields.items() if value is not None}
        return self.api.client.post("/oauth/token", data=kept, headers=headers)


def make(api: Api, name: str = "app", **more: Any) -> Made:
    arguments = {
        "grants": ["authorization_code", "refresh_token"],
        "audiences": [AUDIENCE],
        "scopes": ["tasks:read tasks:write"],
        "redirect_uris": [BACK, "http://127.0.0.1/cb"],
        **more,
    }
    made: Made = api.portal(lambda: api.clients.create(name, **arguments))
    return made


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path) as opened:
        opened.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
        yield opened


@pytest.fixture
def flow(api: Api) -> Flow:
    return Flow(api, make(api))


def test_from_the_link_to_an_api_call_a_refresh_and_its_end(flow: Flow) -> None:
    api = flow.api
    told = flow.consent()
    assert told["state"] == flow.state
    assert told["iss"] == "http://127.0.0.1:8000"
    answer = flow.exchange(told["code"])
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    token = body["access_token"]
    assert claims(token)["client_id"] == flow.made.client.id
    assert body["scope"] == "email openid tasks:read"
    assert [api.get(path, token) for path in ("/tasks", "/signed-in", "/admin", "/auth/session")] == [
        200,
        403,
        403,
        403,
    ]
    shown = api.client.get("/tasks", headers={"authorization": f"Bearer {token}"}).json()
    assert (shown["kind"], shown["scopes"]) == ("account", ["email", "openid", "tasks:read"])
    info = api.client.get("/oauth/userinfo", headers={"authorization": f"Bearer {token}"})
    assert info.json() == {"sub": shown["id"], "email": EMAIL, "email_verified": False}
    ring = api.garrison._runtime._identity.keyring  # type: ignore[union-attr]
    said = verify(body["id_token"].encode(), ring.verifying.get, typ="jwt").claims
    assert (said["aud"], said["nonce"], said["sub"], said["email"]) == (
        flow.made.client.id,
        flow.nonce,
        shown["id"],
        EMAIL,
    )
    assert api.get("/tasks", body["id_token"]) == 401, "an ID token is no access token"
    again = refresh(flow, body["refresh_token"])
    assert again.status_code == 200
    assert api.get("/tasks", again.json()["access_token"]) == 200
    user = (flow.made.client.id, flow.made.secret)
    assert api.client.post("/oauth/revoke", data={"token": again.json()["refresh_token"]}, auth=user).status_code == 200
    assert api.get("/tasks", again.json()["access_token"]) == 401
    assert refresh(flow, again.json()["refresh_token"]).json()["error"] == "invalid_grant"


def refresh(flow: Flow, token: str, made: Made | None = None) -> Any:
    who = made or flow.made
    fields = {"grant_type": "refresh_token", "refresh_token": token}
    return flow.api.client.post("/oauth/token", data=fields, auth=(who.client.id, who.secret))


def test_a_public_client_shows_pkce_and_no_secret(api: Api) -> None:
    flow = Flow(api, make(api, is_public=True))
    told = flow.consent()
    assert flow.exchange(told["code"], client_secret="x").status_code == 401
    answer = flow.exchange(told["code"])
    assert answer.status_code == 200
    fields = {"grant_type": "refresh_token", "client_id": flow.made.client.id}
    token = answer.json()["refresh_token"]
    assert api.client.post("/oauth/token", data={**fields, "refresh_token": token}).status_code == 200
    credentials = {"grant_type": "client_credentials", "client_id": flow.made.client.id}
    assert api.client.post("/oauth/token", data=credentials).json()["error"] == "unauthorized_client"
    assert api.client.post("/oauth/introspect", data={"client_id": flow.made.client.id, "token": "x"}).status_code in (
        200,
        401,
    )


def test_a_code_is_spent_once_and_a_replay_ends_what_it_gave(flow: Flow) -> None:
    code = flow.consent()["code"]
    body = flow.exchange(code).json()
    assert flow.api.get("/tasks", body["access_token"]) == 200
    replayed = flow.exchange(code)
    assert (replayed.status_code, replayed.json()["error"]) == (400, "invalid_grant")
    unknown = flow.exchange("x" * 43).json()
    assert unknown == replayed.json(), "which of them it is would help whoever has somebody else's code"
    assert unknown["error_description"]
    assert flow.api.get("/tasks", body["access_token"]) == 401
    assert refresh(flow, body["refresh_token"]).json()["error"] == "invalid_grant"


def test_of_many_requests_with_one_code_one_wins_at_most(flow: Flow) -> None:
    code = flow.consent()["code"]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: flow.exchange(code), range(8)))
    won = [answer.json() for answer in answers if answer.status_code == 200]
    lost = [answer.json() for answer in answers if answer.status_code != 200]
    assert [one["error"] for one in lost] == ["invalid_grant"] * 7
    assert [flow.api.get("/tasks", body["access_token"]) for body in won] == [401], "the others were replays"


def test_a_code_needs_its_client_its_address_and_its_verifier(flow: Flow) -> None:
    other = make(flow.api, "other")
    wrong: list[dict[str, Any]] = [
        {"code_verifier": secrets.token_urlsafe(48)},
        {"code_verifier": "short"},
        {"redirect_uri": "https://app.example.com/callback"},
        {"redirect_uri": None},
        {"client_id": other.client.id, "client_secret": other.secret},
        {"code": "x"},
    ]
    for change in wrong:
        code = flow.consent()["code"]
        answer = flow.exchange(change.pop("code", code) or "", **change)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant"), change
        flow.browser.cookies.clear()
    assert flow.exchange("x", code_verifier=None).json()["error"] == "invalid_request"


def test_between_consent_and_exchange_the_account_may_change(flow: Flow) -> None:
    code = flow.consent()["code"]
    flow.api.portal(lambda: flow.api.garrison.accounts.set_role(EMAIL, "admin"))
    assert flow.exchange(code).json()["error"] == "invalid_grant"


def test_what_ends_a_person_or_a_client_ends_what_was_given(api: Api) -> None:
    for ending in ("everywhere", "disable client", "delete client", "disable account"):
        flow = Flow(api, make(api))
        token = flow.exchange(flow.consent()["code"]).json()["access_token"]
        assert api.get("/tasks", token) == 200
        client_id = flow.made.client.id
        if ending == "everywhere":
            assert flow.browser.post("/auth/sign-out-everywhere").status_code == 204
        elif ending == "disable client":
            api.portal(lambda client_id=client_id: api.clients.set_status(client_id, "disabled"))
        elif ending == "delete client":
            api.portal(lambda client_id=client_id: api.clients.delete(client_id))
        else:
            api.portal(lambda: api.garrison.accounts.disable(EMAIL))
        assert api.get("/tasks", token) == 401, ending


def test_a_refresh_token_of_a_client_is_its_own(flow: Flow) -> None:
    body = flow.exchange(flow.consent()["code"]).json()
    other = make(flow.api, "other")
    assert refresh(flow, body["refresh_token"], other).json()["error"] == "invalid_grant"
    first_party = flow.api.client.post("/auth/refresh", json={"refresh_token": body["refresh_token"]})
    assert first_party.json()["code"] == "invalid_grant"
    assert refresh(flow, body["refresh_token"]).status_code == 200
    shown = {"email": EMAIL, "password": PASSWORD, "deliver": "token"}
    own = flow.api.client.post("/auth/sign-in", json=shown).json()["refresh_token"]
    assert refresh(flow, own).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("thief", ["another client", "first party"])
def test_a_used_refresh_token_from_somebody_else_ends_the_family_at_once(flow: Flow, thief: str) -> None:
    """Within the grace, too: the client is the binding, and what comes without it was copied (RFC 9700 4.14)."""
    first = flow.exchange(flow.consent()["code"]).json()["refresh_token"]
    body = refresh(flow, first).json()
    assert flow.api.get("/tasks", body["access_token"]) == 200
    if thief == "another client":
        assert refresh(flow, first, make(flow.api, "other")).json()["error"] == "invalid_grant"
    else:
        shown = flow.api.client.post("/auth/refresh", json={"refresh_token": first})
        assert shown.json()["code"] == "invalid_grant"
    assert flow.api.get("/tasks", body["access_token"]) == 401
    assert refresh(flow, body["refresh_token"]).json()["error"] == "invalid_grant"


def test_a_used_refresh_token_of_a_sign_in_that_a_client_shows_ends_the_family(flow: Flow) -> None:
    shown = {"email": EMAIL, "password": PASSWORD, "deliver": "token"}
    first = flow.api.client.post("/auth/sign-in", json=shown).json()["refresh_token"]
    body = flow.api.client.post("/auth/refresh", json={"refresh_token": first}).json()
    assert refresh(flow, first).json()["error"] == "invalid_grant"
    assert flow.api.get("/tasks", body["access_token"]) == 401


def test_scopes_are_what_was_given_and_what_the_person_has(flow: Flow) -> None:
    body = flow.exchange(flow.consent(scope="tasks:write tasks:read")["code"]).json()
    assert body["scope"] == "tasks:read", "nobody can give what they do not have"
    assert "id_token" not in body
    assert (
        flow.api.client.get("/oauth/userinfo", headers={"authorization": f"Bearer {body['access_token']}"}).status_code
        == 403
    )


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": None}, "unsupported_response_type"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": None}, "invalid_request"),
        ({"response_mode": "fragment"}, "invalid_request"),
        ({"request": "x.y.z"}, "request_not_supported"),
        ({"request_uri": "https://evil.example.com"}, "request_uri_not_supported"),
        ({"dpop_jkt": "short"}, "invalid_request"),
        ({"max_age": "-1"}, "invalid_request"),
        ({"max_age": "soon"}, "invalid_request"),
        ({"prompt": "none login"}, "invalid_request"),
        ({"scope": "tasks:read admin"}, "invalid_scope"),
        ({"audience": "https://evil.example.com"}, "invalid_target"),
        ({"prompt": "none"}, "login_required"),
    ],
)
def test_errors_go_back_to_the_client(flow: Flow, change: dict[str, str | None], error: str) -> None:
    told = flow.sent_back(flow.ask(**change))
    assert (told["error"], told["state"], told["iss"]) == (error, flow.state, "http://127.0.0.1:8000")
    assert "code" not in told


@pytest.mark.parametrize(
    "change",
    [
        {"client_id": "cli_" + "0" * 24},
        {"client_id": None},
        {"redirect_uri": None},
        {"redirect_uri": "https://evil.example.com/"},
        {"redirect_uri": BACK + "&x=1"},
        {"redirect_uri": BACK.upper()},
        {"state": "x" * 3000},
    ],
)
def test_nobody_is_sent_to_an_address_that_is_not_the_clients(flow: Flow, change: dict[str, str | None]) -> None:
    answer = flow.ask(**change)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/html; charset=utf-8")
    assert "location" not in answer.headers


def test_a_refused_and_a_repeated_parameter(flow: Flow) -> None:
    told = flow.consent("deny")
    assert (told["error"], "code" in told) == ("access_denied", False)
    assert flow.browser.get(f"/oauth/authorize?{flow.query()}&scope=openid").status_code == 400


def test_two_hundred_spellings_of_a_redirect_uri() -> None:
    """Keycloak CVE-2023-6134 and others: only the registered bytes, and the port of a loopback address."""
    registered = "https://app.example.com/callback"
    tricks = [
        "https://app.example.com@evil.example.com/callback",
        "https://evil.example.com/callback",
        "//app.example.com/callback",
        "https://app.example.com.evil.com/callback",
        "https://app.example.com%2eevil.com/callback",
        "HTTPS://app.example.com/callback",
        "https://APP.example.com/callback",
        "https://app.example.com:443/callback",
        "https://app.example.com/callback/",
        "https://app.example.com/callback#x",
        "https://app.example.com/callback?x",
        "https://app.example.com/../callback",
        "https://app.example.com/%63allback",
        "https://app.example.com\\callback",
        "https://app.example.com/callback\\@evil.com",
        "https://app.example.com/callback%00",
        "https://app.example.com/callback ",
        " https://app.example.com/callback",
        "https://аpp.example.com/callback",
        "http://app.example.com/callback",
        "javascript:alert(1)",
        "data:text/html,x",
        "",
    ]
    tricks += [
        registered[:at] + character + registered[at:] for at in range(len(registered)) for character in "./@\\%#"
    ]
    assert len(tricks) >= 200
    for trick in tricks:
        assert not is_same_redirect(trick, registered), trick
    loopback = "http://127.0.0.1/cb?a=1"
    assert is_same_redirect("http://127.0.0.1:49152/cb?a=1", loopback)
    assert is_same_redirect("http://[::1]:1/cb", "http://[::1]:8000/cb")
    for trick in (
        "http://127.0.0.1:49152/cb", "http://127.0.0.1:49152/cb?a=2", "http://127.0.0.2:49152/cb?a=1", "https://127.0.0.1:1/cb?a=1",
        "http://127.0.0.1:0/cb?a=1", "http://127.0.0.1:x/cb?a=1", "http://127.0.0.1:80@evil.com/cb?a=1", "http://localhost:1/cb?a=1",
        "http://127.0.0.1:1/cb?a=1#x", "http://127.0.0.1:01/cb?a=1",
    ):  # fmt: skip
        assert not is_same_redirect(trick, loopback), trick


# Pushed requests


def push(flow: Flow, headers: dict[str, str] | None = None, **change: str | None) -> Any:
    fields = dict(parse_qs(flow.query(**change)))
    user = (flow.made.client.id, flow.made.secret)
    given = {name: values[0] for name, values in fields.items()}
    return flow.api.client.post("/oauth/par", data=given, auth=user, headers=headers)


def test_a_pushed_request_is_what_is_asked_and_nothing_in_the_link_changes_it(flow: Flow) -> None:
    pushed = push(flow, scope="tasks:read")
    assert (pushed.status_code, pushed.json()["expires_in"]) == (201, 90)
    link = {"client_id": flow.made.client.id, "request_uri": pushed.json()["request_uri"]}
    page = flow.browser.get(
        "/oauth/authorize?" + urlencode({**link, "scope": "tasks:write", "redirect_uri": "https://evil.example.com"})
    )
    assert page.status_code == 200
    signed_in = flow.post(page.text, step="sign-in", email=EMAIL, password=PASSWORD)
    consent = flow.browser.get(signed_in.headers["location"])
    assert "tasks:read" in consent.text
    assert "tasks:write" not in consent.text
    told = flow.sent_back(flow.post(consent.text, step="decide", decision="allow"))
    assert flow.exchange(told["code"]).json()["scope"] == "tasks:read"


def test_a_pushed_request_is_its_clients_and_checked_at_once(flow: Flow) -> None:
    uri = push(flow).json()["request_uri"]
    other = make(flow.api, "other").client.id
    for link in (
        {"client_id": other, "request_uri": uri},
        {"request_uri": uri},
        {"client_id": flow.made.client.id, "request_uri": uri[:-2] + ("00" if uri[-2:] != "00" else "11")},
        {"client_id": flow.made.client.id, "request_uri": uri[:60]},
    ):
        assert flow.browser.get("/oauth/authorize?" + urlencode(link)).status_code == 400, link
    for change, error in (
        ({"redirect_uri": "https://evil.example.com/"}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"request_uri": uri}, "invalid_request"),
    ):
        refused = push(flow, **change)
        assert (refused.status_code, refused.json()["error"]) == (400, error), change
    fields = {"client_id": flow.made.client.id, "client_secret": "wrong"}
    assert flow.api.client.post("/oauth/par", data=fields).status_code == 401


# Codes for one key


def proof(key: Key, path: str) -> dict[str, str]:
    return {"dpop": key.proof("POST", path, htu=f"http://testserver{path}")}


@pytest.fixture
def keys(flow: Flow) -> tuple[Key, Key]:
    clock = ManualClock()
    clock.set_wall(flow.api.garrison._runtime._clock.now())  # type: ignore[union-attr]
    return Key(clock), Key(clock)


@pytest.mark.parametrize("way", ["in the link", "pushed", "by proof"])
def test_a_code_is_for_the_key_that_was_named_and_no_other(flow: Flow, keys: tuple[Key, Key], way: str) -> None:
    key, other = keys
    flow.sign_in()
    if way == "in the link":
        page = flow.ask(dpop_jkt=key.jkt)
    else:
        pushed = push(flow, dpop_jkt=key.jkt) if way == "pushed" else push(flow, proof(key, "/oauth/par"))
        link = {"client_id": flow.made.client.id, "request_uri": pushed.json()["request_uri"]}
        page = flow.browser.get("/oauth/authorize?" + urlencode(link))
    code = flow.sent_back(flow.post(page.text, step="decide", decision="allow"))["code"]
    for headers in (None, proof(other, "/oauth/token")):
        assert flow.exchange(code, headers).json()["error"] == "invalid_grant"
    answer = flow.exchange(code, proof(key, "/oauth/token"))
    assert (answer.status_code, answer.json()["token_type"]) == (200, "DPoP")


def test_a_pushed_request_names_one_key_and_proves_it(flow: Flow, keys: tuple[Key, Key]) -> None:
    key, other = keys
    assert push(flow, proof(key, "/oauth/par"), dpop_jkt=key.jkt).status_code == 201
    for refused in (
        push(flow, proof(key, "/oauth/par"), dpop_jkt=other.jkt),
        push(flow, proof(key, "/oauth/token")),
        push(flow, {"dpop": "x"}),
    ):
        assert (refused.status_code, refused.json()["error"]) == (400, "invalid_dpop_proof")


# How lately the person signed in


@pytest.mark.parametrize(
    ("change", "asks"),
    [
        ({}, False),
        ({"max_age": "200"}, False),
        ({"max_age": "1000000"}, False),
        ({"max_age": "0"}, True),
        ({"prompt": "login"}, True),
        ({"prompt": "consent login"}, True),
    ],
)
def test_a_client_may_ask_for_a_sign_in_of_now(flow: Flow, change: dict[str, Any], asks: bool) -> None:
    flow.consent()
    page = flow.ask(**change)
    assert ('name="password"' in page.text) is asks
    uri = push(flow, **change).json()["request_uri"]
    page = flow.browser.get("/oauth/authorize?" + urlencode({"client_id": flow.made.client.id, "request_uri": uri}))
    assert ('name="password"' in page.text) is asks
    if asks:
        told = flow.consent(**change)
        assert flow.exchange(told["code"]).status_code == 200


def test_no_client_stretches_how_long_a_sign_in_is_good_for_consent(
    flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow.consent()
    monkeypatch.setattr("garrison.identity.oauth.person.FRESH_S", 0.0)
    assert 'name="password"' in flow.ask(max_age="1000000").text


def test_who_says_nothing_but_none_and_now_is_told_that_a_sign_in_is_needed(flow: Flow) -> None:
    flow.consent()
    assert flow.sent_back(flow.ask(prompt="none"))["error"] == "consent_required"
    assert flow.sent_back(flow.ask(prompt="none", max_age="0"))["error"] == "login_required"


def test_a_sign_in_makes_a_pushed_request_anew_so_that_a_slow_one_is_no_end(flow: Flow) -> None:
    link = {"client_id": flow.made.client.id, "request_uri": push(flow).json()["request_uri"]}
    page = flow.browser.get("/oauth/authorize?" + urlencode(link))
    answer = flow.post(page.text, step="sign-in", email=EMAIL, password=PASSWORD)
    given = parse_qs(urlsplit(answer.headers["location"]).query)
    assert given["client_id"] == [link["client_id"]]
    assert given["request_uri"] != [link["request_uri"]]
    assert 'value="allow"' in flow.browser.get(answer.headers["location"]).text


# The pages


def test_what_is_posted_is_what_was_shown_to_this_session(flow: Flow) -> None:
    answer = flow.sign_in()
    page = flow.browser.get(answer.headers["location"]).text
    stranger = Flow(flow.api, flow.made)
    again = stranger.post(page, step="decide", decision="allow")
    assert again.status_code == 401
    assert "location" not in again.headers
    flow.api.client.post("/auth/sign-up", json={"email": "bob@example.com", "password": PASSWORD})
    stranger.browser.post("/auth/sign-in", json={"email": "bob@example.com", "password": PASSWORD})
    assert stranger.post(page, step="decide", decision="allow").status_code == 401, (
        "Bob cannot be made to post Ada's page"
    )
    (request,) = re.findall(r'name="request" value="([^"]*)"', page)
    for changed in (request[:-2] + ("00" if request[-2:] != "00" else "11"), "", "zz", request[:40]):
        assert (
            flow.browser.post(
                "/oauth/authorize", data={"request": changed, "step": "decide", "decision": "allow"}
            ).status_code
            == 400
        )


def end_elsewhere(api: Api, session_id: str) -> None:
    """End a session as another process does whose news has not been heard here yet."""
    assert api.execute("DELETE FROM sessions WHERE id = :id", id=session_id) == 1


@pytest.mark.parametrize("decision", ["allow", "deny"])
def test_a_session_that_was_ended_a_moment_ago_at_another_process_consents_to_nothing(
    flow: Flow, decision: str
) -> None:
    consent = flow.browser.get(flow.sign_in().headers["location"])
    session_id = flow.browser.get("/auth/session").json()["session"]["id"]
    end_elsewhere(flow.api, session_id)
    assert flow.browser.get("/auth/session").status_code == 200, "this process has not heard of it"
    answer = flow.post(consent.text, step="decide", decision=decision)
    if decision == "deny":
        assert flow.sent_back(answer)["error"] == "access_denied"
    else:
        assert (answer.status_code, 'name="password"' in answer.text) == (401, True)


@pytest.mark.parametrize("how", ["disabled", "deleted"])
def test_a_client_that_ended_while_the_page_was_open_gets_no_code(flow: Flow, how: str) -> None:
    consent = flow.browser.get(flow.sign_in().headers["location"])
    client_id, clients = flow.made.client.id, flow.api.clients
    if how == "disabled":
        flow.api.portal(lambda: clients.set_status(client_id, "disabled"))
    else:
        flow.api.portal(lambda: clients.delete(client_id))
    answer = flow.post(consent.text, step="decide", decision="allow")
    assert (answer.status_code, "location" in answer.headers) == (400, False)


def test_a_client_that_was_disabled_and_enabled_again_has_no_code_from_before(flow: Flow) -> None:
    code, client_id = flow.consent()["code"], flow.made.client.id
    flow.api.portal(lambda: flow.api.clients.set_status(client_id, "disabled"))
    flow.api.portal(lambda: flow.api.clients.set_status(client_id, "active"))
    assert flow.exchange(code).json()["error"] == "invalid_grant"


def test_a_client_that_ends_while_it_shows_its_code_gets_nothing(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the secret and the change that spends the code, an administrator is faster."""
    code, authenticate = flow.consent()["code"], ClientService.authenticate

    async def and_then_it_ends(self: ClientService, client_id: str, secret: str) -> Any:
        found = await authenticate(self, client_id, secret)
        await self.set_status(client_id, "disabled")
        return found

    monkeypatch.setattr(ClientService, "authenticate", and_then_it_ends)
    assert flow.exchange(code).json()["error"] == "invalid_grant"


def test_another_site_cannot_post_and_nobody_can_frame(flow: Flow) -> None:
    answer = flow.sign_in()
    page = flow.browser.get(answer.headers["location"])
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' https://app.example.com" in policy
    assert page.headers["x-frame-options"] == "DENY"
    assert page.headers["cache-control"] == "no-store"
    (request,) = re.findall(r'name="request" value="([^"]*)"', page.text)
    forged = flow.browser.post(
        "/oauth/authorize",
        data={"request": request, "step": "decide", "decision": "allow"},
        headers={"origin": "https://evil.example.com"},
    )
    assert (forged.status_code, forged.json()["code"]) == (403, "cross_site")


@pytest.mark.parametrize("path", ["/oauth/authorize", "/oauth/device/verify"])
def test_an_origin_that_is_allowed_decides_nothing_for_a_person(tmp_path: Path, path: str) -> None:
    """It may ask the API with cookies and read what comes, our pages included; an XSS there is no consent here."""
    spa = "https://spa.example.com"
    with Api(tmp_path, allowed_origins=(spa,)) as api:
        api.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
        flow = Flow(api, make(api))
        page = flow.browser.get(flow.sign_in().headers["location"])
        assert flow.browser.get("/auth/session", headers={"origin": spa}).status_code == 200
        fields = {"request": re.findall(r'name="request" value="([^"]*)"', page.text)[0], "step": "decide"}
        for headers in (
            {"origin": spa},
            {"origin": spa, "sec-fetch-site": "same-site"},
            {"sec-fetch-site": "same-site"},
        ):
            forged = flow.browser.post(path, data={**fields, "decision": "allow"}, headers=headers)
            assert (forged.status_code, forged.json()["code"]) == (403, "cross_site"), headers
            signed_in = {"email": EMAIL, "password": PASSWORD, "step": "sign-in", "request": fields["request"]}
            assert flow.browser.post(path, data=signed_in, headers=headers).status_code == 403, "nor signs anybody in"
        ours = {"origin": "null", "sec-fetch-site": "same-origin"}
        assert flow.browser.post(path, data=fields, headers=ours).status_code != 403, "as browsers send a page of ours"


def test_a_wrong_password_is_told_on_the_page_and_counted(flow: Flow) -> None:
    for _ in range(5):
        answer = flow.sign_in(password="wrong")
        assert (answer.status_code, "That is not right" in answer.text) == (401, True)
        assert "wrong" not in answer.text.replace("not right", "")
    assert "Too many tries" in flow.sign_in(password="wrong").text


def test_names_of_clients_are_text(api: Api) -> None:
    flow = Flow(api, make(api, name="<script>alert(1)</script>"))
    page = flow.ask().text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_a_bearer_token_consents_to_nothing(flow: Flow) -> None:
    shown = {"email": EMAIL, "password": PASSWORD, "deliver": "token"}
    token = flow.api.client.post("/auth/sign-in", json=shown).json()["access_token"]
    page = flow.browser.get(f"/oauth/authorize?{flow.query()}", headers={"authorization": f"Bearer {token}"})
    assert 'name="password"' in page.text


def test_a_client_has_what_it_was_registered_with(api: Api) -> None:
    made: OAuthClient = make(api).client
    assert made.redirect_uris == (BACK, "http://127.0.0.1/cb")
    cases: list[dict[str, Any]] = [{"redirect_uris": []}, {"is_public": True, "grants": ["client_credentials"]}]
    for wrong in cases:
        with pytest.raises(ValueError, match="redirect URI|public client"):  # noqa: RUF043 - one of the two
            make(api, **wrong)


def test_what_is_refused_is_told_to_the_app_and_a_page_to_the_log(flow: Flow) -> None:
    with structlog.testing.capture_logs() as logs:
        told = flow.sent_back(flow.ask(code_challenge=None))
        assert told["error"] == "invalid_request"
        assert "code_challenge" in told["error_description"]
        assert flow.sent_back(flow.ask(scope="canary"))["error_description"] == NOT_ITS_SCOPE
        assert flow.sent_back(flow.ask(audience="https://canary.example.com"))["error_description"] == NOT_ITS_AUDIENCE
        assert flow.ask(client_id="cli_canary").status_code == 400
        assert flow.ask(redirect_uri="https://canary.example.com/").status_code == 400
        assert flow.sign_in(password="canary canary").status_code == 401
    codes = [one["code"] for one in logs if one["event"] == "refused"]
    expected = ["invalid_request", "invalid_scope", "invalid_target"]
    assert codes == [*expected, "unknown_client", "unknown_redirect_uri", "invalid_credentials"]
    assert "canary" not in str(logs)
