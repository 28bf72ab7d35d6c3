"""`garrison issuer`, as people and scripts run it, beside two workers that take tokens of a real issuer."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import httpx2
import pytest

from garrison.identity.signing.jose import public_jwk
from tests.cli.test_commands import run
from tests.identity.foreign import AUDIENCE, SUBJECT, Issuer, key
from tests.process.server import Server

BOUND_S = 2.0


class Beside(NamedTuple):
    """A running server, and whose tokens it takes."""

    server: Server
    issuer: Issuer

    def status(self, token: bytes) -> int:
        headers = {"authorization": f"Bearer {token.decode()}"}
        return httpx2.get(f"{self.server.url}/tasks", headers=headers).status_code

    def settles_at(self, token: bytes, expected: int) -> None:
        """Whichever worker answers, within the bound."""
        end = time.monotonic() + BOUND_S
        while self.status(token) != expected:
            assert time.monotonic() < end
            time.sleep(0.01)
        time.sleep(max(0.0, end - time.monotonic()))
        assert {self.status(token) for _ in range(20)} == {expected}

    def document(self, *arguments: str) -> Any:
        done = run(self.server.directory, "issuer", *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Beside]:
    issuer = Issuer(keys=[key("one")])
    shown = [{**public_jwk(one.key), "kid": one.kid, "alg": one.algorithm} for one in issuer.keys]

    class Keys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"keys": shown}).encode())

        def log_message(self, format: str, *arguments: object) -> None:
            return

    directory = tmp_path_factory.mktemp("issuer")
    with ThreadingHTTPServer(("127.0.0.1", 0), Keys) as keys:
        threading.Thread(target=keys.serve_forever, daemon=True).start()
        issuer.url = f"http://127.0.0.1:{keys.server_port}/"
        told = {"issuer": issuer.url, "audience": AUDIENCE, "scopes": {"read:tasks": "tasks:read"}}
        told["jwks_uri"] = issuer.url + "jwks"
        (directory / ".env").write_text(f"GARRISON_FOREIGN_ISSUERS='{json.dumps([told])}'\n")
        with Server(directory, workers=2) as server:
            yield Beside(server, issuer)
        keys.shutdown()


def test_a_subject_is_refused_and_allowed_while_two_workers_serve(beside: Beside) -> None:
    issuer, now = beside.issuer, time.time()
    seen, other = issuer.token(issuer.keys[0], now), issuer.token(issuer.keys[0], now, sub="auth0|8")
    assert {beside.status(seen) for _ in range(20)} == {200}
    refused = beside.document("refuse", issuer.url, SUBJECT)
    assert (refused["issuer"], refused["subject"], refused["refused"]) == (issuer.url, SUBJECT, True)
    beside.settles_at(seen, 401)
    later = issuer.token(issuer.keys[0], time.time() + 59, jti="later")  # of a clock that is ahead
    assert beside.status(later) == 401
    assert beside.status(other) == 200
    assert beside.document("list")["items"] == [refused]
    assert beside.document("allow", issuer.url, SUBJECT) == {
        "issuer": issuer.url,
        "subject": SUBJECT,
        "refused": False,
    }
    assert beside.document("list")["items"] == [{**refused, "refused": False}]
    assert beside.status(seen) == 401, "what was dead stays dead"


def test_a_subject_is_signed_out(beside: Beside) -> None:
    issuer = beside.issuer
    before = issuer.token(issuer.keys[0], time.time(), sub="auth0|9")
    assert beside.status(before) == 200
    done = run(beside.server.directory, "issuer", "sign-out", issuer.url, "auth0|9")
    assert (done.returncode, done.stdout, done.stderr) == (0, "auth0|9 is signed out\n", "")
    beside.settles_at(before, 401)
    shown = run(beside.server.directory, "issuer", "list")
    assert (shown.returncode, shown.stdout.count("auth0|9")) == (0, 1)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("refuse", "https://else.example.com/", "x"), "no such issuer is configured in GARRISON_FOREIGN_ISSUERS"),
        (("sign-out", "https://else.example.com/", "x"), "no such issuer is configured in GARRISON_FOREIGN_ISSUERS"),
        (("allow", "https://else.example.com/", "x"), "no such refused subject"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_would_refuse_or_allow_nobody_is_wrong_use(beside: Beside, words: tuple[str, ...], says: str) -> None:
    done = run(beside.server.directory, "issuer", *words, "--json")
    assert (done.returncode, done.stdout, says in done.stderr) == (2, "", True), done.stderr
