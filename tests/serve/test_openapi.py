"""The credentials that our documents name are those that the rules take."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from garrison import Garrison, allow, public
from garrison.identity.settings import PasswordCost
from garrison.serve.settings import Settings
from tests.stores import store_url

RULES = {
    "/open": public,
    "/signed-in": allow(signed_in=True),
    "/scoped": allow(scope="tasks:read"),
    "/admin": allow(role="admin", scope="tasks:read"),
    "/machines": allow(credentials="client key basic"),
    "/sessions": allow(credentials="session"),
}


def _documents(path: Path, **more: Any) -> Iterator[dict[str, Any]]:
    app = FastAPI()
    for route, rule in RULES.items():
        app.get(route)(rule(_endpoint()))
    settings = Settings(
        database_url=store_url(path / "g.db"), secret="s" * 40, password_cost=PasswordCost(8, 1, 1), **more
    )
    with TestClient(Garrison(settings=settings).protect(app)) as client:
        yield client.get("/openapi.json").json()
        yield client.get("/auth/openapi.json").json()


def _endpoint() -> Any:
    async def endpoint() -> str:
        return "ok"

    return endpoint


def _named(document: dict[str, Any], path: str, method: str = "get") -> list[str]:
    return [name for one in document["paths"][path][method].get("security", []) for name in one]


@pytest.mark.parametrize("basic", [False, True])
def test_a_route_names_the_credentials_that_its_rule_takes(tmp_path: Path, basic: bool) -> None:
    app, own = _documents(tmp_path, basic=basic)
    more = ["basic"] if basic else []
    assert {path: _named(app, path) for path in RULES} == {
        "/open": [],
        "/signed-in": ["session", "bearer"],
        "/scoped": ["session", "bearer", "key", *more],
        "/admin": ["session", "bearer", *more],
        "/machines": ["bearer", "key", *more],
        "/sessions": ["session"],
    }
    for document in (app, own):
        schemes = document["components"]["securitySchemes"]
        assert schemes["key"] | {"description": ""} == {
            "type": "apiKey",
            "in": "header",
            "name": "X-API-Key",
            "description": "",
        }
        assert ("basic" in schemes) == basic


@pytest.mark.parametrize(("sign_up_key", "expected"), [("off", ["session"]), ("required", ["key"])])
def test_sign_up_names_the_app_key_where_it_needs_one(tmp_path: Path, sign_up_key: str, expected: list[str]) -> None:
    _, own = _documents(tmp_path, sign_up_key=sign_up_key)
    assert _named(own, "/auth/sign-up", "post") == expected
