"""`private_key_jwt`: what a client's own key signed, for us, once; and a key set that cannot be is told."""

import json
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from garrison.core.errors import GarrisonError
from garrison.identity.clients.service import Made
from garrison.identity.oauth.assertions import TYPE, used_assertions
from garrison.identity.signing import jose
from garrison.identity.signing.jose import generate_key, private_bytes, public_jwk
from tests.identity.test_dpop import b64
from tests.identity.test_oauth_token import AUDIENCE, Api

ISSUER = "http://127.0.0.1:8000"
KEYS = {name: generate_key(name) for name in ("ES256", "RS256", "EdDSA")}
STRANGE = generate_key("ES256")


def jwks(*names: str, **more: Any) -> str:
    return json.dumps({"keys": [{**public_jwk(KEYS[name]), "kid": name, **more} for name in names]})


def signed(header: dict[str, Any], claims: dict[str, Any], key: Any, algorithm: str) -> str:
    kept = {name: value for name, value in claims.items() if value is not None}
    text = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(kept).encode())}"
    return f"{text}.{b64(jose._MODELS[algorithm].sign(text.encode(), key))}"


class Signing:
    """A client that signs."""

    def __init__(self, api: Api, *algorithms: str) -> None:
        self.api = api
        keys = jwks(*(algorithms or ("ES256", "RS256", "EdDSA")))
        arguments: dict[str, Any] = {"audiences": [AUDIENCE], "scopes": ["tasks:read"], "jwks": keys}
        self.made: Made = api.portal(lambda: api.clients.create("signing", **arguments))

    def assertion(self, algorithm: str = "ES256", *, key: Any = None, header: Any = None, **change: Any) -> str:
        now = int(time.time())
        claims = {
            "iss": self.made.client.id,
            "sub": self.made.client.id,
            "aud": ISSUER,
            "iat": now,
            "exp": now + 60,
            "jti": secrets.token_urlsafe(12),
            **change,
        }
        full = {"alg": algorithm, "kid": algorithm, **(header or {})}
        kept = {name: value for name, value in full.items() if value is not None}
        return signed(kept, claims, key or KEYS[algorithm], algorithm)

    def ask(self, assertion: str, path: str = "/oauth/token", **fields: str) -> Any:
        data = {
            "grant_type": "client_credentials",
            "client_assertion_type": TYPE,
            "client_assertion": assertion,
            **fields,
        }
        return self.api.client.post(path, data=data)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path) as opened:
        yield opened


@pytest.fixture
def client(api: Api) -> Signing:
    return Signing(api)


@pytest.mark.parametrize("algorithm", list(KEYS))
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"aud": ISSUER + "/oauth/token"},
        {"aud": [ISSUER]},
        {"header": {"kid": None}},
        {"header": {"typ": "JWT"}},
        {"header": {"typ": "client-authentication+jwt"}},
        {"nbf": 0},
        {"iat": None},
    ],
)
def test_what_its_key_signed_authenticates(client: Signing, algorithm: str, change: dict[str, Any]) -> None:
    assertion = client.assertion(algorithm, **change)
    answer = client.ask(assertion)
    assert answer.status_code == 200, answer.text
    assert client.api.get("/tasks", answer.json()["access_token"]) == 200
    again = client.ask(assertion)
    assert (again.status_code, again.json()) == (401, {"error": "invalid_client"}), "good once"


NOW = int(time.time())


@pytest.mark.parametrize(
    "change",
    [
        {"key": STRANGE},
        {"iss": "cli_other"},
        {"sub": "cli_other"},
        {"sub": None},
        {"aud": "https://other.example.com"},
        {"aud": [ISSUER, "https://other.example.com"]},
        {"aud": []},
        {"aud": [7]},
        {"aud": None},
        {"exp": None},
        {"exp": NOW - 61},
        {"exp": NOW + 3 * 3600},
        {"exp": True},
        {"exp": "soon"},
        {"exp": 10**400},
        {"iat": NOW + 3600},
        {"iat": -(10**400)},
        {"nbf": NOW + 3600},
        {"nbf": "now"},
        {"jti": None},
        {"jti": ""},
        {"jti": 7},
        {"jti": "x" * 257},
        {"jti": "\ud800"},
        {"header": {"kid": "RS256"}},
        {"header": {"kid": "unknown"}},
        {"header": {"typ": "at+jwt"}},
        {"header": {"typ": "dpop+jwt"}},
        {"header": {"alg": "none"}},
        {"header": {"alg": "HS256"}},
        {"header": {"jwk": public_jwk(STRANGE)}, "key": STRANGE},
        {"header": {"jku": "https://evil.example.com/jwks"}},
        {"header": {"crit": ["exp"]}},
    ],
)
def test_anything_else_is_an_invalid_client(client: Signing, change: dict[str, Any]) -> None:
    answer = client.ask(client.assertion(**change))
    assert (answer.status_code, answer.json()) == (401, {"error": "invalid_client"})


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"client_secret": "x"}, "invalid_request"),
        ({"client_id": "cli_other"}, "invalid_client"),
        ({"client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"}, "invalid_client"),
        ({"client_assertion_type": ""}, "invalid_client"),
        ({"client_assertion": ""}, "invalid_client"),
        ({"client_assertion": "x.y.z"}, "invalid_client"),
        ({"client_assertion": "x" * 9000}, "invalid_client"),
    ],
)
def test_the_form_around_it(client: Signing, fields: dict[str, str], error: str) -> None:
    answer = client.ask(client.assertion(), **fields)
    assert answer.json()["error"] == error


def test_never_two_ways_at_once_nor_a_weaker_one(client: Signing, api: Api) -> None:
    both = api.client.post(
        "/oauth/token",
        data={
            "grant_type": "client_credentials",
            "client_assertion_type": TYPE,
            "client_assertion": client.assertion(),
        },
        auth=(client.made.client.id, "x"),
    )
    assert both.json()["error"] == "invalid_request"
    assert client.made.secret == ""
    for secret in ("", "x"):
        data = {"grant_type": "client_credentials", "client_id": client.made.client.id, "client_secret": secret}
        assert api.client.post("/oauth/token", data=data).status_code == 401
    with_secret = Signing.__new__(Signing)
    with_secret.api, with_secret.made = api, api.made
    assert with_secret.ask(with_secret.assertion()).status_code == 401, "a client with a secret has no keys"


def test_of_many_requests_with_one_assertion_one_wins(client: Signing) -> None:
    assertion = client.assertion()
    with ThreadPoolExecutor(4) as pool:
        statuses = [answer.status_code for answer in pool.map(lambda _: client.ask(assertion), range(8))]
    assert sorted(statuses) == [200] + [401] * 7


def test_what_was_refused_is_not_kept(client: Signing, api: Api) -> None:
    for change in ({"key": STRANGE}, {"aud": "https://other.example.com"}, {"exp": NOW - 61}):
        client.ask(client.assertion(**change))
    database = api.garrison._runtime._database  # type: ignore[union-attr]
    count = select(func.count()).select_from(used_assertions)
    assert api.portal(lambda: database.read(lambda connection: connection.execute(count).scalar())) == 0


def test_it_works_wherever_clients_authenticate(client: Signing, api: Api) -> None:
    token = client.ask(client.assertion()).json()["access_token"]
    told = client.ask(client.assertion(), "/oauth/introspect", token=token)
    assert told.json()["active"] is True
    assert client.ask(client.assertion(aud=ISSUER + "/oauth/revoke"), "/oauth/revoke", token=token).status_code == 200
    assert api.get("/tasks", token) == 401
    server = api.client.get("/.well-known/oauth-authorization-server").json()
    for endpoint in ("token", "revocation", "introspection"):
        assert "private_key_jwt" in server[f"{endpoint}_endpoint_auth_methods_supported"]
        assert set(server[f"{endpoint}_endpoint_auth_signing_alg_values_supported"]) == set(KEYS)


def test_a_disabled_client_and_keys_that_were_replaced(api: Api) -> None:
    client = Signing(api, "ES256")
    assert client.ask(client.assertion()).status_code == 200
    api.portal(lambda: api.clients.set_keys(client.made.client.id, jwks("RS256")))
    assert client.ask(client.assertion()).status_code == 401
    assert client.ask(client.assertion("RS256")).status_code == 200
    api.portal(lambda: api.clients.set_status(client.made.client.id, "disabled"))
    assert client.ask(client.assertion("RS256")).status_code == 401
    with pytest.raises(GarrisonError) as refused:
        api.portal(lambda: api.clients.rotate(client.made.client.id))
    assert refused.value.code == "client_has_no_secret"
    with pytest.raises(GarrisonError) as refused:
        api.portal(lambda: api.clients.set_keys(api.made.client.id, jwks("RS256")))
    assert refused.value.code == "client_has_no_keys"


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ("[]", "a key set is"),
        ("{", "a key set is"),
        ('{"keys": []}', "a key set is"),
        ('{"keys": {}}', "a key set is"),
        ('{"keys": [], "keys": [1]}', "a key set is"),
        (json.dumps({"keys": [public_jwk(STRANGE)] * 9}), "a key set is"),
        ('{"keys": [7]}', "JSON object"),
        (json.dumps({"keys": [STRANGE.as_dict(private=True)]}), "private"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "private"),
        ('{"keys": [{"kty": "oct"}]}', "for signing"),
        (jwks("ES256", use="enc"), "for signing"),
        (jwks("ES256", alg="HS256"), "for signing"),
        (jwks("ES256", alg="RS256"), "not for this algorithm"),
        (jwks("ES256", kid=7), "for signing"),
        (jwks("ES256", x="AA"), "cannot be read"),
        (json.dumps({"keys": [], "x": "y" * 40_000}), "32 KiB"),
    ],
)
def test_a_key_set_that_cannot_be_is_told(api: Api, keys: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        api.portal(lambda: api.clients.create("x", jwks=keys))


def test_a_public_client_has_no_keys_and_nothing_private_is_kept(api: Api) -> None:
    with pytest.raises(ValueError, match="not public"):
        api.portal(
            lambda: api.clients.create(
                "x", grants=["device_code"], is_public=True, jwks=jwks("ES256"), audiences=[AUDIENCE]
            )
        )
    kept = Signing(api, "RS256").made.client.jwks
    assert set(json.loads(kept)["keys"][0]) == {"alg", "e", "kid", "kty", "n"}
    assert private_bytes(KEYS["RS256"]).decode()[40:80] not in kept
