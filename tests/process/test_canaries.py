"""T15: a unique secret in every input, and none of them in any artefact afterwards.

Responses, logs at DEBUG, database with its write-ahead log, whatever else lies in the server's directory: raw, base 64,
hex, URL-encoded, and either half (≥ 8 characters). A planted leak shows that the search finds one.
"""

import base64
import json
import os
import re
import urllib.parse
from pathlib import Path

from tests.process import forks
from tests.process.server import GARRISON, RAISED, Server, sign_in, sign_up

APP = """
from fastapi import FastAPI, Request
from garrison import Garrison, public

app = FastAPI()
Garrison().protect(app)

@app.post("/breaks/{word}")
@public
async def breaks(word: str, request: Request):
    body = await request.body()
    told = request.query_params, request.headers.get('authorization'), request.cookies
    raise RuntimeError(f"{body!r} {word} {told}")
"""
CHEAP = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1", "GARRISON_LOG_LEVEL": "debug"}


def canary(name: str) -> str:
    """A value that stands for itself in every encoding: 24 characters of one alphabet, unlike any other's."""
    return "".join(f"{ord(letter) ^ 0x15:02x}" for letter in (name + "0123456789")[:12])


def forms(secret: str) -> list[bytes]:
    raw = secret.encode()
    half = len(secret) // 2
    shift = [base64.b64encode(b"x" * pad + raw)[4:-4] for pad in range(3)]
    return [
        raw, raw.hex().encode(), base64.b64encode(raw).rstrip(b"="), *shift,
        urllib.parse.quote(secret, safe="").encode(),
        secret[:half].encode(), secret[half:].encode(), secret[::-1].encode(),
    ]  # fmt: skip


def leaks(secrets: dict[str, str], artefacts: dict[str, bytes]) -> list[tuple[str, str]]:
    return [
        (name, place)
        for name, secret in secrets.items()
        for place, content in artefacts.items()
        if any(form in content for form in forms(secret))
    ]


def artefacts(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def test_no_secret_is_found_in_any_artefact(tmp_path: Path) -> None:
    (tmp_path / "breaking.py").write_text(APP)
    secrets = {
        name: canary(name)
        for name in (
            "password",
            "wrong",
            "new",
            "jsonword",
            "query",
            "header",
            "cookie",
            "path",
            "basic",
            "filename",
            "unknown",
            "form",
            "common",
            "refresh",
            "apikey",
            "client",
            "code",
            "state",
            "provider",
        )
    }
    environment_secret = "environment-canary-" + canary("env")
    responses: list[bytes] = []
    provider = {"name": "acme", "issuer": "http://127.0.0.1:9", "client_id": "a", "client_secret": secrets["provider"]}
    environment = {
        **CHEAP,
        "GARRISON_SECRET": environment_secret,
        "GARRISON_BASIC": "1",
        "GARRISON_PROVIDERS": json.dumps([provider]),
    }
    with Server(tmp_path, app="breaking:app", environment=environment) as server:
        with server.client() as client:
            client.event_hooks["response"].append(
                lambda answer: responses.append(answer.read() + repr(answer.headers).encode())
            )
            sign_up(client, "canary@example.com", secrets["password"])
            session = sign_in(client, "canary@example.com", secrets["password"])
            token = sign_in(client, "canary@example.com", secrets["password"], deliver="token").json()
            issued = {
                "session cookie": session.cookies["garrison"],
                "device cookie": session.cookies["garrison-device"],
                "access token": token["access_token"],
                "device token": token["device_token"],
                "refresh token": token["refresh_token"],
            }
            refreshed = client.post("/auth/refresh", json={"refresh_token": token["refresh_token"]}).json()
            issued["second refresh token"] = refreshed["refresh_token"]
            bearer = {"authorization": f"Bearer {token['access_token']}"}
            issued["api key"] = client.post("/auth/keys", json={"name": "x"}, headers=bearer).json()["key"]
            command = [GARRISON, "client", "create", "--name", "x", "--audience", server.url, "--json"]
            made = forks.run(command, tmp_path, {**os.environ, **environment})
            machine = json.loads(made.stdout)
            issued["client secret"] = machine["client_secret"]
            fields = {"grant_type": "client_credentials", "client_id": machine["client_id"]}
            answer = client.post("/oauth/token", data={**fields, "client_secret": machine["client_secret"]})
            issued["client's token"] = answer.json()["access_token"]
            responses.clear()  # what was issued stands in the answers that issued it
            client.post("/auth/sign-in", json={"email": "canary@example.com", "password": secrets["wrong"]})
            client.post("/auth/sign-in", json={"email": "nobody@example.com", "password": secrets["wrong"]})
            client.post(
                "/auth/sign-in",
                content='{"email": "canary@example.com", "password": "' + secrets["jsonword"],
                headers={"content-type": "application/json"},
            )
            client.post("/auth/sign-up", json={"email": "x", "password": secrets["common"], secrets["unknown"]: 1})
            client.post("/auth/sign-up", data={"password": secrets["form"]})
            assert (
                client.post(
                    "/auth/password/change", json={"current": secrets["password"], "new": secrets["new"]}
                ).status_code
                == 204
            )
            with server.client() as bare:
                bare.event_hooks["response"].append(
                    lambda answer: responses.append(answer.read() + repr(answer.headers).encode())
                )
                for _ in range(2):
                    broken = bare.post(
                        f"/breaks/{secrets['path']}?q={secrets['query']}",
                        json={"text": secrets["jsonword"], secrets["unknown"]: [secrets["form"]]},
                        headers={"x-custom": secrets["header"], "cookie": f"other={secrets['cookie']}"},
                    )
                    assert broken.status_code == 500
                    assert set(broken.json()) == {"type", "title", "status", "code", "request_id"}
                bare.post("/breaks/x", headers={"authorization": f"Bearer {secrets['header']}"})
                bare.get("/auth/session", headers={"authorization": f"Bearer grs_{secrets['header']}"})
                bare.get("/auth/session", headers={"x-api-key": issued["api key"]})
                bare.get("/auth/session", headers={"x-api-key": "grn_" + secrets["apikey"]})
                bare.get("/auth/session", headers={"authorization": f"Bearer a.{secrets['header']}.b"})
                bare.post(
                    "/auth/refresh", json={"refresh_token": secrets["refresh"], "device_token": secrets["cookie"]}
                )
                bare.post("/auth/refresh", json={"refresh_token": token["refresh_token"]})
                bare.post("/oauth/token", data={**fields, "client_secret": secrets["client"], "scope": secrets["form"]})
                bare.post("/oauth/token", data=fields, auth=(machine["client_id"], secrets["client"]))
                bare.post("/oauth/introspect", data={"token": secrets["refresh"]}, auth=("x", secrets["client"]))
                query = f"code={secrets['code']}&state={secrets['state']}"
                bare.get(
                    f"/auth/providers/acme/callback?{query}", headers={"cookie": f"garrison-flow={secrets['cookie']}"}
                )
                bare.get(f"/auth/providers/acme/start?return_to=/{secrets['query']}")
                basic = base64.b64encode(f"canary@example.com:{secrets['basic']}".encode()).decode()
                bare.get("/auth/session", headers={"authorization": f"Basic {basic}"})
                bare.post("/breaks/file", files={"file": (secrets["filename"], secrets["form"].encode())})
                bare.get(f"/auth/session?access_token={secrets['query']}&{secrets['query']}=1")
        everything = {**artefacts(tmp_path), **{f"response {n}": text for n, text in enumerate(responses)}}
    everything |= artefacts(tmp_path)
    log = everything["server.log"]
    assert b"RuntimeError" in log, "the exception must be told inside"
    assert re.search(rb"[0-9a-f]{12}", log)
    unnamed = {name: text for name, text in everything.items() if b"extra_forbidden" not in text}
    found = leaks({**secrets, **issued, "environment": environment_secret}, unnamed)
    # A pointer names the unknown field to whoever sent it, and nothing else of it.
    found += leaks({name: secret for name, secret in secrets.items() if name != "unknown"}, everything)
    assert not found, found
    assert len(everything) > 8


def test_the_search_finds_a_planted_leak() -> None:
    secret = canary("password")
    for content in (
        b"x" + secret.encode(), b"log " + base64.b64encode(b"user:" + secret.encode()), secret.encode().hex().encode(),
        secret[:12].encode(), secret[12:].encode(),
    ):  # fmt: skip
        assert leaks({"password": secret}, {"log": b"line\n" + content}) == [("password", "log")], content
    assert leaks({"password": secret}, {"log": canary("wrong").encode()}) == []
