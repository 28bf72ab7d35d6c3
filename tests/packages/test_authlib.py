"""Our authorization server with Authlib: its integration for FastAPI and Starlette, and its plain client."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx2
import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.httpx_client import OAuth2Client
from authlib.integrations.starlette_client import OAuth, StarletteOAuth2App
from authlib.oauth2 import rfc8414, rfc9207
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from authlib.oidc.discovery import OpenIDProviderMetadata
from joserfc.errors import InvalidClaimError
from joserfc.jwk import ECKey
from starlette.requests import Request

from tests.packages.conftest import SCOPE, Clients, Registered
from tests.packages.person import EMAIL, Person
from tests.process.server import Server

METHODS = [
    ("confidential", "client_secret_basic"),
    ("confidential", "client_secret_post"),
    ("signing", "private_key_jwt"),
    ("public", "none"),
]


@pytest.fixture
def metadata(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{server.url}/.well-known/oauth-authorization-server").json()
    return found


def plain(client: Registered, method: str, metadata: dict[str, Any], **more: Any) -> OAuth2Client:
    app = OAuth2Client(
        client.client_id,
        ECKey.import_key(client.jwk) if client.jwk else client.client_secret,
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
        code_challenge_method="S256",
        token_endpoint=metadata["token_endpoint"],
        **more,
    )
    app.register_client_auth_method(PrivateKeyJWT(alg="ES256"))
    return app


def test_what_we_say_of_ourselves_is_valid(server: Server) -> None:
    """The classes want https, as the RFC does, which exempts no loopback; the document is the same but for that."""
    for path, kind in (
        ("oauth-authorization-server", rfc8414.AuthorizationServerMetadata),
        ("openid-configuration", OpenIDProviderMetadata),
    ):
        text = httpx2.get(f"{server.url}/.well-known/{path}").text
        document = kind(httpx2.Response(200, text=text.replace("http://", "https://")).json())
        document.validate()
        rfc9207.AuthorizationServerMetadata(document).validate_authorization_response_iss_parameter_supported()
        assert document["issuer"] == server.url.replace("http://", "https://")


@pytest.mark.parametrize(("kind", "method"), METHODS)
def test_the_plain_client_from_the_link_to_the_end_of_the_tokens(
    server: Server, clients: Clients, person: Person, metadata: dict[str, Any], kind: str, method: str
) -> None:
    client, tasks = clients[kind], f"{server.url}/tasks"
    with plain(client, method, metadata, scope=SCOPE, redirect_uri=client.redirect_uri) as app:
        verifier = "a-verifier-of-the-test-" * 3
        link, state = app.create_authorization_url(metadata["authorization_endpoint"], code_verifier=verifier)
        landed = person.visit(link)
        assert parse_qs(urlsplit(landed).query)["iss"] == [server.url]
        first = dict(app.fetch_token(authorization_response=landed, code_verifier=verifier, state=state))
        assert set(first["scope"].split()) == set(SCOPE.split())
        assert app.get(tasks).status_code == 200
        app.refresh_token()
        assert app.token["refresh_token"] != first["refresh_token"]
        assert app.get(tasks).status_code == 200
        access = app.token["access_token"]

        def is_active() -> bool:
            told = app.introspect_token(metadata["introspection_endpoint"], token=access)
            assert told.status_code == 200
            return bool(told.json()["active"])

        assert kind == "public" or is_active()
        assert app.revoke_token(metadata["revocation_endpoint"], token_type_hint="refresh_token").status_code == 200
        assert app.get(tasks).status_code == 401
        assert kind == "public" or not is_active()
        with pytest.raises(OAuthError) as refused:
            app.refresh_token()
        assert refused.value.error == "invalid_grant"


@pytest.mark.parametrize(("kind", "method"), METHODS[:-1])
def test_a_machine_has_its_token_until_it_gives_it_back(
    server: Server, clients: Clients, metadata: dict[str, Any], kind: str, method: str
) -> None:
    with plain(clients[kind], method, metadata, scope="tasks:read") as app:
        assert app.fetch_token(grant_type="client_credentials")["scope"] == "tasks:read"
        assert app.get(f"{server.url}/tasks").status_code == 200
        assert app.post(f"{server.url}/tasks", json={"title": "x"}).status_code == 403
        assert app.revoke_token(metadata["revocation_endpoint"]).status_code == 200
        assert app.get(f"{server.url}/tasks").status_code == 401


def registered(server: Server, client: Registered) -> StarletteOAuth2App:
    return OAuth().register(
        "garrison",
        client_id=client.client_id,
        client_secret=client.client_secret,
        server_metadata_url=f"{server.url}/.well-known/openid-configuration",
        client_kwargs={"scope": SCOPE, "code_challenge_method": "S256"},
    )


def arriving(landed: str, session: dict[str, Any]) -> Request:
    parts = urlsplit(landed)
    scope = {
        "type": "http",
        "method": "GET",
        "path": parts.path,
        "query_string": parts.query.encode(),
        "headers": [],
        "session": session,
    }
    return Request(scope)


def test_a_fastapi_app_signs_people_in_and_calls_the_api_in_their_name(
    server: Server, clients: Clients, person: Person
) -> None:
    async def flow() -> None:
        client, session = clients["confidential"], dict[str, Any]()
        garrison = registered(server, client)
        sent = await garrison.authorize_redirect(arriving("/login", session), client.redirect_uri)
        landed = person.visit(sent.headers["location"])
        token = await garrison.authorize_access_token(arriving(landed, session))
        who = token["userinfo"]
        assert (who["iss"], who["aud"], who["email"]) == (server.url, client.client_id, EMAIL)
        assert (await garrison.userinfo(token=token))["sub"] == who["sub"]
        made = await garrison.post(f"{server.url}/tasks", json={"title": "from Authlib"}, token=token)
        assert made.status_code == 201
        listed = await garrison.get(f"{server.url}/tasks", token=token)
        assert "from Authlib" in [one["title"] for one in listed.json()]
        with pytest.raises(OAuthError):
            await garrison.authorize_access_token(arriving(landed, session))

    anyio.run(flow)


def test_a_fastapi_app_refuses_an_answer_that_belongs_to_another_browser_or_sign_in(
    server: Server, clients: Clients, person: Person
) -> None:
    async def flow() -> None:
        client, session, other = clients["confidential"], dict[str, Any](), dict[str, Any]()
        garrison = registered(server, client)
        sent = await garrison.authorize_redirect(arriving("/login", session), client.redirect_uri)
        landed = person.visit(sent.headers["location"])
        with pytest.raises(OAuthError):
            await garrison.authorize_access_token(arriving(landed, other))
        ((_, kept),) = session.items()
        kept["data"]["nonce"] = "another"
        with pytest.raises(InvalidClaimError) as refused:
            await garrison.authorize_access_token(arriving(landed, session))
        assert refused.value.claim == "nonce"
        sent = await garrison.authorize_redirect(arriving("/login", session), client.redirect_uri)
        with pytest.raises(OAuthError) as denied:
            await garrison.authorize_access_token(arriving(person.visit(sent.headers["location"], "deny"), session))
        assert denied.value.error == "access_denied"

    anyio.run(flow)
