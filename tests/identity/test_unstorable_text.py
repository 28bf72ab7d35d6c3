"""NUL and half characters, wherever a client may put them: refused as any other wrong input, on every store.

PostgreSQL holds neither and SQLite only the one, so what came as far as the store would be a 5xx on one of them.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from garrison.core.errors import Denied
from garrison.identity.clients.model import GRANTS
from garrison.identity.oauth.assertions import TYPE
from garrison.identity.signing.jose import VerifyingKey, generate_key, sign
from tests.identity.test_oauth_token import AUDIENCE, Api

EMAIL, PASSWORD = "ada@example.com", "a long walk to the sea"
NUL, HALF = "a\x00b", "a\ud800b"
CHALLENGE = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbSGJSstw-cM"
REDIRECT = "https://app.example.com/cb"
KEY = VerifyingKey("one", "ES256", generate_key("ES256"))


@dataclass
class Ask:
    """A request with odd text in one place, and the answer: its status, and `code` or `error` where it is JSON."""

    method: str
    path: str
    status: int
    code: str = ""
    json: Any = None
    form: dict[str, str] | None = None
    headers: dict[str, bytes] = field(default_factory=dict)

    def __str__(self) -> str:
        where = {**(self.form or {}), **self.headers} or self.json or ""
        return ascii(f"{self.method} {self.path} {where}")[:150]


def basic(text: str) -> dict[str, bytes]:
    return {"authorization": b"Basic " + base64.b64encode(text.encode())}


def signed(claims: dict[str, Any], kid: str = "one") -> str:
    """A JWT with odd text in it, as its own issuer would sign it."""
    return sign({"typ": "JWT"}, {"aud": "https://x", "exp": 4e9, **claims}, KEY._replace(kid=kid))


def link(**changed: str) -> str:
    """An authorization request of the public client, changed; `CLIENT` stands for its id."""
    given = {
        "client_id": "CLIENT",
        "redirect_uri": REDIRECT,
        "response_type": "code",
        "code_challenge": CHALLENGE,
        "code_challenge_method": "S256",
        **changed,
    }
    return "/oauth/authorize?" + "&".join(f"{name}={quote(value)}" for name, value in given.items())


PATHS = [
    Ask(method, path.format(odd), 400, "bad_path")
    for method, path in (
        ("DELETE", "/auth/sessions/ses_{}"),
        ("DELETE", "/auth/keys/key_{}"),
        ("POST", "/auth/keys/key_{}/rotate"),
        ("PATCH", "/auth/clients/cli_{}"),
        ("POST", "/auth/clients/cli_{}/rotate"),
        ("DELETE", "/auth/clients/cli_{}"),
        ("GET", "/auth/providers/{}/start"),
        ("GET", "/auth/providers/{}/callback?code=x&state=x"),
        ("GET", "/tasks/{}"),
    )
    for odd in ("%00", "%ED%A0%80")
]
KEY_BODY = {"name": "reports"}
CLIENT_BODY = {"name": "reports", "grants": ["client_credentials"]}
JWKS = {"kty": "EC", "crv": "P-256", "alg": "ES256", "x": "x", "y": "y"}
BODIES = [
    *(
        Ask("POST", "/auth/sign-up", 400, "validation", {"email": email, "password": PASSWORD})
        for email in (NUL + "@example.com", "a@example.com" + NUL)
    ),
    Ask("POST", "/auth/sign-in", 401, "invalid_credentials", {"email": NUL, "password": PASSWORD}),
    Ask("POST", "/auth/sign-in", 401, "invalid_credentials", {"email": EMAIL, "password": NUL}),
    Ask("POST", "/auth/sign-in", 200, "", {"email": EMAIL, "password": PASSWORD, "device_token": NUL}),
    Ask("POST", "/auth/refresh", 400, "invalid_grant", {"refresh_token": NUL}),
    Ask("POST", "/auth/refresh", 400, "invalid_grant", {"refresh_token": NUL, "device_token": NUL}),
    Ask("POST", "/auth/password/change", 401, "invalid_credentials", {"current": NUL, "new": PASSWORD + "s"}),
    *(
        Ask("POST", "/auth/keys", 400, "validation", {**KEY_BODY, **changed})
        for changed in ({"name": NUL}, {"scopes": [NUL]}, {"networks": [NUL]}, {"limit": NUL})
    ),
    *(
        Ask("POST", "/auth/clients", 400, "validation", {**CLIENT_BODY, **changed})
        for changed in (
            {"name": NUL},
            {"grants": [NUL]},
            {"audiences": [NUL]},
            {"scopes": [NUL]},
            {"redirect_uris": ["https://app.example.com/" + NUL]},
            {"jwks": {"keys": [{**JWKS, "kid": NUL}]}},
        )
    ),
    *(
        Ask("POST", path, 400, "bad_body", {"email": HALF, "password": PASSWORD, "name": HALF, "refresh_token": HALF})
        for path in ("/auth/sign-up", "/auth/sign-in", "/auth/refresh", "/auth/keys", "/auth/clients")
    ),
]
SECRET = {"client_id": "MACHINE", "client_secret": "SECRET"}
FORMS = [
    Ask("POST", "/oauth/token", 401, "invalid_client", form={**SECRET, "client_id": NUL}),
    Ask("POST", "/oauth/token", 401, "invalid_client", form={"client_id": NUL, "grant_type": "client_credentials"}),
    Ask("POST", "/oauth/token", 401, "invalid_client", form={**SECRET, "client_secret": NUL}),
    Ask("POST", "/oauth/token", 400, "unsupported_grant_type", form={**SECRET, "grant_type": NUL}),
    *(
        Ask("POST", "/oauth/token", status, code, form={**SECRET, "grant_type": grant, **changed})
        for grant, changed, status, code in (
            ("client_credentials", {"scope": NUL}, 400, "invalid_scope"),
            ("client_credentials", {"audience": NUL}, 400, "invalid_target"),
            ("client_credentials", {"resource": NUL}, 400, "invalid_target"),
            ("authorization_code", {"code": NUL, "code_verifier": NUL, "redirect_uri": NUL}, 400, "invalid_grant"),
            ("refresh_token", {"refresh_token": NUL}, 400, "invalid_grant"),
            ("urn:ietf:params:oauth:grant-type:device_code", {"device_code": NUL}, 400, "invalid_grant"),
            (
                "urn:ietf:params:oauth:grant-type:token-exchange",
                {"subject_token": NUL, "subject_token_type": "urn:ietf:params:oauth:token-type:access_token"},
                400,
                "invalid_request",
            ),
        )
    ),
    *(
        Ask("POST", path, 401, "invalid_client", form={"client_assertion_type": TYPE, "client_assertion": assertion})
        for path in ("/oauth/token", "/oauth/introspect", "/oauth/par")
        for assertion in (signed({"iss": NUL}), signed({"iss": "MACHINE", "jti": NUL}), signed({"iss": NUL}, NUL))
    ),
    *(
        Ask("POST", path, 401, "invalid_client", form={"token": "x"}, headers=basic(shown))
        for path in ("/oauth/introspect", "/oauth/revoke")
        for shown in (f"{NUL}:secret", "a%00b:secret", f"cli_x:{NUL}")
    ),
    Ask("POST", "/oauth/introspect", 200, form={**SECRET, "token": NUL, "token_type_hint": NUL}),
    Ask("POST", "/oauth/introspect", 200, form={**SECRET, "token": signed({"sid": NUL, "sub": NUL})}),
    Ask("POST", "/oauth/revoke", 200, form={**SECRET, "token": NUL}),
    Ask("POST", "/oauth/device", 401, "invalid_client", form={"client_id": NUL}),
    Ask("POST", "/oauth/device", 400, "invalid_scope", form={**SECRET, "scope": NUL}),
    Ask("POST", "/oauth/par", 400, "invalid_request", form={**SECRET, "redirect_uri": NUL}),
    Ask("POST", "/oauth/device/verify", 400, form={"step": "code", "user_code": NUL}),
    Ask("POST", "/oauth/device/verify", 400, form={"step": "decide", "request": NUL, "decision": NUL}),
    Ask("POST", "/oauth/authorize", 400, form={"step": "sign-in", "request": NUL, "email": NUL, "password": NUL}),
]
LINKS = [
    Ask("GET", link(client_id=NUL), 400),
    Ask("GET", link(redirect_uri=REDIRECT + NUL), 400),
    Ask("GET", link(nonce=NUL), 303),
    Ask("GET", link(state=NUL), 200),
    *(Ask("GET", link(**{name: NUL}), 303) for name in ("scope", "audience", "code_challenge", "dpop_jkt", "max_age")),
    Ask("GET", link(request_uri="urn:ietf:params:oauth:request_uri:" + NUL), 400),
    Ask("GET", "/oauth/device?user_code=%00", 200),
    *(Ask("GET", f"/oauth/authorize?client_id={odd}", 400) for odd in ("%ED%A0%80", "%FF")),
]
HEADERS = [
    Ask("GET", "/tasks", 401, "invalid_token", headers={"authorization": b"Bearer " + odd})
    for odd in (b"a\x00b", b"a\xff.b.c", signed({"sid": NUL, "sub": NUL}).encode(), signed({"iss": NUL}).encode())
] + [
    Ask("GET", "/open", 401, "invalid_token", headers={"x-api-key": b"grn_\x00"}),
    *(Ask("GET", "/tasks", 401, "invalid_token", headers={"cookie": b"garrison=" + odd}) for odd in (b"\x00", b"\xff")),
    Ask("GET", "/open", 200, headers={"user-agent": b"\x00\xff", "x-request-id": b"\x00", "referer": b"\x00"}),
    Ask("GET", "/tasks", 401, headers={"authorization": b"DPoP \x00", "dpop": b"\x00"}),
]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    path: Path = tmp_path_factory.mktemp("unstorable")
    with Api(path, limit_sign_up="100000/minute", limit_sign_in="100000/minute") as api:
        api.portal(lambda: api.garrison.accounts.create(EMAIL, PASSWORD))
        api.portal(lambda: api.garrison.accounts.set_role(EMAIL, "admin"))
        yield api


@pytest.fixture(scope="module")
def shown(api: Api) -> dict[str, str]:
    """What stands for what in the tables."""
    created = api.portal(
        lambda: api.clients.create("all", grants=GRANTS, audiences=[AUDIENCE], redirect_uris=[REDIRECT])
    )
    public = api.portal(
        lambda: api.clients.create(
            "app", grants=["authorization_code"], audiences=[AUDIENCE], redirect_uris=[REDIRECT], is_public=True
        )
    )
    return {"MACHINE": created.client.id, "SECRET": created.secret, "CLIENT": public.client.id}


@pytest.mark.parametrize("ask", [*PATHS, *BODIES, *FORMS, *LINKS, *HEADERS], ids=str)
def test_whatever_a_client_sends_is_answered_as_its_own_error(api: Api, shown: dict[str, str], ask: Ask) -> None:
    headers = {name.encode(): value for name, value in ask.headers.items()}
    if ask.path.startswith("/auth/") and ask.path != "/auth/refresh":
        given = {"email": EMAIL, "password": PASSWORD, "deliver": "token"}
        token = api.client.post("/auth/sign-in", json=given).json()["access_token"]
        headers[b"authorization"] = f"Bearer {token}".encode()
    if ask.path == "/oauth/device/verify":  # whose page is for who is signed in by cookie
        api.client.post("/auth/sign-in", json={"email": EMAIL, "password": PASSWORD})
    form = None if ask.form is None else {name: shown.get(value, value) for name, value in ask.form.items()}
    content = None
    if ask.json is not None:
        content, headers[b"content-type"] = json.dumps(ask.json).encode(), b"application/json"
    answer = api.client.request(
        ask.method,
        ask.path.replace("CLIENT", shown["CLIENT"]),
        data=form,
        content=content,
        headers=list(headers.items()),
        follow_redirects=False,
    )
    api.client.cookies.clear()
    said = answer.json() if "json" in answer.headers.get("content-type", "") else {}
    assert (answer.status_code, said.get("code", said.get("error", "")) if ask.code else "") == (ask.status, ask.code)


def test_users_own_code_is_told_the_same(api: Api) -> None:
    """An app may hand on whatever its own clients sent: it is answered 400, not 500."""
    garrison = api.garrison
    for call in (
        lambda: garrison.sessions.revoke(NUL),
        lambda: garrison.keys.revoke(HALF),
        lambda: garrison.sessions.list(NUL),
    ):
        with pytest.raises(Denied) as caught:
            api.portal(call)
        assert caught.value.problem.status == 400
