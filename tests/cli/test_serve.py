"""`garrison serve` before it serves: whose settings, which port, and the form of its logs."""

import json
import time
from pathlib import Path

import httpx2

from tests.cli.test_commands import PRODUCTION, run
from tests.cli.test_inspect import OPEN
from tests.process.server import RAISED, Server

SETTINGS = """
from garrison.serve.settings import Settings
Garrison(settings=Settings(database_url="sqlite:///elsewhere/own.db", limit_api="7/minute")).protect(app)
"""
STRUCTURED = """
import structlog
structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
"""


def said_with(server: Server, text: str) -> str:
    """Return the log once `text` is in it: the parent speaks when its workers are ready, and they may answer before."""
    end = time.monotonic() + 10
    while text not in (said := server.log.read_text()):
        assert time.monotonic() < end, said
        time.sleep(0.02)
    return said


def test_settings_made_in_code_are_the_ones_that_count(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OPEN + SETTINGS)
    with Server(tmp_path, app="own:app", environment={"GARRISON_LIMIT_API": "nonsense"}) as server:
        assert httpx2.get(f"{server.url}/open").status_code == 200
        assert str(tmp_path / "elsewhere") in said_with(server, "Identity ")
    assert (tmp_path / "elsewhere" / "own.db").exists()


def test_a_port_that_is_none_is_told_with_the_other_mistakes(tmp_path: Path) -> None:
    (tmp_path / "open.py").write_text(OPEN)
    for value in ("canary", "0", "65536", "80 80"):
        done = run(tmp_path, "serve", "open:app", PORT=value, GARRISON_SESSION_IDLE="canary")
        assert done.returncode == 1
        assert "PORT: " in done.stderr
        assert "GARRISON_SESSION_IDLE: " in done.stderr
        assert "canary" not in done.stderr


def test_the_banner_names_the_docs_page_in_development_only(tmp_path: Path) -> None:
    (tmp_path / "open.py").write_text(OPEN)
    with Server(tmp_path, app="open:app") as server:
        assert f"{server.url}/docs" in said_with(server, "Identity ")
    server.log.unlink()
    environment = {**RAISED, **PRODUCTION, "GARRISON_DATABASE_URL": "sqlite:///var/production.db"}
    assert run(tmp_path, "migrate", **environment).returncode == 0
    with Server(tmp_path, app="open:app", environment=environment) as server:
        assert "(production)" in said_with(server, "Identity ")
        assert "/docs" not in said_with(server, "Identity ")


def test_production_logs_are_one_json_document_a_line_the_servers_own_included(tmp_path: Path) -> None:
    text = OPEN + "\nimport logging\n\n@app.get('/says')\n@public\nasync def says():\n"
    (tmp_path / "says.py").write_text(text + "    logging.getLogger('of.the.app').error('said %s', 'so')\n")
    environment = {**RAISED, **PRODUCTION, "GARRISON_ISSUER": "http://127.0.0.1:8000"}
    assert run(tmp_path, "migrate", **environment).returncode == 0
    environment["GARRISON_TRUSTED_PROXIES"] = "127.0.0.1"
    with Server(tmp_path, app="says:app", environment=environment) as server:
        answer = httpx2.get(f"{server.url}/says", headers={"x-forwarded-proto": "https"})
        assert answer.status_code == 200, answer.text
    lines = [line for line in server.log.read_text().splitlines() if line and not line.startswith("  ")]
    events = [json.loads(line) for line in lines]
    assert [one["level"] for one in events if one["event"] == "said so"] == ["error"]


def test_an_app_that_configured_its_logs_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "structured.py").write_text(STRUCTURED + OPEN)
    with Server(tmp_path, app="structured:app") as server:
        assert httpx2.get(f"{server.url}/auth/session").status_code == 401
    assert "code='unauthenticated'" in server.log.read_text()


def test_production_says_once_what_start_has_to_say(tmp_path: Path) -> None:
    (tmp_path / "open.py").write_text(OPEN)
    environment = {**RAISED, **PRODUCTION, "GARRISON_ISSUER": "https://api.example.com/"}
    assert run(tmp_path, "migrate", **environment).returncode == 0
    with Server(tmp_path, app="open:app", environment=environment, workers=2) as server:
        said = said_with(server, "Identity ")
        assert httpx2.get(f"{server.url}/open").status_code in (308, 400)
    assert said.count("tells whether an address was taken") == 1
    assert said.count("TLS must end at a proxy named in GARRISON_TRUSTED_PROXIES") == 1
    assert "Identity   https://api.example.com/auth/openapi.json" in said
    server.log.unlink()
    environment["GARRISON_TRUSTED_PROXIES"] = "127.0.0.1"
    with Server(tmp_path, app="open:app", environment=environment) as server:
        assert "TLS must end" not in said_with(server, "Identity ")
