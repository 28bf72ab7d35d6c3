"""The Express example with the real npm packages: a stranger who knows nothing of Garrison but two addresses (R14)."""

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from garrison.identity.signing.jose import VerifyingKey, generate_key, sign
from tests.process.npm import installed, needs_node
from tests.process.server import GARRISON, RAISED, ROOT, Server, free_port

EXAMPLE = ROOT / "examples" / "node-express"
AUDIENCE = "https://node.example.com"
pytestmark = needs_node


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(EXAMPLE, tmp_path_factory)


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, dict[str, Any]]]:
    port = free_port()
    issuer = f"http://127.0.0.1:{port}/"
    environment = {**RAISED, "GARRISON_ISSUER": issuer, "GARRISON_JWKS_MAX_AGE": "2"}
    directory = tmp_path_factory.mktemp("provider")
    with Server(directory, app=None, port=port, environment=environment) as server:
        command = ["client", "create", "--name", "node", "--audience", AUDIENCE, "--scope", "tasks:read", "--json"]
        yield server, issuer, json.loads(garrison(server, *command))


def garrison(server: Server, *arguments: str) -> str:
    environment = {**os.environ, **server.environment}
    done = subprocess.run(
        [GARRISON, *arguments], cwd=server.directory, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(params=["8", "6"])
def express(
    request: pytest.FixtureRequest, packages: Path, provider: tuple[Server, str, dict[str, Any]]
) -> Iterator[httpx2.Client]:
    _, issuer, client = provider
    port = free_port()
    environment = {
        **os.environ,
        "ISSUER": issuer,
        "AUDIENCE": AUDIENCE,
        "CLIENT_ID": client["client_id"],
        "CLIENT_SECRET": client["client_secret"],
        "PORT": str(port),
        "EXPRESS_JWT": request.param,
    }
    process = subprocess.Popen(["node", "server.js"], cwd=packages, env=environment, stdout=subprocess.DEVNULL)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as app:
            end = time.monotonic() + 20
            while True:
                try:
                    app.get("/test")
                    break
                except httpx2.TransportError:
                    assert time.monotonic() < end
                    assert process.poll() is None
                    time.sleep(0.05)
            yield app
    finally:
        process.terminate()
        process.wait(15)


def shown(app: httpx2.Client, token: str | None) -> int:
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return app.get("/test-auth", headers=headers).status_code


def kid(token: str) -> str:
    head = token.partition(".")[0]
    return str(json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])


def test_a_stranger_takes_our_tokens_and_no_others(
    express: httpx2.Client, provider: tuple[Server, str, dict[str, Any]]
) -> None:
    server, issuer, _ = provider
    assert express.get("/test").status_code == 200
    answer = express.get("/get-token")
    assert answer.status_code == 200, answer.text
    token = answer.json()["access_token"]
    assert shown(express, token) == 200
    assert shown(express, None) == 401
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    assert (claims["iss"], claims["aud"], claims["sub"]) == (issuer, AUDIENCE, claims["client_id"])
    tampered = base64.urlsafe_b64encode(json.dumps({**claims, "sub": "cli_admin"}).encode()).rstrip(b"=").decode()
    unsigned = base64.urlsafe_b64encode(b'{"alg":"none","typ":"at+jwt"}').rstrip(b"=").decode()
    foreign = sign({"typ": "at+jwt"}, claims, VerifyingKey(kid(token), "RS256", generate_key("RS256")))
    for wrong in (f"{head}.{tampered}.{signature}", f"{unsigned}.{body}.", foreign, token[:-4] + "AAAA", "x"):
        assert shown(express, wrong) == 401

    garrison(server, "keys", "rotate")
    end = time.monotonic() + 20
    while kid(fresh := express.get("/get-token").json()["access_token"]) == kid(token):
        assert shown(express, fresh) == 200
        assert time.monotonic() < end, "the next key does not sign"
        time.sleep(0.2)
    assert shown(express, fresh) == 200
    assert shown(express, token) == 200, "what the key before signed is good until it ends"
