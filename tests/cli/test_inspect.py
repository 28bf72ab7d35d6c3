"""`garrison check` and `routes` on apps that are made in other ways than one would wish."""

import json
import os
from pathlib import Path

import pytest

from tests.cli.test_commands import PRODUCTION, run

OPEN = """
from fastapi import FastAPI
from garrison import Garrison, public

app = FastAPI()

@app.get("/open")
@public
async def open_(): return 1
"""
TWICE = OPEN + "\n@app.get('/twice')\n@public\n@public\nasync def twice(): return 1\n"
PROTECTED = "Garrison().protect(app)\n"
OWN_SETTINGS = (
    OPEN
    + """
from garrison.serve.settings import Settings
Garrison(settings=Settings(
    env="production", issuer="https://api.example.com", secret="s" * 40, email_verification="optional",
)).protect(app)
"""
)


def paths(directory: Path, target: str, **environment: str) -> set[str]:
    done = run(directory, "routes", target, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return {one["path"] for one in json.loads(done.stdout)["routes"]}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "open.py").write_text(OPEN + PROTECTED)
    return tmp_path


@pytest.mark.parametrize("command", ["check", "routes"])
def test_no_file_is_written_not_even_pythons_caches(directory: Path, command: str) -> None:
    before = sorted(directory.rglob("*"))
    assert run(directory, command, "open:app").returncode == 0
    assert sorted(directory.rglob("*")) == before


@pytest.mark.parametrize("command", ["check", "routes"])
def test_what_an_app_prints_while_imported_is_not_in_the_document(directory: Path, command: str) -> None:
    (directory / "noisy.py").write_text("print('starting up')\n" + OPEN)
    done = run(directory, command, "noisy:app", "--json")
    assert isinstance(json.loads(done.stdout), dict)
    assert "starting up" in done.stderr


def test_an_app_that_decides_twice_is_a_finding_in_the_document(directory: Path) -> None:
    (directory / "twice.py").write_text(TWICE)
    done = run(directory, "check", "twice:app", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["refusals"] == ["twice.py:12: twice is decided twice: one decorator is enough"]
    names = {"protected", "undecided", "refusals", "unprotected", "unreachable", "settings", "warnings", "routes"}
    assert set(found) == names


@pytest.mark.parametrize("command", ["serve", "check", "routes"])
@pytest.mark.parametrize("made", ["def app(): return FastAPI()", "app = 3", "async def app(scope): pass"])
def test_what_is_no_asgi_app_is_wrong_use_and_never_an_app_without_routes(
    directory: Path, command: str, made: str
) -> None:
    (directory / "made.py").write_text(f"from fastapi import FastAPI\n{made}\n")
    done = run(directory, command, "made:app")
    assert done.returncode == 2
    assert "no ASGI app" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "shown"),
    [("int('x')", "ValueError"), ("import not_installed", "not_installed"), ("def f(:", "SyntaxError")],
)
def test_what_breaks_in_the_apps_own_module_is_shown_with_its_place(directory: Path, text: str, shown: str) -> None:
    (directory / "broken.py").write_text(text + "\n")
    done = run(directory, "check", "broken:app")
    assert done.returncode == 1
    assert shown in done.stderr
    assert "broken.py" in done.stderr
    assert f"{os.sep}garrison{os.sep}cli{os.sep}" not in done.stderr
    assert "garrison: importing broken failed, as above" in done.stderr.splitlines()[-1]


def test_only_the_apps_own_frames_are_shown_where_a_library_refuses_it(directory: Path) -> None:
    (directory / "broken.py").write_text(OPEN + "\n@app.get('/x')\nasync def x() -> object(): return 1\n")
    (directory / "main.py").write_text("from broken import app\n")
    done = run(directory, "serve", "main:app")
    assert done.returncode == 1
    frames = [line.split('"')[1] for line in done.stderr.splitlines() if line.startswith("  File ")]
    assert frames == [str(directory / "main.py"), str(directory / "broken.py")]
    assert "AttributeError" in done.stderr


@pytest.mark.parametrize("command", ["serve", "check", "routes"])
@pytest.mark.parametrize(
    ("spelt", "says"),
    [
        ("@public()", "write @public"),
        ("@allow", 'allow(role="admin")'),
        ("@allow('admin')", 'allow(role="admin")'),
        ("@allow(scopes='tasks:read')", "did you mean scope=?"),
        ("@allow()", "allow(signed_in=True)"),
        ("@allow(signed_in=True, limit='5/soon')", "write a duration"),
    ],
)
def test_a_rule_that_is_misspelt_is_one_sentence_with_its_place(
    directory: Path, command: str, spelt: str, says: str
) -> None:
    text = OPEN.replace("import Garrison, public", "import Garrison, allow, public")
    (directory / "spelt.py").write_text(f"{text}\n@app.get('/x')\n{spelt}\nasync def x(): return 1\n")
    done = run(directory, command, "spelt:app")
    assert done.returncode == 2
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("garrison: spelt.py:12: ")
    assert says in sentence


def test_a_table_that_cannot_be_read_says_the_line_of_the_table_and_of_the_file(directory: Path) -> None:
    lines = "\n    ('GET /open', public),\n    ('/x', public),\n    ('GET /y',),\n"
    (directory / "table.py").write_text(OPEN + f"from garrison import Policy\nPolicy({lines})\n")
    found = json.loads(run(directory, "check", "table:app", "--json").stdout)["refusals"]
    assert [text.partition(": ")[0] for text in found] == ["table.py:11", "table.py:11"]
    assert "table line 2: " in found[0]
    assert "table line 3: " in found[1]


def test_which_environment_it_is_is_read_where_the_server_reads_it(directory: Path) -> None:
    assert "/docs" in paths(directory, "open:app")
    assert "/docs" not in paths(directory, "open:app", GARRISON_ENV="production")
    (directory / ".env").write_text("GARRISON_ENV=production\nGARRISON_EMAIL_VERIFICATION=optional\n")
    assert "/docs" not in paths(directory, "open:app")
    assert "/docs" in paths(directory, "open:app", GARRISON_ENV="development")
    warnings = json.loads(run(directory, "check", "open:app", "--json").stdout)["warnings"]
    assert any("EMAIL_VERIFICATION" in text for text in warnings)
    (directory / "own.py").write_text(OWN_SETTINGS)
    assert "/docs" not in paths(directory, "own:app", GARRISON_ENV="development"), "settings made in code win"
    for command in ("check", "routes"):
        wrong = run(directory, command, "open:app", GARRISON_ENV="canary")
        said = wrong.stdout + wrong.stderr
        assert (wrong.returncode, "GARRISON_ENV: " in said, "canary" in said) == (1, True, False)


def test_settings_that_are_wrong_are_findings_all_at_once_by_name(directory: Path) -> None:
    (directory / ".env").write_text("GARRISON_LIMIT_API=canary\nGARRISON_ISSUR=canary\n")
    before = sorted(directory.rglob("*"))
    mistakes = {"GARRISON_SESSION_IDLE": "canary", "GARRISON_SECRET": "canary", "PORT": "canary"}
    done = run(directory, "check", "open:app", "--json", **mistakes)
    assert done.returncode == 1
    named = [one["name"] for one in json.loads(done.stdout)["settings"]]
    assert sorted(named) == sorted(["GARRISON_LIMIT_API", "GARRISON_ISSUR", *mistakes])
    text = run(directory, "check", "open:app", **mistakes)
    assert all(f"setting: {name}: " in text.stdout for name in named)
    assert "canary" not in done.stdout + done.stderr + text.stderr
    assert sorted(directory.rglob("*")) == before


def test_what_production_lacks_here_is_a_note_and_what_is_wrong_with_the_rest_a_finding(directory: Path) -> None:
    def found(**environment: str) -> tuple[list[str], str]:
        done = run(directory, "check", "open:app", "--json", GARRISON_ENV="production", **environment)
        document = json.loads(done.stdout)
        assert done.returncode == (1 if document["settings"] else 0)
        return [one["name"] for one in document["settings"]], " ".join(document["warnings"])

    names, notes = found()
    assert names == []
    assert "GARRISON_SECRET, GARRISON_ISSUER, GARRISON_EMAIL_VERIFICATION" in notes
    assert "tells" not in notes
    names, notes = found(GARRISON_ISSUER="http://api.example.com", GARRISON_EMAIL_VERIFICATION="optional")
    assert names == ["GARRISON_ISSUER"]
    assert "needs GARRISON_SECRET, which" in notes
    assert "tells whether an address was taken" in notes
    assert "GARRISON_TRUSTED_PROXIES" in notes
    assert "GARRISON_TRUSTED_PROXIES" not in found(GARRISON_TRUSTED_PROXIES="10.0.0.0/8")[1]


def test_in_development_there_is_nothing_to_note_about_a_sound_app(directory: Path) -> None:
    done = run(directory, "check", "open:app", "--json")
    assert json.loads(done.stdout)["warnings"] == []


ROLES = """
from fastapi import FastAPI
from garrison import Garrison, Policy, allow, require

app = FastAPI()
Garrison(Policy(
    ("GET /tasks", allow(scope="tasks:read")),
    ("POST /tasks", allow(role="editor", scope="tasks:read tasks:write")),
    ("GET /reports", allow(role="editr admin")),
    ("GET /audit", allow(role="admin", scope="audit:read")),
    ("GET /either", allow(role="editor admin", scope="tasks:write")),
    require("GET /reports", limit="5/minute"),
    roles={"editor": "tasks:write"},
)).protect(app)

@app.get("/tasks")
@app.post("/tasks")
@app.get("/reports")
@app.get("/audit")
@app.get("/either")
async def one(): return 1
"""


def test_a_route_that_nobody_can_ever_call_is_a_finding_and_an_unknown_role_a_note(directory: Path) -> None:
    (directory / "roles.py").write_text(ROLES)
    done = run(directory, "check", "roles:app", "--json")
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert found["refusals"] == []
    assert found["unreachable"] == [
        "GET /audit lets nobody in: admin never has audit:read; add it in Policy(roles=…) (table line 4: GET /audit)"
    ]
    [note] = found["warnings"]
    assert note.startswith("role editr (GET /reports, table line 3: GET /reports)")
    assert note.endswith("did you mean editor?")
    text = run(directory, "check", "roles:app")
    assert "closed: GET /audit" in text.stdout


def test_routes_list_our_own_too_and_check_counts_the_apps(directory: Path) -> None:
    done = run(directory, "routes", "open:app", "--json", **PRODUCTION)
    routes = {(one["method"], one["path"]): one for one in json.loads(done.stdout)["routes"]}
    assert routes["POST", "/auth/sign-in"] == {
        "method": "POST", "path": "/auth/sign-in", "rule": {"access": "public"}, "source": "Garrison",
    }  # fmt: skip
    assert routes["DELETE", "/auth/sessions/{id}"]["rule"] == {"access": "signed-in"}
    assert ("GET", "/health/ready") in routes
    assert json.loads(run(directory, "check", "open:app", "--json", **PRODUCTION).stdout)["routes"] == 1
    (directory / "moved.py").write_text(OPEN + "Garrison(prefix='/identity').protect(app)\n")
    assert "/identity/auth/sign-in" in paths(directory, "moved:app")
