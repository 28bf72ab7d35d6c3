"""Our authorization server with requests-oauthlib, which knows neither discovery nor OpenID Connect: plain OAuth 2."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from oauthlib.oauth2 import (
    AccessDeniedError,
    BackendApplicationClient,
    DeviceClient,
    InvalidGrantError,
    MismatchingStateError,
    WebApplicationClient,
)
from oauthlib.oauth2.rfc6749.errors import CustomOAuth2Error
from requests_oauthlib import OAuth2Session

from tests.packages.conftest import SCOPE, Clients, Registered
from tests.packages.person import Person
from tests.process.server import Server


class Way:
    """How a client says who it is: `at_token` to the package's token calls, `in_refresh` and `auth` elsewhere."""

    def __init__(self, method: str, client: Registered) -> None:
        known = {"client_id": client.client_id, "client_secret": client.client_secret}
        shown = {name: value for name, value in known.items() if value}
        by_basic = method == "client_secret_basic"
        self.auth = (client.client_id, client.client_secret) if by_basic else None
        self.fields = {} if by_basic else shown
        self.at_token: dict[str, Any] = {"client_secret": client.client_secret, "include_client_id": not by_basic}


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")


@pytest.fixture
def metadata(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{server.url}/.well-known/oauth-authorization-server").json()
    return found


def session(client: Registered) -> OAuth2Session:
    return OAuth2Session(client.client_id, redirect_uri=client.redirect_uri, scope=SCOPE.split(), pkce="S256")


@pytest.mark.parametrize(
    ("kind", "method"),
    [("confidential", "client_secret_basic"), ("confidential", "client_secret_post"), ("public", "none")],
)
def test_from_the_link_to_the_end_of_the_tokens(
    server: Server, clients: Clients, person: Person, metadata: dict[str, Any], kind: str, method: str
) -> None:
    client, tasks = clients[kind], f"{server.url}/tasks"
    way = Way(method, client)
    with session(client) as app:
        link, _ = app.authorization_url(metadata["authorization_endpoint"])
        landed = person.visit(link)
        assert parse_qs(urlsplit(landed).query)["iss"] == [server.url]
        first = dict(app.fetch_token(metadata["token_endpoint"], authorization_response=landed, **way.at_token))
        assert set(first["scope"]) == set(SCOPE.split())
        assert app.get(tasks).status_code == 200
        shown = app.get(metadata["userinfo_endpoint"]).json()
        assert shown["sub"].startswith("acc_")

        app.auto_refresh_url, app.auto_refresh_kwargs = metadata["token_endpoint"], way.fields
        renewed: list[str] = []
        app.token_updater = lambda token: renewed.append(token["refresh_token"])
        app.token = {**first, "expires_at": 1.0}
        assert app.get(tasks, auth=way.auth).status_code == 200
        assert renewed not in ([], [first["refresh_token"]])

        def tell(which: str, endpoint: str) -> Any:
            prepare = WebApplicationClient(client.client_id).prepare_token_revocation_request
            url, headers, body = prepare(metadata[endpoint], app.token[which], which, **way.fields)
            return app.post(url, data=body, headers=headers, auth=way.auth, withhold_token=True)

        access = app.access_token
        assert tell("refresh_token", "revocation_endpoint").status_code == 200
        assert app.get(tasks).status_code == 401
        if kind == "confidential":
            assert tell("access_token", "introspection_endpoint").json() == {"active": False}
        with pytest.raises(InvalidGrantError):
            app.refresh_token(metadata["token_endpoint"], auth=way.auth, **way.fields)
    bearer = {"authorization": f"Bearer {access}"}
    assert httpx2.get(tasks, headers=bearer).status_code == 401


def test_an_answer_of_another_sign_in_or_a_refusal_is_not_taken(
    clients: Clients, person: Person, metadata: dict[str, Any]
) -> None:
    client = clients["public"]
    with session(client) as app, session(client) as other:
        link, _ = app.authorization_url(metadata["authorization_endpoint"])
        denied, landed = person.visit(link, "deny"), person.visit(link)
        with pytest.raises(AccessDeniedError):
            app.fetch_token(metadata["token_endpoint"], authorization_response=denied, include_client_id=True)
        other.authorization_url(metadata["authorization_endpoint"])
        with pytest.raises(MismatchingStateError):
            other.fetch_token(metadata["token_endpoint"], authorization_response=landed, include_client_id=True)
        (code,) = parse_qs(urlsplit(landed).query)["code"]
        with pytest.raises(InvalidGrantError):
            other.fetch_token(metadata["token_endpoint"], code=code, include_client_id=True)
        assert app.fetch_token(metadata["token_endpoint"], authorization_response=landed, include_client_id=True)


def test_a_public_client_may_name_itself_by_basic_without_a_secret(
    server: Server, clients: Clients, person: Person, metadata: dict[str, Any]
) -> None:
    """It is what the package does by itself, where nobody told it to put `client_id` into the body."""
    with session(clients["public"]) as app:
        link, _ = app.authorization_url(metadata["authorization_endpoint"])
        app.fetch_token(metadata["token_endpoint"], authorization_response=person.visit(link))
        assert app.get(f"{server.url}/tasks").status_code == 200


@pytest.mark.parametrize("kind", ["confidential", "public"])
def test_a_device_gets_what_somebody_allowed_it_elsewhere(
    server: Server, clients: Clients, person: Person, metadata: dict[str, Any], kind: str
) -> None:
    client = clients[kind]
    way = Way("client_secret_post", client)
    device = DeviceClient(client.client_id, scope=SCOPE.split())
    with OAuth2Session(client=device) as app:

        def begun() -> dict[str, Any]:
            uri = device.prepare_request_uri(metadata["device_authorization_endpoint"])
            fields = {**parse_qs(urlsplit(uri).query), **way.fields}
            answer = app.post(uri.partition("?")[0], data=fields)
            assert answer.status_code == 200, answer.text
            told: dict[str, Any] = answer.json()
            return told

        def ask(told: dict[str, Any]) -> Any:
            return app.fetch_token(metadata["token_endpoint"], device_code=told["device_code"], **way.at_token)

        unseen, refused, allowed = begun(), begun(), begun()
        with pytest.raises(CustomOAuth2Error) as pending:
            ask(unseen)
        assert pending.value.error == "authorization_pending"
        person.visit(refused["verification_uri_complete"], "deny")
        with pytest.raises(AccessDeniedError):
            ask(refused)
        person.visit(allowed["verification_uri"], user_code=allowed["user_code"])
        assert "refresh_token" in ask(allowed)
        assert app.get(f"{server.url}/tasks").status_code == 200


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_a_machine_has_its_token_until_it_gives_it_back(
    server: Server, clients: Clients, metadata: dict[str, Any], method: str
) -> None:
    client = clients["confidential"]
    way = Way(method, client)
    machine = BackendApplicationClient(client.client_id, scope=["tasks:read"])
    with OAuth2Session(client=machine) as app:
        app.fetch_token(metadata["token_endpoint"], **way.at_token)
        assert app.get(f"{server.url}/tasks").status_code == 200
        assert app.post(f"{server.url}/tasks", json={"title": "x"}).status_code == 403
        url, headers, body = machine.prepare_token_revocation_request(
            metadata["revocation_endpoint"], app.access_token, **way.fields
        )
        assert app.post(url, data=body, headers=headers, auth=way.auth, withhold_token=True).status_code == 200
        assert app.get(f"{server.url}/tasks").status_code == 401
