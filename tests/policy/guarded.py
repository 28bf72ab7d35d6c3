"""Helpers to drive guarded apps in process: a client, a person, a request sent past the guard."""

from typing import Any

import fastapi.routing
from starlette.testclient import TestClient

from garrison import Garrison, Policy
from garrison.serve.settings import Settings
from garrison.store.migrate import ensure_schema

TREE = hasattr(fastapi.routing, "_IncludedRouter")
"""From FastAPI 0.137 on, what is added to a router after it was included is served, too."""
PASSWORD = "a long walk to the sea"
PRODUCTION: dict[str, Any] = {
    "env": "production",
    "secret": "s" * 48,
    "issuer": "https://api.example.com",
    "allowed_hosts": ("testserver",),
    "email_verification": "optional",
}


def client_of(app: Any, *lines: Any, undecided: str = "refuse", **more: Any) -> TestClient:
    """Protect the app with a table of these lines and return a client, without lifespan."""
    protect(app, *lines, undecided=undecided, **more)
    return TestClient(app, follow_redirects=False)


def protect(app: Any, *lines: Any, undecided: str = "refuse", **more: Any) -> Garrison:
    guard = Garrison(Policy(*lines), settings=Settings(undecided=undecided, password_cost="m=8,t=1,p=1", **more))
    guard.protect(app)
    return guard


def production(app: Any, *lines: Any) -> TestClient:
    """The same in production, over TLS."""
    settings = Settings(**PRODUCTION, database_url=f"sqlite:///var/production-{id(app)}.db")
    ensure_schema(settings.store_address, migrate=True)
    Garrison(Policy(*lines), settings=settings).protect(app)
    return TestClient(app, base_url="https://testserver", follow_redirects=False)


def sign_in(client: TestClient, email: str = "ada@example.com") -> str:
    """Sign up and in with a cookie; returns the account's id."""
    assert client.post("/auth/sign-up", json={"email": email, "password": PASSWORD}).status_code == 202
    assert client.post("/auth/sign-in", json={"email": email, "password": PASSWORD}).status_code == 200
    found: str = client.get("/auth/session").json()["account"]["id"]
    return found


def past_the_guard(app: Any) -> TestClient:
    """Return a client of the app as another server would run it, unwrapped: its class's own `__call__`."""
    original = type(app).__mro__[1].__call__

    async def bare(scope: Any, receive: Any, send: Any) -> None:
        await original(app, scope, receive, send)

    return TestClient(bare, raise_server_exceptions=False)
