"""A server that sends no lifespan: news is heard at each request, and the store may be gone then."""

import os
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from garrison import Garrison, allow, public

PERSON = {"email": "ada@example.com", "password": "a long walk to the sea"}


def test_a_broken_store_is_a_503_for_whoever_needs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GARRISON_PASSWORD_COST", "m=64,t=1,p=1")
    monkeypatch.setenv("GARRISON_REVOCATION_BOUND", "0.001")
    app = FastAPI(openapi_url=None)
    app.get("/open")(public(lambda: "open"))
    app.get("/mine")(allow(signed_in=True)(lambda: "mine"))
    Garrison().protect(app)
    client = TestClient(app)
    assert client.post("/auth/sign-up", json=PERSON).status_code == 202
    assert client.post("/auth/sign-in", json=PERSON).status_code == 200
    assert client.get("/mine").json() == "mine"
    for file in tmp_path.glob("var/garrison.db*"):
        with file.open("r+b") as opened:
            opened.write(os.urandom(file.stat().st_size))
    assert TestClient(app).get("/open").json() == "open"
    for method, path in (("GET", "/mine"), ("GET", "/health/ready"), ("POST", "/auth/sign-out")):
        answer = client.request(method, path)
        assert answer.status_code == 503, path
    assert client.get("/mine").json()["code"] == "store_unavailable"
    assert "retry-after" in client.get("/mine").headers
