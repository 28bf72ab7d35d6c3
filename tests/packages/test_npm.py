"""Our authorization server with openid-client and oauth4webapi: the same flows, and the same to be seen of each."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.packages.conftest import SCOPE, Clients
from tests.packages.person import EMAIL, Person
from tests.process.npm import installed, needs_node
from tests.process.server import Server

pytestmark = needs_node
CONFIDENTIAL = ("client_secret_basic", "client_secret_post", "private_key_jwt")
KINDS = {"none": "public", "private_key_jwt": "signing"}
"""Which client authenticates how; any other way is the confidential one's."""
Flow = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def drivers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return installed(Path(__file__).parent, tmp_path_factory)


@pytest.fixture(params=["openid-client", "oauth4webapi"])
def flow(request: pytest.FixtureRequest, drivers: Path, server: Server, clients: Clients, person: Person) -> Flow:
    """Return what runs a flow of the package's driver, and is the person whom it asks."""

    def run(name: str, method: str = "client_secret_basic") -> dict[str, Any]:
        client = clients[KINDS.get(method, "confidential")]
        told = {"flow": name, "method": method, "issuer": server.url, "server": server.url, "scope": SCOPE}
        given = {**client._asdict(), **told}
        driver = subprocess.Popen(
            ["node", f"{request.param}.mjs", json.dumps(given)],
            cwd=drivers,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with driver:
            try:
                return talk(driver, person)
            finally:
                driver.kill()

    return run


def talk(driver: "subprocess.Popen[str]", person: Person) -> dict[str, Any]:
    assert driver.stdin is not None
    assert driver.stdout is not None
    assert driver.stderr is not None
    for line in driver.stdout:
        told = json.loads(line)
        if "result" in told:
            result: dict[str, Any] = told["result"]
            return result
        driver.stdin.write(json.dumps(person.visit(told["visit"], told["decision"], **told["typed"])) + "\n")
        driver.stdin.flush()
    raise AssertionError(driver.stderr.read()[-2000:])


def test_what_we_say_of_ourselves_is_taken_and_another_issuer_is_not(flow: Flow, server: Server) -> None:
    seen = flow("discovery")
    assert seen["issuers"] == [server.url, server.url]
    assert seen["pkce"] is True
    assert seen["other_issuer"] == "OAUTH_JSON_ATTRIBUTE_COMPARISON_FAILED"


@pytest.mark.parametrize("method", [*CONFIDENTIAL, "none"])
def test_the_code_flow_from_the_link_to_the_end_of_the_tokens(
    flow: Flow, server: Server, clients: Clients, method: str
) -> None:
    seen = flow("code", method)
    claims = seen["claims"]
    client = clients[KINDS.get(method, "confidential")]
    assert (claims["iss"], claims["aud"], claims["email"]) == (server.url, client.client_id, EMAIL)
    assert seen["userinfo"] == {"sub": claims["sub"], "email": EMAIL, "email_verified": False}
    assert seen["statuses"] == [200, 200, 401], "with the first token, a refreshed one, and after revocation"
    assert seen["active"] == ([] if method == "none" else [True, False])
    assert seen["again"] == "invalid_grant"
    bearer = {"authorization": f"Bearer {seen['token']}"}
    assert httpx2.get(f"{server.url}/tasks", headers=bearer).status_code == 401


def test_what_was_tampered_with_is_refused_by_the_package_or_by_us(flow: Flow) -> None:
    assert flow("refusals") == {
        "denied": "access_denied",
        "other_issuer": "OAUTH_INVALID_RESPONSE",
        "no_issuer": "OAUTH_INVALID_RESPONSE",
        "other_state": "OAUTH_INVALID_RESPONSE",
        "other_verifier": "invalid_grant",
        "other_nonce": "OAUTH_JWT_CLAIM_COMPARISON_FAILED",
        "spent": "invalid_grant",
    }


@pytest.mark.parametrize("method", CONFIDENTIAL)
def test_a_pushed_request_shows_nothing_of_itself_in_the_link(flow: Flow, method: str) -> None:
    assert flow("pushed", method) == {"parameters": ["client_id", "request_uri"], "status": 200}


@pytest.mark.parametrize("method", ["private_key_jwt", "none"])
def test_a_token_bound_to_a_key_is_good_with_that_key_alone(flow: Flow, method: str) -> None:
    seen = flow("dpop", method)
    assert [one.lower() for one in seen["types"]] == ["dpop", "dpop"]
    assert seen["same"] is True
    assert seen["statuses"] == [200, 401, 401], "with a proof, as a bearer token, with another key's proof"
    assert seen["code_by_other_key"] == seen["by_other_key"] == "invalid_grant"
    if method != "none":
        told = seen["introspected"]
        assert (told["active"], told["token_type"]) == (True, "DPoP")
        assert told["cnf"] == {"jkt": seen["thumbprint"]}


def test_a_person_signs_in_anew_where_the_package_asks_for_it(flow: Flow, person: Person) -> None:
    assert flow("reauthentication") == {"later": [True] * 4}
    assert person.sign_ins == 3, "at first, for max_age=0 and for prompt=login"


@pytest.mark.parametrize("method", CONFIDENTIAL)
def test_a_machine_has_its_token_until_it_gives_it_back(flow: Flow, method: str) -> None:
    assert flow("machine", method) == {"scope": "tasks:read", "statuses": [200, 401], "active": [True, False]}


@pytest.mark.parametrize("method", ["client_secret_basic", "none"])
def test_a_device_gets_what_somebody_allowed_it_elsewhere(
    flow: Flow, server: Server, clients: Clients, method: str
) -> None:
    seen = flow("device", method)
    assert seen["pending"] == "authorization_pending"
    assert seen["denied"] == "access_denied"
    client = clients[KINDS.get(method, "confidential")]
    assert (seen["claims"]["iss"], seen["claims"]["aud"]) == (server.url, client.client_id)
    assert seen["statuses"] == [200, 200, 401], "with the first token, a refreshed one, and after revocation"
    assert seen["spent"] == "invalid_grant"


@pytest.mark.parametrize("flow", ["oauth4webapi"], indirect=True)
def test_an_api_finds_us_and_takes_our_tokens_by_the_rfcs(flow: Flow, server: Server) -> None:
    seen = flow("resource")
    assert seen["bearer"]["iss"] == seen["bearer"]["aud"] == server.url
    assert "tasks:read" in seen["bearer"]["scope"].split()
    assert set(seen["bound"]["cnf"]) == {"jkt"}
    assert seen["as_bearer"] is not None, "a bound token is no bearer token"
