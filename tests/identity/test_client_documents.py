"""Clients that describe themselves (client-id metadata documents): what may describe one, and the whole way through.

The document is served by a real server on this machine, as a developer's would be.
"""

import html
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
import structlog
from starlette.testclient import TestClient

from garrison.core.durations import Limit
from garrison.identity.clients.document import (
    MAX_REDIRECT_URIS,
    MAX_URL,
    DocumentError,
    client_of,
    document_url,
    is_developers,
    is_document_id,
)
from garrison.identity.clients.model import Client as OAuthClient
from garrison.identity.clients.service import Made
from tests.identity.test_oauth_authorize import BACK, EMAIL, PASSWORD, Flow, make
from tests.identity.test_oauth_token import AUDIENCE, Api, claims

URL = "https://client.example.com/oauth/client.json"


# Ids

GOOD_IDS = [
    URL,
    "https://client.example.com/a",
    "https://client.example.com:443/a",
    "https://client.example.com:8443/a/b%20c/~d;e=(f),@:!$&'*+",
    "https://a.b-c.xn--bcher-kva.example/a/",
    "https://client.example.com//a",
    "https://client.example.com/...",
    "https://client.example.com/a..b/.c",
    "https://c.example.com/" + "x" * (MAX_URL - 22),
]
BAD_IDS = [
    "",
    "cli_0123456789",
    "https://client.example.com",
    "https://client.example.com/",
    "https://client.example.com//",
    "http://client.example.com/a",
    "HTTPS://client.example.com/a",
    "https://Client.example.com/a",
    "ftp://client.example.com/a",
    "javascript://client.example.com/%0aalert(1)",
    "https:/client.example.com/a",
    "https:client.example.com/a",
    "//client.example.com/a",
    "https://client.example.com/a#",
    "https://client.example.com/a#b",
    "https://client.example.com/a?",
    "https://client.example.com/a?b=c",
    "https://user@client.example.com/a",
    "https://user:secret@client.example.com/a",
    "https://@client.example.com/a",
    "https://client.example.com/.",
    "https://client.example.com/..",
    "https://client.example.com/./a",
    "https://client.example.com/a/../b",
    "https://client.example.com/a/%2e%2E/b",
    "https://client.example.com/a/.%2e/b",
    "https://client.example.com/%2e/b",
    "https://client.example.com/a b",
    "https://client.example.com/a\\b",
    "https://client.example.com\\@evil.example/a",
    "https://client.example.com/a\n",
    "https://client.example.com/a\x00",
    "https://client.example.com/%",
    "https://client.example.com/%zz",
    "https://client.example.com/é",
    "https://clіent.example.com/a",
    "https://client.example.com:0/a",
    "https://client.example.com:/a",
    "https://client.example.com:065/a",
    "https://client.example.com:65536/a",
    "https://client.example.com:99999999/a",
    "https://client.example.com:x/a",
    "https://client.example.com./a",
    "https://client..example.com/a",
    "https://-client.example.com/a",
    "https://client_.example.com/a",
    "https://" + "x" * 64 + ".example.com/a",
    "https://" + "x.y." * 63 + "example.com/a",
    "https://intranet/a",
    "https://localhost/a",
    "https://127.0.0.1/a",
    "https://1.1.1.1/a",
    "https://127.1/a",
    "https://2130706433/a",
    "https://0x7f.0x1/a",
    "https://1.1.1.0x1/a",
    "https://[::1]/a",
    "https://[2606:4700::1111]/a",
    "https:///a",
    "https://.../a",
    "https://c.example.com/" + "x" * (MAX_URL - 21),
]
HERE = ["http://127.0.0.1:8080/a", "http://[::1]:8080/a", "http://localhost/a", "http://localhost:1/a/b"]


@pytest.mark.parametrize("client_id", GOOD_IDS)
def test_an_id_that_is_the_address_of_a_document(client_id: str) -> None:
    url = document_url(client_id, development=False)
    assert url is not None
    assert (url.text, url.is_here) == (client_id, False)
    assert url == document_url(client_id, development=True)
    assert is_document_id(client_id)


@pytest.mark.parametrize("client_id", BAD_IDS)
def test_an_id_that_is_none(client_id: str) -> None:
    assert document_url(client_id, development=False) is None
    assert document_url(client_id, development=True) is None


@pytest.mark.parametrize("client_id", HERE)
def test_a_developers_id_is_one_in_development_alone(client_id: str) -> None:
    assert document_url(client_id, development=False) is None
    url = document_url(client_id, development=True)
    assert url is not None
    assert url.is_here
    assert "[" not in url.host


@pytest.mark.parametrize(
    "client_id",
    [
        "http://127.0.0.1:80@evil.example/a",
        "http://127.0.0.2/a",
        "http://localhost.evil.example/a",
        "http://10.0.0.1/a",
        "http://127.0.0.1/",
        "http://127.0.0.1/a?b",
        "http://127.0.0.1/a#b",
        "http://127.0.0.1/../a",
    ],
)
def test_in_development_everything_else_holds(client_id: str) -> None:
    assert document_url(client_id, development=True) is None


def test_only_a_development_server_on_this_machine_takes_documents_from_it() -> None:
    assert is_developers("127.0.0.1", development=True)
    assert is_developers("localhost", development=True)
    assert is_developers("::1", development=True)
    assert not is_developers("127.0.0.1", development=False)
    assert not is_developers("api.example.com", development=True)


# Documents


def described(client_id: str = URL, **members: Any) -> OAuthClient:
    """Return what a document makes; a member that is None is left out."""
    whole = {"client_id": client_id, "redirect_uris": [BACK], **members}
    body = json.dumps({name: value for name, value in whole.items() if value is not None}).encode()
    return read(body, client_id)


def read(body: bytes, client_id: str = URL) -> OAuthClient:
    url = document_url(client_id, development=False)
    assert url is not None
    return client_of(url, body, scopes=("tasks:read",), audience=AUDIENCE)


def test_the_least_that_describes_a_client() -> None:
    assert described() == OAuthClient(
        id=URL,
        name="client.example.com",
        grants=("authorization_code",),
        audiences=(AUDIENCE,),
        scopes=("tasks:read",),
        redirect_uris=(BACK,),
        status="active",
        epoch=1,
        created_at=0.0,
        is_public=True,
        calls_itself="",
    )


def test_what_a_document_asks_for_is_given_as_far_as_it_goes() -> None:
    """Members of RFC 7591 that say nothing here, ones that nobody knows, and ones that are a server's, are passed over.

    Widely used MCP clients publish all of these: grants of other flows, no method but the ones a *server* supports.
    """
    device, bearer = (f"urn:ietf:params:oauth:grant-type:{name}" for name in ("device_code", "jwt-bearer"))
    client = described(
        client_name="Tasks for you",
        token_endpoint_auth_methods_supported=["none", "private_key_jwt"],
        token_endpoint_auth_signing_alg="RS256",
        jwks_uri="https://client.example.com/jwks.json",
        grant_types=["refresh_token", device, bearer, "client_credentials", "authorization_code"],
        response_types=["code"],
        redirect_uris=[BACK, "http://127.0.0.1/cb", "http://localhost:3000/cb", "https://app.example.com"],
        scope="admin",
        logo_uri="http://169.254.169.254/logo.png",
        client_uri="javascript:alert(1)",
        jwks={"keys": [{"kty": "EC", "crv": "P-256", "x": "x", "y": "y"}]},
        audiences=["https://evil.example.com"],
        status="disabled",
        unknown={"a": [1, 2]},
    )
    assert client.grants == ("authorization_code", "refresh_token")
    assert (client.scopes, client.audiences, client.calls_itself) == (("tasks:read",), (AUDIENCE,), "Tasks for you")
    assert client.is_public


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ({"client_id": None}, "client_id"),
        ({"client_id": URL + "/"}, "client_id"),
        ({"client_id": URL.replace("https", "HTTPS")}, "client_id"),
        ({"client_id": URL.replace(".com/", ".com:443/")}, "client_id"),
        ({"client_id": URL.replace("oauth", "%6fauth")}, "client_id"),
        ({"client_id": [URL]}, "client_id"),
        ({"redirect_uris": None}, "redirect_uris"),
        ({"redirect_uris": []}, "redirect_uris"),
        ({"redirect_uris": BACK}, "redirect_uris"),
        ({"redirect_uris": {BACK: 1}}, "redirect_uris"),
        ({"redirect_uris": [BACK, 1]}, "redirect_uris"),
        ({"redirect_uris": [BACK, None]}, "redirect_uris"),
        ({"redirect_uris": [BACK, ""]}, "redirect_uris"),
        ({"redirect_uris": [f"{BACK}{n}" for n in range(MAX_REDIRECT_URIS + 1)]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com/" + "x" * 2048]}, "redirect_uris"),
        ({"redirect_uris": ["http://app.example.com/"]}, "redirect_uris"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "redirect_uris"),
        ({"redirect_uris": ["app:callback"]}, "redirect_uris"),
        ({"redirect_uris": ["/callback"]}, "redirect_uris"),
        ({"redirect_uris": ["https:///callback"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com/#x"]}, "redirect_uris"),
        ({"redirect_uris": ["https://user@app.example.com/"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com/a b"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com/a\\b"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com/é"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com/\x7f"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com/\r\nx: y"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com\\@evil.example"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com;script-src/"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com,*/"]}, "redirect_uris"),
        ({"redirect_uris": ["https://*.example.com/"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com:0/"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.example.com:99999/"]}, "redirect_uris"),
        ({"redirect_uris": ["https://[::1/"]}, "redirect_uris"),
        ({"redirect_uris": ["https://app.exämple.com/"]}, "redirect_uris"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": "client_secret_post"}, "token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": "client_secret_jwt"}, "token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "token_endpoint_auth_method"),
        ({"token_endpoint_auth_method": ["none"]}, "token_endpoint_auth_method"),
        ({"client_secret": "x"}, "secret"),
        ({"client_secret_expires_at": 0}, "secret"),
        ({"jwks": {"keys": [{"kty": "EC", "d": "x"}]}}, "secret"),
        ({"jwks": {"keys": [{"kty": "oct", "k": "x"}]}}, "secret"),
        ({"grant_types": []}, "grant_types"),
        ({"grant_types": ["refresh_token"]}, "grant_types"),
        ({"grant_types": ["client_credentials"]}, "grant_types"),
        ({"grant_types": "authorization_code"}, "grant_types"),
        ({"grant_types": ["authorization_code", 1]}, "grant_types"),
        ({"response_types": []}, "response_types"),
        ({"response_types": ["token"]}, "response_types"),
        ({"response_types": ["code token"]}, "response_types"),
        ({"response_types": "code"}, "response_types"),
    ],
)
def test_what_describes_no_client_is_refused(members: dict[str, Any], code: str) -> None:
    whole = {"client_id": URL, **members}
    body = {"redirect_uris": [BACK], **whole}
    with pytest.raises(DocumentError) as caught:
        read(json.dumps({name: value for name, value in body.items() if value is not None}).encode())
    assert caught.value.code == code


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"{",
        b"<html>",
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b'{"a":NaN}',
        b'{"a":1}{"b":2}',
        b'{"a":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":' * 20 + b"1" + b"}" * 20,
        f'{{"client_id":"{URL}","client_id":"{URL}","redirect_uris":["{BACK}"]}}'.encode(),
        f'{{"client_id":"{URL}","redirect_uris":["{BACK}"],"redirect_uris":["https://evil.example/"]}}'.encode(),
        json.dumps({"client_id": URL, "redirect_uris": [BACK]}).encode("utf-16"),
        b'{"a":' + b"1" * 9000 + b"}",
    ],
)
def test_what_is_no_json_object_to_everybody_is_refused(body: bytes) -> None:
    with pytest.raises(DocumentError) as caught:
        read(body)
    assert caught.value.code == "not_json"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Tasks", "Tasks"),
        ("  ", ""),
        ("Aufgaben für dich", "Aufgaben für dich"),
        ("x" * 100, "x" * 100),
        ("x" * 101, ""),
        ("two\nlines", ""),
        ("from right \u202eto left", ""),
        ("nothing\u200bseen", ""),
        ("", ""),
        (7, ""),
        (["Tasks"], ""),
    ],
)
def test_a_name_is_told_where_it_can_be_read(name: Any, shown: str) -> None:
    client = described(client_name=name)
    assert (client.calls_itself, client.name) == (shown, "client.example.com")


def test_a_long_host_is_known_by_its_end() -> None:
    client = described("https://bank.example.com." + "x.y." * 20 + "evil.example:8443/a")
    assert len(client.name) == 64
    assert client.name.startswith("…")
    assert client.name.endswith(".evil.example:8443")


# The whole way


class Host(ThreadingHTTPServer):
    """A developer's web server with one document, whatever is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Page)
        self.members: dict[str, Any] = {}
        self.status = 200
        self.asked = 0

    @property
    def client_id(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/client.json"


class Page(BaseHTTPRequestHandler):
    server: Host

    def do_GET(self) -> None:
        self.server.asked += 1
        document = {
            "client_id": self.server.client_id,
            "client_name": "Tasks <b>for</b> you",
            "redirect_uris": [BACK, "http://127.0.0.1/cb"],
            "grant_types": ["authorization_code", "refresh_token"],
            **self.server.members,
        }
        body = json.dumps(document).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@dataclass
class Setting:
    """A directory with a database, and whoever was opened over it."""

    path: Path
    opened: list[Api] = field(default_factory=list)

    def open(self, **more: Any) -> Api:
        """Open another process over the database; it knows no document."""
        for api in self.opened[-1:]:
            api.__exit__(None, None, None)
        asked = {"client_documents": True, "client_document_scopes": "tasks:read", **more}
        self.opened.append(Api(self.path, **asked))
        self.opened[-1].__enter__()
        return self.opened[-1]


@pytest.fixture
def host() -> Iterator[Host]:
    with Host() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    made = Setting(tmp_path)
    yield made
    for api in made.opened[-1:]:
        api.__exit__(None, None, None)


@pytest.fixture
def api(setting: Setting) -> Api:
    opened = setting.open()
    opened.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
    return opened


def flow_of(api: Api, client_id: str, **more: Any) -> Flow:
    """Return a flow of the client with this id, which is registered nowhere."""
    return Flow(api, Made(OAuthClient(client_id, "", (), (), (), (), "active", 1, 0.0, is_public=True), ""), **more)


def refreshed(flow: Flow, token: str) -> Any:
    fields = {"grant_type": "refresh_token", "client_id": flow.made.client.id, "refresh_token": token}
    return flow.api.client.post("/oauth/token", data=fields)


def test_from_the_link_to_an_api_call_a_refresh_and_its_end(api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    told = flow.consent()
    assert told["state"] == flow.state
    answer = flow.exchange(told["code"])
    assert answer.status_code == 200, answer.text
    body = answer.json()
    said = claims(body["access_token"])
    assert (said["client_id"], said["aud"], said["scope"]) == (host.client_id, AUDIENCE, "email openid tasks:read")
    assert claims(body["id_token"])["aud"] == host.client_id
    assert [api.get(path, body["access_token"]) for path in ("/tasks", "/signed-in", "/admin", "/clients")] == [
        200,
        403,
        403,
        403,
    ]
    again = refreshed(flow, body["refresh_token"])
    assert again.status_code == 200, again.text
    assert api.get("/tasks", again.json()["access_token"]) == 200
    assert host.asked == 1
    listed = flow.browser.get("/auth/sessions").json()["items"]
    assert f"127.0.0.1:{host.server_port}" in [session["client"] for session in listed], "not what it calls itself"
    ended = {"client_id": host.client_id, "token": again.json()["refresh_token"]}
    assert api.client.post("/oauth/revoke", data=ended).status_code == 200
    assert api.get("/tasks", again.json()["access_token"]) == 401
    assert refreshed(flow, again.json()["refresh_token"]).json()["error"] == "invalid_grant"


def test_the_page_says_which_host_asks_and_that_nobody_vouches_for_it(api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    own = f"127.0.0.1:{host.server_port}"
    sign_in = flow.ask().text
    assert f"{own} asks to act in your name" in sign_in
    assert "Tasks" not in sign_in
    page = flow.browser.get(flow.sign_in().headers["location"])
    assert f"<strong>{own}</strong> asks to act in your name" in page.text
    assert "It is not registered here" in page.text
    assert "It calls itself &ldquo;Tasks &lt;b&gt;for&lt;/b&gt; you&rdquo;. Nobody has checked that." in page.text
    assert "You will be sent back to app.example.com." in page.text
    assert "program on this computer" not in page.text
    assert "form-action 'self' https://app.example.com" in page.headers["content-security-policy"]
    here = flow_of(api, host.client_id, redirect_uri="http://127.0.0.1:49152/cb")
    page = here.browser.get(here.sign_in().headers["location"])
    assert "any program here can say that it is 127.0.0.1:" in page.text
    assert "You will be sent back to 127.0.0.1:49152." in page.text


def test_the_page_of_a_registered_client_says_none_of_that(api: Api) -> None:
    flow = Flow(api, make(api), redirect_uri="http://127.0.0.1:49152/cb")
    page = flow.browser.get(flow.sign_in().headers["location"]).text
    assert "<strong>app</strong> asks to act in your name" in page
    assert not re.search("registered|calls itself|program on this computer", page)


def told(flow: Flow, answer: Any) -> dict[str, str]:
    """Return what the client would be told, by a link that a person may follow or not."""
    assert (answer.status_code, "location" in answer.headers) == (400, False)
    assert flow.made.client.id.split("/")[2] in answer.text, "it says who asked"
    (link,) = re.findall(r'<a href="([^"]*)"', answer.text)
    location = html.unescape(link)
    assert location.startswith(flow.redirect_uri)
    return dict(parse_qsl(urlsplit(location).query))


def test_a_stranger_cannot_send_people_on_by_a_link_of_ours(api: Api, host: Host) -> None:
    """Anybody can be such a client, and a link of ours would look like ours (RFC 9700 4.11.2): a person decides."""
    flow = flow_of(api, host.client_id)
    for change, error in (
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"scope": "no"}, "invalid_scope"),
        ({"prompt": "none"}, "login_required"),
        ({"request": "x"}, "request_not_supported"),
    ):
        with structlog.testing.capture_logs() as logs:
            heard = told(flow, flow.ask(**change))
        why = heard.pop("error_description")
        assert heard == {
            "from": "garrison", "error": error, "state": flow.state, "iss": "http://127.0.0.1:8000"
        }, change  # fmt: skip
        assert [(one["code"], one["reason"]) for one in logs if one["event"] == "refused"] == [(error, why)]
    pushed = {"client_id": host.client_id, "request_uri": "https://evil.example.com"}
    assert told(flow, flow.ask(**pushed))["error"] == "request_uri_not_supported"
    flow.sign_in()
    assert told(flow, flow.ask(prompt="none"))["error"] == "consent_required"
    flow.browser.cookies.clear()
    assert flow.consent("deny")["error"] == "access_denied", "who has decided is sent on"
    state = '"><script>alert(1)</script>'
    answer = flow.ask(scope="no", state=state)
    assert "<script" not in answer.text
    assert told(flow, answer)["state"] == state


def test_it_may_ask_for_what_such_clients_may_have_and_for_nothing_else(setting: Setting, host: Host) -> None:
    api = setting.open()
    api.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
    flow = flow_of(api, host.client_id)
    for change, error in (
        ({"scope": "tasks:write"}, "invalid_scope"),
        ({"scope": "openid tasks:read admin"}, "invalid_scope"),
        ({"resource": "https://other.example.com"}, "invalid_target"),
        ({"code_challenge": None}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
    ):
        assert told(flow, flow.ask(**change))["error"] == error, change
    assert flow.consent(resource=AUDIENCE)["code"]
    api = setting.open(client_document_scopes="")
    flow = flow_of(api, host.client_id)
    assert told(flow, flow.ask(scope="tasks:read"))["error"] == "invalid_scope"
    assert flow.exchange(flow.consent(scope="openid email")["code"]).json()["scope"] == "email openid"


def test_nobody_is_sent_to_an_address_that_is_not_in_the_document(api: Api, host: Host) -> None:
    for redirect_uri in ("https://evil.example.com/", BACK + "&x=1", "http://127.0.0.1:1/other", ""):
        answer = flow_of(api, host.client_id).ask(redirect_uri=redirect_uri)
        assert (answer.status_code, "location" in answer.headers) == (400, False), redirect_uri


@pytest.mark.parametrize(
    "members",
    [
        {"client_id": "https://client.example.com/client.json"},
        {"redirect_uris": []},
        {"client_secret": "x"},
        {"token_endpoint_auth_method": "client_secret_basic"},
    ],
)
def test_a_document_that_describes_no_client_is_told_to_nobody(api: Api, host: Host, members: dict[str, Any]) -> None:
    host.members = members
    answer = flow_of(api, host.client_id).ask()
    unknown = Flow(api, api.made).ask(client_id="cli_" + "0" * 24)
    assert (answer.status_code, answer.text) == (400, unknown.text)
    assert "location" not in answer.headers


def test_a_host_that_is_down_is_no_refusal(api: Api, host: Host) -> None:
    host.status = 503
    flow = flow_of(api, host.client_id)
    answer = flow.ask()
    assert (answer.status_code, "location" in answer.headers) == (503, False)
    pushed = api.client.post("/oauth/par", data=pushed_form(flow))
    assert (pushed.status_code, pushed.json()) == (503, {"error": "temporarily_unavailable"})
    assert "retry-after" in pushed.headers
    assert host.asked == 1


def pushed_form(flow: Flow, **change: str | None) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(flow.query(**change)).items()}


def test_a_pushed_request_of_such_a_client(api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    pushed = api.client.post("/oauth/par", data=pushed_form(flow, scope="tasks:read"))
    assert pushed.status_code == 201, pushed.text
    told = flow.consent(request_uri=pushed.json()["request_uri"])
    assert flow.exchange(told["code"]).json()["scope"] == "tasks:read"
    refused = api.client.post("/oauth/par", data=pushed_form(flow, scope="admin"))
    assert (refused.status_code, refused.json()["error"]) == (400, "invalid_scope")
    other = api.client.post("/oauth/par", data=pushed_form(flow, client_id=host.client_id + "?x"))
    assert (other.status_code, other.json()["error"]) == (401, "invalid_client")


def test_it_has_no_secret_and_nothing_by_itself(api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    code = flow.consent()["code"]
    assert flow.exchange(code, client_secret="x").status_code == 401
    for grant in ("client_credentials", "password"):
        answer = api.client.post("/oauth/token", data={"grant_type": grant, "client_id": host.client_id})
        assert answer.json()["error"] in ("unauthorized_client", "unsupported_grant_type")
    token = api.token()
    asked = api.client.post("/oauth/introspect", data={"client_id": host.client_id, "token": token})
    assert (asked.status_code, asked.json()["error"]) == (401, "invalid_client")
    api.client.post("/oauth/revoke", data={"client_id": host.client_id, "token": token})
    assert api.get("/tasks", token) == 200, "it revokes what is its own"
    assert flow.exchange(code).status_code == 200


def test_without_the_grant_there_is_no_refresh_token(api: Api, host: Host) -> None:
    host.members = {"grant_types": ["authorization_code"]}
    flow = flow_of(api, host.client_id)
    assert "refresh_token" not in flow.exchange(flow.consent()["code"]).json()
    assert refreshed(flow, "grr_x").json()["error"] == "unauthorized_client"


def test_codes_and_refresh_tokens_are_the_clients_own(api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    code = flow.consent()["code"]
    other = make(api, "other", is_public=True)
    assert flow.exchange(code, client_id=other.client.id).json()["error"] == "invalid_grant"
    body = flow.exchange(code).json()
    stolen = {"grant_type": "refresh_token", "client_id": other.client.id, "refresh_token": body["refresh_token"]}
    assert api.client.post("/oauth/token", data=stolen).json()["error"] == "invalid_grant"
    assert refreshed(flow, body["refresh_token"]).status_code == 200


# Another process, or the same after a restart


def test_a_code_and_a_refresh_token_bring_their_client_along(setting: Setting, api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    code = flow.consent()["code"]
    flow.api = setting.open()
    body = flow.exchange(code).json()
    assert host.asked == 2
    flow.api = setting.open()
    assert refreshed(flow, body["refresh_token"]).status_code == 200
    assert host.asked == 3


def test_a_process_that_cannot_ask_says_so_and_takes_nothing_away(setting: Setting, api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    body = flow.exchange(flow.consent()["code"]).json()
    flow.api = setting.open()
    host.status = 503
    answer = refreshed(flow, body["refresh_token"])
    assert (answer.status_code, answer.json()) == (503, {"error": "temporarily_unavailable"})
    flow.api, host.status = setting.open(), 200
    assert refreshed(flow, body["refresh_token"]).status_code == 200
    flow.api, host.members = setting.open(), {"redirect_uris": []}
    assert refreshed(flow, body["refresh_token"]).json()["error"] == "invalid_client"


def test_what_is_not_the_clients_own_makes_nobody_fetch(setting: Setting, api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    body = flow.exchange(flow.consent()["code"]).json()
    api = flow.api = setting.open()
    other = f"http://127.0.0.1:{host.server_port}/other.json"
    own = api.client.post("/auth/sign-in", json={"email": EMAIL, "password": PASSWORD, "deliver": "token"}).json()
    for fields in (
        {"grant_type": "authorization_code", "client_id": host.client_id, "code": "x", "code_verifier": "y"},
        {"grant_type": "refresh_token", "client_id": host.client_id, "refresh_token": "grr_x"},
        {"grant_type": "refresh_token", "client_id": host.client_id, "refresh_token": own["refresh_token"]},
        {"grant_type": "refresh_token", "client_id": other, "refresh_token": body["refresh_token"]},
        {"grant_type": "client_credentials", "client_id": host.client_id},
    ):
        answer = api.client.post("/oauth/token", data=fields)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), fields
    ended = {"client_id": host.client_id, "token": body["refresh_token"]}
    assert api.client.post("/oauth/revoke", data={**ended, "client_secret": "x"}).status_code == 401
    assert api.client.post("/oauth/revoke", data=ended).status_code == 200
    assert host.asked == 1
    assert refreshed(flow, body["refresh_token"]).json()["error"] == "invalid_client"
    assert api.get("/tasks", body["access_token"]) == 401, "it was ended without its document"


def test_strangers_at_the_endpoint_cause_so_many_fetches_and_no_more(api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    found = [flow.ask(client_id=f"{host.client_id}/{n}").status_code for n in range(100)]
    assert found.count(503) > 80
    assert host.asked == found.count(400) <= 12


def test_strangers_cannot_use_up_what_a_public_client_may_ask_for(setting: Setting) -> None:
    api = setting.open(limit_oauth_token=Limit(3, 3600))
    fields = {"grant_type": "refresh_token", "client_id": make(api, is_public=True).client.id, "refresh_token": "x"}
    assert [api.client.post("/oauth/token", data=fields).status_code for _ in range(4)] == [400, 400, 400, 429]
    elsewhere = TestClient(api.client.app, client=("127.0.0.2", 1))
    elsewhere.portal = api.client.portal
    assert elsewhere.post("/oauth/token", data=fields).status_code == 400
    assert [api.ask().status_code for _ in range(3)] == [200, 200, 200]
    elsewhere_asked = {"client_id": api.made.client.id, "client_secret": api.made.secret}
    limited = elsewhere.post("/oauth/token", data={"grant_type": "client_credentials", **elsewhere_asked})
    assert limited.status_code == 429, "one with a secret is the same everywhere"


# Where they are not taken


def test_off_is_the_default_and_then_nothing_is_fetched_or_said(setting: Setting, host: Host) -> None:
    api = setting.open(client_documents=False)
    assert flow_of(api, host.client_id).ask().status_code == 400
    assert api.client.post("/oauth/par", data=pushed_form(flow_of(api, host.client_id))).status_code == 401
    assert api.client.post("/oauth/revoke", data={"client_id": host.client_id, "token": "x"}).status_code == 401
    assert host.asked == 0
    for path in ("oauth-authorization-server", "openid-configuration"):
        assert "client_id_metadata_document_supported" not in api.client.get(f"/.well-known/{path}").json()


def test_the_metadata_says_so_where_they_are_taken(api: Api) -> None:
    for path in ("oauth-authorization-server", "openid-configuration"):
        told = api.client.get(f"/.well-known/{path}").json()
        assert told["client_id_metadata_document_supported"] is True
        assert "none" in told["token_endpoint_auth_methods_supported"]


def test_what_was_given_ends_with_the_setting(setting: Setting, api: Api, host: Host) -> None:
    flow = flow_of(api, host.client_id)
    body = flow.exchange(flow.consent()["code"]).json()
    flow.api = setting.open(client_documents=False)
    assert refreshed(flow, body["refresh_token"]).json()["error"] == "invalid_client"


def test_a_server_that_is_not_on_this_machine_asks_nobody_here(setting: Setting, host: Host) -> None:
    api = setting.open(issuer="https://api.example.com", allowed_hosts="testserver")
    assert flow_of(api, host.client_id).ask().status_code == 400
    assert host.asked == 0
