"""Schemathesis over the published OpenAPI documents, ours and the example's, against a real server.

No 5xx, no undeclared status or content type, nothing reachable without credentials that the inventory calls private.
"""

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process import forks
from tests.process.server import GARRISON, RAISED, Server, sign_in, sign_up

SEED = int(os.environ.get("FAULT_SEED", str(random.SystemRandom().randrange(1 << 31))))
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    environment = {**RAISED, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1"}
    with Server(tmp_path_factory.mktemp("openapi"), environment=environment) as server:
        yield server


def schemathesis(server: Server, document: str, *more: str) -> str:
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", server.url + document, "--url", server.url]
    options = ["--max-examples", "25", "--seed", str(SEED), "--phases", "examples,coverage,fuzzing", "--no-color"]
    done = subprocess.run(
        [*command, *options, *more], cwd=server.directory, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, f"again with FAULT_SEED={SEED}\n{done.stdout[-6000:]}{done.stderr[-1000:]}"
    assert "Test cases" in done.stdout, "nothing was generated"
    return done.stdout


@pytest.mark.parametrize("document", ["/openapi.json", "/auth/openapi.json"])
def test_documents_hold_for_anybody_and_nothing_private_is_reachable(server: Server, document: str) -> None:
    schemathesis(server, document, "--checks", CHECKS + ",ignored_auth")


@pytest.mark.parametrize("document", ["/openapi.json", "/auth/openapi.json"])
def test_documents_hold_for_somebody_signed_in(server: Server, document: str) -> None:
    client, name = server.client(), document.strip("/").replace("/", "-").replace(".", "-")
    sign_up(client, f"{name}@example.com")
    token = sign_in(client, f"{name}@example.com", deliver="token").json()["access_token"]
    schemathesis(server, document, "--checks", CHECKS, "-H", f"Authorization: Bearer {token}")


def test_every_private_route_of_the_inventory_is_closed_to_anonymous(server: Server) -> None:
    done = forks.run([GARRISON, "routes", "examples.tasks.app:app", "--json"], server.directory, {"PATH": "/usr/bin"})
    routes = json.loads(done.stdout)["routes"]
    private = [one for one in routes if one["rule"]["access"] != "public"]
    assert len(private) >= 7
    with server.client() as client:
        for one in private:
            path = one["path"].replace("{id}", "00000000-0000-4000-8000-000000000000")
            assert client.request(one["method"], path).status_code == 401, one


def test_the_apps_document_says_what_the_guard_answers(server: Server) -> None:
    document = server.client().get("/openapi.json").json()
    assert {"session", "bearer"} <= document["components"]["securitySchemes"].keys()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert "422" not in operation["responses"], (method, path)
            assert "429" in operation["responses"]
            if path != "/test":
                assert {"401", "403"} <= operation["responses"].keys(), (method, path)
                assert operation["security"]
    assert "400" in document["paths"]["/tasks"]["post"]["responses"]
    assert "404" in document["paths"]["/tasks/{id}"]["get"]["responses"]
