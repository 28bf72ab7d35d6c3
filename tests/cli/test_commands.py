"""The commands as people and scripts run them: real processes, exit codes, what goes to stdout and what to stderr."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.process import forks
from tests.process.server import GARRISON, ROOT, Server, person

PRODUCTION = {
    "GARRISON_ENV": "production",
    "GARRISON_ISSUER": "https://api.example.com",
    "GARRISON_SECRET": "canary-secret-that-nobody-may-see-0123456789",
    "GARRISON_EMAIL_VERIFICATION": "optional",
}
BARE = "from fastapi import FastAPI\napp = FastAPI()\n"
DECIDED = BARE + "from garrison import public\n\n@app.get('/open')\n@public\nasync def open_(): return 1\n"
CLASSES = """
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.routing import Route
from garrison import public

class Ping(HTTPEndpoint):
    @public
    async def get(self, request): ...

app = Starlette(routes=[Route("/ping", Ping)])
"""
UNDECIDED = DECIDED + "\n@app.delete('/forgotten/{id}')\nasync def forgotten(id: int): return 1\n"


def run(directory: Path, *arguments: str, stdin: str = "", **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    return forks.run([GARRISON, *arguments], directory, {**inherited, **environment}, stdin=stdin)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "bare.py").write_text(BARE)
    (tmp_path / "decided.py").write_text(DECIDED)
    (tmp_path / "undecided.py").write_text(UNDECIDED)
    (tmp_path / "protected.py").write_text(DECIDED + "\nfrom garrison import Garrison\nGarrison().protect(app)\n")
    return tmp_path


COMMANDS = [
    ("serve",), ("routes",), ("check",), ("migrate",), ("account", "create"), ("account", "set-role"),
    ("account", "disable"), ("account", "enable"), ("account", "list"), ("client", "create"), ("client", "list"),
    ("client", "rotate"), ("client", "disable"), ("client", "enable"), ("client", "delete"), ("backup",), ("restore",),
    ("restored",), ("move",), ("key", "create"), ("key", "list"), ("key", "rotate"),
    ("key", "revoke"), ("keys", "list"), ("keys", "rotate"), ("keys", "revoke"),
    ("issuer", "refuse"), ("issuer", "sign-out"), ("issuer", "allow"), ("issuer", "list"),
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_shows_examples_that_can_be_copied(directory: Path, command: tuple[str, ...]) -> None:
    done = run(directory, *command, "--help", COLUMNS="80")
    assert done.returncode == 0
    lines = examples(done.stdout)
    assert all(len(line) < 80 for line in lines)
    assert lines == examples(run(directory, *command, "--help", COLUMNS="40").stdout), "whatever the width"
    shown = "\n".join(lines)
    assert subprocess.run(["sh", "-n"], input=shown, text=True, check=False).returncode == 0, shown
    commands = [line.strip() for line in shown.replace("\\\n", " ").split("\n")]
    assert all(f"garrison {' '.join(command)}" in one for one in commands), commands
    if command != ("serve",):
        assert "--json" in done.stdout


def examples(shown: str) -> list[str]:
    """Return the lines of a command's help that stand below `Examples:`."""
    return shown.partition("Examples:\n")[2].partition("\n\n")[0].splitlines()


def test_version_and_help_need_no_settings(directory: Path) -> None:
    assert run(directory, "--version", GARRISON_ENV="nonsense").stdout.strip() == "0.1.0"
    assert run(directory, "--help", GARRISON_ENV="nonsense").returncode == 0


def test_check_names_undecided_routes_and_writes_nothing(directory: Path) -> None:
    before = sorted(directory.iterdir())
    done = run(directory, "check", "undecided:app", "--json", PYTHONDONTWRITEBYTECODE="1")
    assert done.returncode == 1
    [undecided] = json.loads(done.stdout)["undecided"]
    assert undecided == {"method": "DELETE", "path": "/forgotten/{id}", "place": "undecided.py:9"}
    text = run(directory, "check", "undecided:app", PYTHONDONTWRITEBYTECODE="1")
    assert text.returncode == 1
    assert "DELETE /forgotten/{id}: nothing decides it (undecided.py:9)" in text.stdout
    routes = json.loads(run(directory, "routes", "undecided:app", "--json", PYTHONDONTWRITEBYTECODE="1").stdout)[
        "routes"
    ]
    own = [one for one in routes if one["source"] == "Garrison"]
    counted = f"{len(routes) - len(own)} routes of the app, mend the above; {len(own)} more are Garrison's own: "
    assert counted + "garrison routes undecided:app" in text.stdout
    assert sorted(directory.iterdir()) == before


@pytest.mark.parametrize("target", ["bare:app", "protected:app"])
def test_check_takes_bare_and_protected_apps(directory: Path, target: str) -> None:
    done = run(directory, "check", target, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["undecided"], found["refusals"], found["unprotected"]) == ([], [], [])
    assert found["protected"] is (target == "protected:app")
    assert [text for text in found["warnings"] if "OPEN" in text] == ([] if found["protected"] else found["warnings"])
    text = run(directory, "check", target, GARRISON_ENV="production")
    assert text.returncode == 0, "check needs no secrets"
    assert ("is OPEN" in text.stdout) is not found["protected"]


def test_an_app_that_is_marked_and_not_protected_is_a_finding(directory: Path) -> None:
    done = run(directory, "check", "decided:app", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["protected"], found["warnings"]) == (False, [])
    [text] = found["unprotected"]
    assert "does not call Garrison().protect(app)" in text
    assert "is OPEN" in text
    shown = run(directory, "check", "decided:app")
    assert (shown.returncode, f"open: {text}" in shown.stdout) == (1, True)
    (directory / "classes.py").write_text(CLASSES)
    assert run(directory, "check", "classes:app").returncode == 1
    routes = run(directory, "routes", "decided:app")
    assert (routes.returncode, "is OPEN" in routes.stderr) == (0, True)


def test_routes_say_where_each_decision_comes_from(directory: Path) -> None:
    done = run(directory, "routes", "decided:app", "--json")
    routes = {(one["method"], one["path"]): one for one in json.loads(done.stdout)["routes"]}
    assert routes["GET", "/open"]["rule"] == {"access": "public"}
    assert routes["GET", "/open"]["source"] == "decorator at decided.py:5"
    assert "documentation" in routes["GET", "/docs"]["source"]
    assert ("GET", "/docs") not in {
        (one["method"], one["path"])
        for one in json.loads(run(directory, "routes", "decided:app", "--json", GARRISON_ENV="production").stdout)[
            "routes"
        ]
    }
    table = run(directory, "routes", "decided:app").stdout
    assert "/open" in table
    assert "decided.py:5" in table


@pytest.mark.parametrize("target", ["nothing:app", "decided:nothing", "decided", ":app", "decided:"])
@pytest.mark.parametrize("command", ["serve", "check", "routes"])
def test_an_app_that_is_not_there_is_wrong_use(directory: Path, command: str, target: str) -> None:
    done = run(directory, command, target)
    assert done.returncode == 2
    assert done.stderr.startswith("garrison")
    assert "Traceback" not in done.stderr


def test_a_policy_that_does_not_fit_is_a_list_and_no_traceback(directory: Path) -> None:
    done = run(directory, "serve", "undecided:app")
    assert done.returncode == 1
    assert "DELETE /forgotten/{id} is undecided" in done.stderr
    assert "Traceback" not in done.stderr


def test_ten_mistakes_are_listed_at_once_by_name_and_without_values(directory: Path) -> None:
    mistakes = {
        "ENV": "canary-env", "ISSUER": "canary-issuer", "ALLOWED_ORIGINS": "*,https://canary/path",
        "TRUSTED_PROXIES": "canary-proxy", "LIMIT_API": "canary-limit", "SESSION_IDLE": "canary-idle",
        "SECRET": "canary-short", "UNDECIDED": "canary-undecided", "DATABASE_URL": "canary://db",
        "DEV_EXPOSE": "canary-bool", "PASSWORD_COST": "canary-cost", "LIMIT_APPI": "canary-unknown",
    }  # fmt: skip
    done = run(directory, "serve", "decided:app", **{f"GARRISON_{name}": value for name, value in mistakes.items()})
    assert done.returncode == 1
    for name in mistakes:
        assert f"GARRISON_{name}: " in done.stderr, name
    assert "did you mean GARRISON_LIMIT_API?" in done.stderr
    assert "canary" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_nothing_listens_beyond_this_machine_by_accident(directory: Path) -> None:
    unset = run(directory, "serve", "decided:app", "--host", "0.0.0.0")
    assert unset.returncode == 2
    assert "GARRISON_ENV" in unset.stderr
    development = run(directory, "serve", "decided:app", "--host", "0.0.0.0", GARRISON_ENV="development")
    assert development.returncode == 2
    assert "GARRISON_DEV_EXPOSE" in development.stderr


def test_production_never_migrates_by_itself(directory: Path) -> None:
    refused = run(directory, "serve", "decided:app", **PRODUCTION)
    assert refused.returncode == 1
    assert "garrison migrate" in refused.stderr
    assert "Traceback" not in refused.stderr
    first = run(directory, "migrate", "--json", **PRODUCTION)
    assert first.returncode == 0, first.stderr
    after = json.loads(first.stdout)["after"]
    assert json.loads(first.stdout)["before"] is None
    assert json.loads(run(directory, "migrate", "--json", **PRODUCTION).stdout) == {"before": after, "after": after}
    assert PRODUCTION["GARRISON_SECRET"] not in refused.stderr + first.stderr


def test_another_secret_is_a_named_error_and_never_new_keys(directory: Path) -> None:
    assert run(directory, "migrate", **PRODUCTION).returncode == 0
    assert run(directory, "account", "list", **PRODUCTION).returncode == 0
    other = run(directory, "account", "list", **{**PRODUCTION, "GARRISON_SECRET": "x" * 40})
    assert other.returncode == 1
    assert "another SECRET" in other.stderr
    rotated = {**PRODUCTION, "GARRISON_SECRET": "x" * 40 + "," + PRODUCTION["GARRISON_SECRET"]}
    assert run(directory, "account", "list", **rotated).returncode == 0
    assert run(directory, "account", "list", **{**PRODUCTION, "GARRISON_SECRET": "x" * 40}).returncode == 0


def test_accounts_by_command(directory: Path) -> None:
    password = "canary password of ada"
    made = run(
        directory,
        "account",
        "create",
        "ada@example.com",
        "--role",
        "admin",
        "--password-stdin",
        "--json",
        stdin=password,
    )
    assert made.returncode == 0, made.stderr
    account = json.loads(made.stdout)
    assert account["roles"] == ["admin", "member"]
    again = run(directory, "account", "create", "ADA@example.com", "--password-stdin", stdin=password)
    assert again.returncode == 1
    assert "there is an account" in again.stderr
    short = run(directory, "account", "create", "bob@example.com", "--password-stdin", stdin="short")
    assert short.returncode == 1
    assert "8 to 256" in short.stderr
    assert run(directory, "account", "set-role", "nobody@example.com", "admin").returncode == 1
    assert run(directory, "account", "set-role", "ada@example.com", "two words").returncode == 2
    assert run(directory, "account", "set-role", account["id"], "reader").stdout.endswith("member reader  active\n")
    set_role = run(directory, "account", "set-role", account["id"], "editor", "--json")
    assert json.loads(set_role.stdout)["roles"] == ["editor", "member"]
    assert "names from the app's policy" in set_role.stderr
    assert json.loads(run(directory, "account", "disable", account["id"], "--json").stdout)["status"] == "disabled"
    assert json.loads(run(directory, "account", "enable", account["id"], "--json").stdout)["status"] == "active"
    listed = json.loads(run(directory, "account", "list", "--json").stdout)["items"]
    assert [one["email"] for one in listed] == ["ada@example.com"]
    assert not any(password.encode() in file.read_bytes() for file in (directory / "var").iterdir())


@pytest.mark.parametrize("words", [("list",), ("set-role", "ada@example.com", "admin"), ("disable", "ada@example.com")])
def test_where_there_is_no_database_none_is_made(tmp_path: Path, words: tuple[str, ...]) -> None:
    done = run(tmp_path, "account", *words, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert str(tmp_path / "var" / "garrison.db") in done.stderr
    assert "GARRISON_DATABASE_URL" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_running_server_sees_commands_within_the_bound(tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        client = person(server, "member")
        assert client.get("/reports/tasks").status_code == 403
        [printed] = [
            line for line in server.log.read_text().splitlines() if line.endswith(" account set-role EMAIL admin")
        ]
        command = printed.partition("then: ")[2].replace("EMAIL", "member@example.com")
        plain = {"PATH": "/usr/bin:/bin"}  # of another terminal, where no virtual environment is active
        assert subprocess.run(["sh", "-c", command], cwd=tmp_path, env=plain, check=False).returncode == 0
        began = time.monotonic()
        while client.get("/reports/tasks").status_code != 200:
            assert time.monotonic() - began < 2.0
        assert run(tmp_path, "account", "disable", "member@example.com").returncode == 0
        began = time.monotonic()
        while client.get("/auth/session").status_code != 401:
            assert time.monotonic() - began < 2.0
        assert f"http://127.0.0.1:{server.port}" in server.log.read_text()
        assert "garrison account set-role EMAIL admin" in server.log.read_text()


def test_the_port_comes_from_the_option_or_the_environment_and_the_issuer_follows(directory: Path) -> None:
    with Server(directory, app="decided:app") as server:
        answer = server.client().get("/auth/openapi.json").json()
        assert answer["servers"] == [{"url": server.url}]
        taken = run(directory, "serve", "decided:app", PORT=str(server.port))
        assert taken.returncode == 2
        assert str(server.port) in taken.stderr
        assert "--port" in taken.stderr
