"""`garrison client`, `key` and `keys`, as people and scripts run them, beside a server that is running."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.cli.test_commands import run
from tests.identity.test_oauth_assertions import jwks
from tests.process.server import Server, sign_up

EMAIL = "ada@example.com"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("machines")) as server:
        sign_up(server.client(), EMAIL)
        yield server


def document(server: Server, *arguments: str) -> Any:
    done = run(server.directory, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def status(server: Server, headers: dict[str, str]) -> int:
    return httpx2.get(f"{server.url}/tasks", headers=headers).status_code


def within_the_bound(server: Server, headers: dict[str, str], expected: int) -> None:
    end = time.monotonic() + 2.0
    while status(server, headers) != expected:
        assert time.monotonic() < end
        time.sleep(0.01)


def token(server: Server, made: dict[str, Any], secret: str | None = None) -> dict[str, str]:
    answer = httpx2.post(
        f"{server.url}/oauth/token",
        data={"grant_type": "client_credentials"},
        auth=(made["client_id"], secret or made["client_secret"]),
    )
    assert answer.status_code == 200, answer.text
    return {"authorization": f"Bearer {answer.json()['access_token']}"}


def test_a_client_from_its_making_to_its_end(server: Server) -> None:
    made = document(
        server, "client", "create", "--name", "reports", "--grant", "client_credentials",
        "--audience", server.url, "--scope", "tasks:read tasks:write",
    )  # fmt: skip
    assert made["client_id"].startswith("cli_")
    headers = token(server, made)
    assert status(server, headers) == 200
    rotated = document(server, "client", "rotate", made["client_id"])
    assert status(server, token(server, made, rotated["client_secret"])) == 200
    assert status(server, token(server, made)) == 200, "the secret before is good for a day"
    listed = document(server, "client", "list")["items"]
    assert [one["name"] for one in listed] == ["reports"]
    assert "client_secret" not in json.dumps(listed)
    document(server, "client", "delete", made["client_id"])
    within_the_bound(server, headers, 401)
    again = run(server.directory, "client", "delete", made["client_id"])
    assert (again.returncode, "no such client" in again.stderr) == (1, True)
    wrong = run(server.directory, "client", "create", "--name", "x", "--grant", "password")
    assert (wrong.returncode, "grants are" in wrong.stderr) == (2, True)


def test_a_client_without_an_audience_gets_the_apps_own_and_what_it_is_given_is_on_stdout(server: Server) -> None:
    port = str(server.port)
    made = run(server.directory, "client", "create", "--name", "usual", "--scope", "tasks:read", PORT=port)
    assert made.returncode == 0, made.stderr
    given = dict(line.split() for line in made.stdout.splitlines())
    assert list(given) == ["client_id", "client_secret"]
    assert f"Its tokens are for {server.url}," in made.stderr
    assert "shown this once" in made.stderr
    assert status(server, token(server, given)) == 200
    rotated = run(server.directory, "client", "rotate", given["client_id"])
    assert rotated.stdout.startswith("client_secret  grc_")
    assert "the one before is good for a day" in rotated.stderr
    other = ("client", "create", "--name", "other", "--audience", "https://api.example.com", "--json")
    assert f"takes those for {server.url}" in run(server.directory, *other, PORT=port).stderr
    shown = run(server.directory, "client", "create", "--help").stdout
    assert all(grant in shown for grant in ("authorization_code", "device_code", "token_exchange", "Without: client"))


def test_a_client_that_signs_has_no_secret(server: Server) -> None:
    (server.directory / "keys.json").write_text(jwks("ES256"))
    made = document(
        server, "client", "create", "--name", "signs", "--audience", server.url, "--jwks", "keys.json", "--dpop"
    )
    assert "client_secret" not in made
    assert made["requires_dpop"] is True
    assert made["jwks"]["keys"][0]["kid"] == "ES256"
    (server.directory / "keys.json").write_text(jwks("RS256"))
    assert document(server, "client", "rotate", made["client_id"], "--jwks", "keys.json")["rotated"] is True
    listed = document(server, "client", "list")["items"]
    assert [one["jwks"]["keys"][0]["kid"] for one in listed if one["jwks"]] == ["RS256"]
    without = run(server.directory, "client", "rotate", made["client_id"])
    assert (without.returncode, "signs and has no secret; give it other keys (jwks)" in without.stderr) == (1, True)
    (server.directory / "keys.json").write_text("{}")
    for path, says in (("keys.json", "a key set is"), ("nowhere.json", "cannot be read")):
        wrong = run(server.directory, "client", "create", "--name", "x", "--jwks", path)
        assert (wrong.returncode, says in wrong.stderr) == (2, True), wrong.stderr


def test_a_key_from_its_making_to_its_end(server: Server) -> None:
    made = document(
        server, "key", "create", "--account", EMAIL, "--name", "ci", "--scope", "tasks:read tasks:write admin:all",
        "--network", "127.0.0.0/8", "--expires", "90d", "--limit", "1000/minute",
    )  # fmt: skip
    headers = {"x-api-key": made["key"]}
    assert status(server, headers) == 200
    assert made["networks"] == ["127.0.0.0/8"]
    [listed] = document(server, "key", "list", "--account", EMAIL)["items"]
    assert (listed["id"], listed["expires_at"], listed["limit"]) == (made["id"], made["expires_at"], "1000/minute")
    rotated = document(server, "key", "rotate", made["id"])
    assert status(server, {"x-api-key": rotated["key"]}) == 200
    assert status(server, headers) == 200, "the one before is good for a day"
    document(server, "key", "revoke", made["id"])
    within_the_bound(server, headers, 401)
    within_the_bound(server, {"x-api-key": rotated["key"]}, 401)
    assert run(server.directory, "key", "rotate", made["id"]).returncode == 2
    assert run(server.directory, "key", "revoke", made["id"]).returncode == 2
    elsewhere = document(
        server,
        "key",
        "create",
        "--account",
        EMAIL,
        "--name",
        "x",
        "--scope",
        "tasks:read",
        "--network",
        "203.0.113.0/24",
    )
    assert status(server, {"x-api-key": elsewhere["key"]}) == 403
    wrong = run(server.directory, "key", "create", "--account", EMAIL, "--name", "x", "--network", "everywhere")
    assert (wrong.returncode, "written as CIDR" in wrong.stderr) == (2, True)
    nobody = run(server.directory, "key", "create", "--account", "nobody@example.com", "--name", "x")
    assert (nobody.returncode, "no such account" in nobody.stderr) == (1, True)


def test_how_long_a_key_is_good_has_a_unit_and_is_shown(server: Server) -> None:
    create = ("key", "create", "--account", EMAIL, "--name", "long")
    for without_unit in ("90", "90.5", ""):
        refused = run(server.directory, *create, "--expires", without_unit)
        assert (refused.returncode, refused.stdout, "write 90d" in refused.stderr) == (2, "", True), without_unit
    made = run(server.directory, *create, "--expires", "90d", "--limit", "7/minute")
    given = dict(line.split() for line in made.stdout.splitlines())
    assert list(given) == ["id", "key", "expires", "limit"]
    assert "it may use those that its account has" in made.stderr
    assert given["expires"].startswith(time.strftime("%Y-%m-%d", time.gmtime(time.time() + 90 * 86_400)))
    assert "expires  never" in run(server.directory, *create).stdout
    assert status(server, {"x-api-key": given["key"]}) == 403, "no scopes"
    row = next(line for line in run(server.directory, "key", "list").stdout.splitlines() if given["id"] in line)
    assert row.split()[-3:-1] == ["7/minute", given["expires"]]


def test_signing_keys_are_listed_rotated_and_revoked(server: Server) -> None:
    made = document(server, "client", "create", "--name", "x", "--audience", server.url, "--scope", "tasks:read")
    headers = token(server, made)
    assert status(server, headers) == 200
    keys = document(server, "keys", "list")["items"]
    assert sorted(key["state"] for key in keys) == ["active", "next"]
    following = next(key["signs_from"] for key in keys if key["state"] == "next")
    assert following > time.strftime("%Y-%m-%d", time.gmtime(time.time() + 80 * 86_400)), "by age"
    rotated = document(server, "keys", "rotate")
    assert keys[0]["shown_at"] < rotated["signs_from"] < following
    assert rotated["signs_from"] in run(server.directory, "keys", "list").stdout
    create = run(server.directory, "keys", "create", "--account", EMAIL, "--name", "x")
    assert (create.returncode, "`garrison key create`" in create.stderr) == (2, True)
    dashed = run(server.directory, "keys", "revoke", "-Vabc")
    assert (dashed.returncode, "there is no such key" in dashed.stderr) == (2, True), dashed.stderr
    active = next(key["kid"] for key in keys if key["state"] == "active")
    assert document(server, "keys", "revoke", active)["state"] == "revoked"
    within_the_bound(server, headers, 401)
    within_the_bound(server, token(server, made), 200)
    assert active not in httpx2.get(f"{server.url}/.well-known/jwks.json").text
    assert run(server.directory, "keys", "revoke", "another").returncode == 2


def test_a_directory_without_a_database_gets_none(tmp_path: Path) -> None:
    for words in (
        ("client", "list"),
        ("key", "list"),
        ("keys", "list"),
        ("keys", "rotate"),
        ("key", "revoke", "key_x"),
        ("issuer", "list"),
        ("issuer", "refuse", "https://login.example.com/", "x"),
    ):
        done = run(tmp_path, *words)
        assert (done.returncode, "there is no database" in done.stderr) == (2, True), words
    assert not list(tmp_path.iterdir())
