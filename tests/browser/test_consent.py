"""Authorization code with PKCE end to end in a real Chromium: sign in, consent, callback, API call, refresh, revoke."""

import base64
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import pytest

from tests.process.npm import installed, needs_node
from tests.process.server import GARRISON, Server, sign_up

HERE = Path(__file__).parent
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
EMAIL, PASSWORD = "ada@example.com", "a long walk to the sea"
pytestmark = [
    pytest.mark.alone,
    needs_node,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (make system)"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(HERE, tmp_path_factory)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("consent")) as server:
        sign_up(server.client(), EMAIL)
        yield server


class Landing(BaseHTTPRequestHandler):
    """The app's own page, which the browser comes back to."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.end_headers()
        self.wfile.write(b"back in the app")

    def log_message(self, *_arguments: Any) -> None:
        return


@pytest.fixture
def landing() -> Iterator[str]:
    app = HTTPServer(("127.0.0.1", 0), Landing)
    thread = threading.Thread(target=app.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{app.server_address[1]}/callback"
    app.shutdown()
    app.server_close()


def drive(driver: Path, *arguments: str) -> Any:
    done = subprocess.run(
        ["node", "consent.mjs", *arguments],
        cwd=driver,
        env={**os.environ, "CHROMIUM": CHROMIUM},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_a_person_consents_and_the_app_acts_until_it_is_over(driver: Path, server: Server, landing: str) -> None:
    command = [
        GARRISON, "client", "create", "--name", "Task app", "--public", "--grant", "authorization_code",
        "--grant", "refresh_token", "--audience", server.url, "--scope", "tasks:read tasks:write",
        "--redirect-uri", "http://127.0.0.1/callback", "--json",
    ]  # fmt: skip
    made = subprocess.run(command, cwd=server.directory, capture_output=True, text=True, check=True)
    client_id = json.loads(made.stdout)["client_id"]
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(12)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    query = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": landing,
        "scope": "openid tasks:read tasks:write",
        "state": state,
        "code_challenge": challenge,
        "code_challenge_method": "S256",
    }
    link = f"{server.url}/oauth/authorize?{urlencode(query)}"

    refused = drive(driver, link, EMAIL, PASSWORD, "deny", landing)
    told = parse_qs(urlsplit(refused["ended"]).query)
    assert (told["error"], told["state"]) == (["access_denied"], [state])

    seen = drive(driver, link, EMAIL, PASSWORD, "allow", landing)
    assert seen["titles"] == ["Sign in", "May it?"]
    assert not [one for one in seen["complaints"] if "favicon" not in one], "nothing was against the page's own policy"
    assert {(one["name"], one["httpOnly"], one["sameSite"]) for one in seen["cookies"]} == {
        ("garrison", True, "Lax"),
        ("garrison-device", True, "Lax"),
    }
    told = parse_qs(urlsplit(seen["ended"]).query)
    assert (told["state"], told["iss"]) == ([state], [server.url])

    fields = {
        "client_id": client_id,
        "grant_type": "authorization_code",
        "redirect_uri": landing,
        "code_verifier": verifier,
    }
    tokens = httpx2.post(f"{server.url}/oauth/token", data={**fields, "code": told["code"][0]}).json()
    bearer = {"authorization": f"Bearer {tokens['access_token']}"}
    assert httpx2.post(f"{server.url}/tasks", json={"title": "from the app"}, headers=bearer).status_code == 201
    assert httpx2.get(f"{server.url}/auth/session", headers=bearer).status_code == 403, (
        "first-party calls are not given"
    )
    fields = {"client_id": client_id, "grant_type": "refresh_token"}
    again = httpx2.post(f"{server.url}/oauth/token", data={**fields, "refresh_token": tokens["refresh_token"]}).json()
    bearer = {"authorization": f"Bearer {again['access_token']}"}
    assert [one["title"] for one in httpx2.get(f"{server.url}/tasks", headers=bearer).json()] == ["from the app"]
    ended = httpx2.post(f"{server.url}/oauth/revoke", data={"client_id": client_id, "token": again["refresh_token"]})
    assert ended.status_code == 200
    assert httpx2.get(f"{server.url}/tasks", headers=bearer).status_code == 401
