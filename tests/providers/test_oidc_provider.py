"""Sign in with `oidc-provider`, a certified OpenID provider: everything over TCP, nothing of it written by us."""

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from tests.process import forks
from tests.process.npm import installed, needs_node
from tests.process.server import GARRISON, RAISED, Server, free_port
from tests.providers.rig import API, CLIENT_SECRET, LANDING, Browser, Provider

HERE = Path(__file__).parent
BOUND_S, LEEWAY_S = 2.0, 1
pytestmark = needs_node


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(HERE, tmp_path_factory)


@dataclass
class Place:
    """A running `garrison serve`, and the provider that it knows."""

    server: Server
    provider: Provider
    browsers: list[Browser] = field(default_factory=list)

    @property
    def start(self) -> str:
        return f"{self.server.url}/auth/providers/acme/start?return_to=/tasks"

    @property
    def callback(self) -> str:
        return f"{self.server.url}/auth/providers/acme/callback"

    def browser(self) -> Browser:
        self.browsers.append(Browser())
        return self.browsers[-1]

    def arrives(self, browser: Browser, name: str) -> httpx2.Response:
        """Sign in at the provider, and come back."""
        return browser.get(browser.way(self.start, name, until=self.callback))

    def account(self, browser: Browser) -> Any:
        """Who the browser is signed in as; None for nobody."""
        answer = browser.get(f"{self.server.url}/auth/session")
        return answer.json()["account"] if answer.status_code == 200 else None


@contextmanager
def both(packages: Path, directory: Path, *, in_id_token: bool = False) -> Iterator[Place]:
    """Run a provider, and a server that knows it as one to sign in with and as an issuer of tokens."""
    port = free_port()
    redirect_uri = f"http://127.0.0.1:{port}/auth/providers/acme/callback"
    with Provider(packages, free_port(), redirect_uri, in_id_token=in_id_token) as provider:
        known = {"name": "acme", "issuer": provider.issuer, "client_id": "garrison", "client_secret": CLIENT_SECRET}
        foreign = {"issuer": provider.issuer, "audience": API, "scopes": {"read:tasks": "tasks:read"}}
        environment = {
            **RAISED,
            "GARRISON_LEEWAY": f"{LEEWAY_S}s",
            "GARRISON_PROVIDERS": json.dumps([known]),
            "GARRISON_FOREIGN_ISSUERS": json.dumps([foreign]),
        }
        with Server(directory, port=port, environment=environment) as server:
            place = Place(server, provider)
            yield place
            for browser in place.browsers:
                browser.close()
        assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def place(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with both(packages, tmp_path_factory.mktemp("server")) as place:
        yield place


def refused(answer: httpx2.Response, status: int, code: str) -> bool:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_person_signs_in_and_is_the_same_one_the_next_time(place: Place) -> None:
    browser = place.browser()
    answer = place.arrives(browser, "ada")
    assert (answer.status_code, answer.headers.get("location")) == (303, "/tasks"), answer.text
    account = place.account(browser)
    assert account["email"] == "ada@example.com"
    assert browser.get(f"{place.server.url}/tasks").status_code == 200
    assert "garrison-flow" not in browser.client.cookies

    elsewhere = place.browser()
    assert place.arrives(elsewhere, "ada").status_code == 303
    assert place.account(elsewhere) == account
    assert place.arrives(elsewhere, "").status_code == 303, "the provider knows this browser, and asks nothing"
    assert place.account(elsewhere) == account
    other = place.browser()
    place.arrives(other, "grace")
    assert place.account(other)["id"] != account["id"]


def test_a_provider_that_says_everything_in_its_id_token_does_as_well(packages: Path, tmp_path: Path) -> None:
    with both(packages, tmp_path, in_id_token=True) as place:
        browser = place.browser()
        assert place.arrives(browser, "ada").status_code == 303
        assert place.account(browser)["email"] == "ada@example.com"
        assert refused(place.arrives(place.browser(), "unverified"), 403, "provider_refused")


def test_what_was_begun_in_another_browser_is_refused(place: Place) -> None:
    attacker, victim = place.browser(), place.browser()
    callback = attacker.way(place.start, "mallory", until=place.callback)
    assert refused(victim.get(callback), 403, "provider_refused")
    victim.get(place.start)
    assert refused(victim.get(callback), 403, "provider_refused"), "nor with a flow of its own under way"
    assert place.account(victim) is None
    assert attacker.get(callback).status_code == 303, "it was good, in its own browser"


def test_a_callback_counts_once(place: Place) -> None:
    browser, thief = place.browser(), place.browser()
    callback = browser.way(place.start, "ada", until=place.callback)
    thief.client.cookies.update(browser.client.cookies)
    assert browser.get(callback).status_code == 303
    assert refused(browser.get(callback), 403, "provider_refused")
    assert refused(thief.get(callback), 403, "provider_refused"), "with the flow's cookie, too: the code is spent"
    assert place.account(thief) is None
    assert place.account(browser)["email"] == "ada@example.com"


def test_an_address_that_the_provider_has_not_verified_makes_no_account(place: Place) -> None:
    browser = place.browser()
    assert refused(place.arrives(browser, "unverified"), 403, "provider_refused")
    assert place.account(browser) is None
    listed = forks.run([GARRISON, "account", "list", "--json"], place.server.directory, {"PATH": "/usr/bin:/bin"})
    assert listed.returncode == 0, listed.stderr
    assert "unverified" not in listed.stdout


def test_who_says_no_at_the_provider_is_told_cleanly(place: Place) -> None:
    browser = place.browser()
    location = browser.get(place.start).headers["location"]
    answer = browser.get(location + "&prompt=none")  # nobody is signed in there: it sends an error back
    back = answer.headers["location"]
    assert back.startswith(place.callback)
    assert parse_qs(urlsplit(back).query)["error"] == ["login_required"]
    assert refused(browser.get(back), 403, "provider_refused")


def test_a_provider_that_is_down_is_told_cleanly_and_comes_back_with_other_keys(place: Place) -> None:
    browser = place.browser()
    callback = browser.way(place.start, "ada", until=place.callback)
    place.provider.stop()
    try:
        answer = browser.get(callback)
        assert refused(answer, 503, "issuer_unavailable")
        assert answer.headers["retry-after"] == "2"
        assert place.account(browser) is None
    finally:
        place.provider.start()
    assert place.arrives(place.browser(), "ada").status_code == 303


def test_a_server_that_starts_while_its_provider_is_down_serves_everything_else(tmp_path: Path) -> None:
    known = {"name": "acme", "issuer": f"http://127.0.0.1:{free_port()}", "client_id": "a", "client_secret": "b"}
    environment = {**RAISED, "GARRISON_PROVIDERS": json.dumps([known])}
    with Server(tmp_path, environment=environment) as server:
        answer = httpx2.get(f"{server.url}/auth/providers/acme/start")
        assert refused(answer, 503, "issuer_unavailable")
        assert httpx2.get(f"{server.url}/health/ready").status_code == 200
    assert "Traceback" not in server.log.read_text()


def app_tokens(place: Place, name: str) -> dict[str, Any]:
    """What an app gets at the provider for our API, in the name of somebody."""
    verifier = secrets.token_urlsafe(48)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "client_id": "app",
        "response_type": "code",
        "redirect_uri": LANDING,
        "scope": "openid read:tasks",
        "resource": API,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    landed = place.browser().way(f"{place.provider.issuer}/auth?{urlencode(query)}", name, until=LANDING)
    form = {
        "grant_type": "authorization_code",
        "client_id": "app",
        "code": parse_qs(urlsplit(landed).query)["code"][0],
        "redirect_uri": LANDING,
        "code_verifier": verifier,
    }
    answer = httpx2.post(f"{place.provider.issuer}/token", data=form)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


def test_its_access_tokens_pass_where_a_scope_is_mapped_until_their_subject_is_refused(place: Place) -> None:
    url = place.server.url
    tokens = app_tokens(place, "ada")
    bearer = {"authorization": f"Bearer {tokens['access_token']}"}
    assert httpx2.get(f"{url}/tasks", headers=bearer).status_code == 200
    assert httpx2.post(f"{url}/tasks", json={"title": "x"}, headers=bearer).status_code == 403, "a scope it lacks"
    assert httpx2.get(f"{url}/auth/session", headers=bearer).status_code == 403, "it is nobody's session"
    identity = {"authorization": f"Bearer {tokens['id_token']}"}
    assert httpx2.get(f"{url}/tasks", headers=identity).status_code == 401, "an ID token says who, and permits nothing"

    other = {"authorization": f"Bearer {app_tokens(place, 'grace')['access_token']}"}
    issuer(place, "refuse", "ada")
    settles_at(url, bearer, 401)
    assert httpx2.get(f"{url}/tasks", headers=other).status_code == 200
    time.sleep(LEEWAY_S + 1)
    later = {"authorization": f"Bearer {app_tokens(place, 'ada')['access_token']}"}
    assert httpx2.get(f"{url}/tasks", headers=later).status_code == 401, "issued since, and refused altogether"
    issuer(place, "allow", "ada")
    settles_at(url, later, 200)
    assert httpx2.get(f"{url}/tasks", headers=bearer).status_code == 401, "what was dead stays dead"


def issuer(place: Place, verb: str, subject: str) -> None:
    command = [GARRISON, "issuer", verb, place.provider.issuer, subject]
    done = forks.run(command, place.server.directory, {"PATH": "/usr/bin:/bin", **place.server.environment})
    assert done.returncode == 0, done.stderr


def settles_at(url: str, headers: dict[str, str], expected: int) -> None:
    end = time.monotonic() + BOUND_S
    while httpx2.get(f"{url}/tasks", headers=headers).status_code != expected:
        assert time.monotonic() < end
        time.sleep(0.01)
