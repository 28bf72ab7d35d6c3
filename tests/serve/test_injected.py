"""Nobody names somebody else in a body (better-auth CVE-2025-61928): each endpoint that takes JSON refuses that."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.identity.test_clients import ADMIN, browser
from tests.identity.test_oauth_token import Api

NAMES = ("user_id", "userId", "account_id", "sub", "role", "roles", "org_id", "organization", "owner", "__proto__")


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    with Api(Path(tmp_path_factory.mktemp("injected"))) as api:
        yield browser(api, ADMIN)


def test_every_endpoint_refuses_names_that_are_not_its_own(admin: TestClient) -> None:
    document = admin.get("/auth/openapi.json").json()
    taking = [
        (method, path)
        for path, methods in document["paths"].items()
        for method, described in methods.items()
        if "requestBody" in described
    ]
    assert {"/auth/sign-up", "/auth/sign-in", "/auth/keys", "/auth/clients", "/auth/refresh"} <= {
        path for _, path in taking
    }
    for method, path in taking:
        body: dict[str, Any] = dict.fromkeys(NAMES, "acc_1")
        answer = admin.request(method, path.replace("{id}", "cli_1"), json=body)
        assert answer.status_code == 400, (method, path, answer.text)
        told = {error["pointer"] for error in answer.json()["errors"]}
        assert told >= {f"/{name}" for name in NAMES}, (method, path)
