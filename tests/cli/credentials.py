"""One credential of each kind, as people and machines hold them, and which of them open anything."""

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from typer.testing import CliRunner, Result

from garrison.cli.main import app
from tests.process.server import PASSWORD, Server, sign_in, sign_up

ALL = frozenset({"cookie", "access", "refresh", "key", "client", "client token"})
"""`client` is the secret of an OAuth client, `client token` what it got for it."""


def command(directory: Path, *arguments: str, stdin: str = "", environment: Mapping[str, str] | None = None) -> Result:
    """Run a command in this process (a process of its own costs a second), in a directory and environment of its own.

    Nothing in this process may have the database open: its locks would be this process's own.
    """
    kept = dict(os.environ)
    others = {name: value for name, value in kept.items() if not name.startswith("GARRISON_")}
    with contextlib.chdir(directory):
        os.environ.clear()
        os.environ.update({**others, **(environment or {})})
        try:
            return CliRunner().invoke(app, arguments, input=stdin)
        finally:
            os.environ.clear()
            os.environ.update(kept)


def document(server: Server, *arguments: str) -> Any:
    """Run a command beside the server and return its JSON document."""
    environment = {"PORT": str(server.port), **server.environment}
    done = command(server.directory, *arguments, "--json", environment=environment)
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


@dataclass
class Credentials:
    """What one person and their machines hold."""

    email: str
    cookie: dict[str, str] = field(default_factory=dict)
    access: str = ""
    refresh: str = ""
    key: dict[str, Any] = field(default_factory=dict)
    client: dict[str, Any] = field(default_factory=dict)
    client_token: str = ""

    @classmethod
    def of(cls, server: Server, name: str) -> "Credentials":
        """Sign a new person up and in, by cookie and by token, and make a key and a client."""
        held = cls(f"{name}@example.com")
        with httpx2.Client(base_url=server.url) as client:
            sign_up(client, held.email)
            sign_in(client, held.email)
            held.cookie = dict(client.cookies)
        held.sign_in(server)
        held.key = document(
            server, "key", "create", "--account", held.email, "--name", "ci", "--scope", "tasks:read tasks:write"
        )
        held.client = document(
            server, "client", "create", "--name", name, "--scope", "tasks:read tasks:write", "--audience", server.url
        )
        held.client_token = held.ask_as_client(server) or ""
        return held

    def sign_in(self, server: Server, password: str = PASSWORD) -> None:
        """Sign in for a new family of tokens."""
        with httpx2.Client(base_url=server.url) as client:
            given = sign_in(client, self.email, password, deliver="token").json()
        self.access, self.refresh = given["access_token"], given["refresh_token"]

    def ask_as_client(self, server: Server) -> str | None:
        """Return a token of the client's own, None where it is refused."""
        answer = httpx2.post(
            f"{server.url}/oauth/token",
            data={"grant_type": "client_credentials"},
            auth=(self.client["client_id"], self.client["client_secret"]),
        )
        assert answer.status_code in (200, 401), answer.text
        return str(answer.json()["access_token"]) if answer.status_code == 200 else None

    def alive(self, server: Server) -> frozenset[str]:
        """Return which of them open anything; a refresh token that does is rotated."""
        found = {
            name
            for name, headers in (
                ("cookie", {"cookie": "; ".join(f"{name}={value}" for name, value in self.cookie.items())}),
                ("access", {"authorization": f"Bearer {self.access}"}),
                ("key", {"x-api-key": self.key["key"]}),
                ("client token", {"authorization": f"Bearer {self.client_token}"}),
            )
            if opens(server, headers)
        }
        answer = httpx2.post(f"{server.url}/auth/refresh", json={"refresh_token": self.refresh})
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 200:
            found.add("refresh")
            self.refresh = answer.json()["refresh_token"]
        if self.ask_as_client(server) is not None:
            found.add("client")
        return frozenset(found)


def opens(server: Server, headers: dict[str, str]) -> bool:
    status = httpx2.get(f"{server.url}/tasks", headers=headers).status_code
    assert status in (200, 401), status
    return status == 200


def kids(server: Server) -> list[str]:
    """Return the ids of the keys in the JWKS."""
    return [key["kid"] for key in httpx2.get(f"{server.url}/.well-known/jwks.json").json()["keys"]]
