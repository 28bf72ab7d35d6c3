"""One server with a person on it, and the clients that the packages are registered as."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from tests.packages import register
from tests.packages.person import EMAIL, PASSWORD, Person
from tests.packages.register import WEB
from tests.process.server import PLENTY, RAISED, Server, sign_up

REDIRECTS = {"confidential": WEB, "signing": WEB, "public": "http://127.0.0.1:49152/callback"}
"""What each kind asks for: an app on this machine listens at some port, which is not registered (RFC 8252 7.3)."""
SCOPE = "openid email tasks:read tasks:write"
LIMITS = {f"GARRISON_LIMIT_{name}": PLENTY for name in ("OAUTH_TOKEN", "OAUTH_TOKEN_FAILED")}


class Registered(NamedTuple):
    """A client as its developer knows it: with a secret, with a private key, or with neither."""

    client_id: str
    client_secret: str
    jwk: dict[str, Any] | None
    redirect_uri: str


Clients = Mapping[str, Registered]
"""By kind: `confidential`, `signing`, `public`."""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("packages"), environment={**RAISED, **LIMITS}) as server:
        sign_up(server.client(), EMAIL, PASSWORD)
        yield server


@pytest.fixture(scope="session")
def clients(server: Server) -> Clients:
    command = [sys.executable, register.__file__, server.url]
    made = subprocess.run(command, cwd=server.directory, capture_output=True, text=True, check=True)
    found = json.loads(made.stdout)
    return {kind: Registered(**one, redirect_uri=REDIRECTS[kind]) for kind, one in found.items()}


@pytest.fixture
def person(server: Server) -> Iterator[Person]:
    with Person(server.url) as person:
        yield person
