"""One server with a person on it, and the clients that the packages are registered as."""

import json
import subprocess
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from tests.packages.person import EMAIL, PASSWORD, Person
from tests.process.server import GARRISON, PLENTY, RAISED, Server, sign_up

REDIRECTS = {"confidential": "https://app.example.com/callback", "public": "http://127.0.0.1:49152/callback"}
"""What each kind asks for: an app on this machine listens at some port, which is not registered (RFC 8252 7.3)."""
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
SCOPE = "openid email tasks:read tasks:write"
LIMITS = {f"GARRISON_LIMIT_{name}": PLENTY for name in ("OAUTH_TOKEN", "OAUTH_TOKEN_FAILED")}
_MAKE = {
    "confidential": ("--grant", "client_credentials", "--redirect-uri", REDIRECTS["confidential"]),
    "public": ("--public", "--redirect-uri", "http://127.0.0.1/callback"),
}


class Registered(NamedTuple):
    """A client as its developer knows it; a public one has no secret."""

    client_id: str
    client_secret: str | None
    redirect_uri: str


Clients = Mapping[str, Registered]
"""By kind: `confidential`, `public`."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("packages"), environment={**RAISED, **LIMITS}) as server:
        sign_up(server.client(), EMAIL, PASSWORD)
        yield server


@pytest.fixture(scope="session")
def clients(server: Server) -> Clients:
    """Make the clients by the command, which takes a while to start: all at once."""
    started = {
        kind: subprocess.Popen(_command(kind, server), cwd=server.directory, stdout=subprocess.PIPE) for kind in _MAKE
    }
    return {kind: _registered(kind, process) for kind, process in started.items()}


def _command(kind: str, server: Server) -> list[str]:
    return [
        GARRISON, "client", "create", "--name", f"The {kind} one", "--audience", server.url, "--json",
        "--grant", "authorization_code", "--grant", "refresh_token", "--grant", DEVICE_GRANT,
        "--scope", "tasks:read tasks:write", *_MAKE[kind],
    ]  # fmt: skip


def _registered(kind: str, process: "subprocess.Popen[bytes]") -> Registered:
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    made = json.loads(told)
    return Registered(made["client_id"], made.get("client_secret"), REDIRECTS[kind])


@pytest.fixture
def person(server: Server) -> Iterator[Person]:
    with Person(server.url) as person:
        yield person
