"""What must hold of the repository itself: promises of docstrings and the README, and what may not be in files."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from garrison.core.errors import PROBLEMS

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src" / "garrison").rglob("*.py"))
README = (ROOT / "README.md").read_text()


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    names = listed.stdout.decode().split("\0") if listed.returncode == 0 else []
    found = [ROOT / name for name in names if name and (ROOT / name).is_file()]
    return found or [file for file in ROOT.glob("*") if file.is_file()]


@pytest.mark.parametrize("code", sorted(PROBLEMS))
def test_every_problem_a_client_can_see_is_one_that_something_answers(code: str) -> None:
    users = [file for file in SOURCES if file.name != "errors.py" and f'"{code}"' in file.read_text()]
    assert users, f"nothing answers {code}"


def test_security_code_uses_no_assert() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{node.lineno}"
        for file in SOURCES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Assert)
    ]
    assert not found


def test_lock_files_name_no_host() -> None:
    locks = [file for file in tracked() if "lock" in file.name or file.parent.name == "requirements"]
    assert len(locks) >= 4
    for file in locks:
        lines = [line for line in file.read_text().splitlines() if re.search(r"https?://|--index-url|resolved", line)]
        if file.name == "package-lock.json":  # whom the authors ask for funds is no registry
            lines = [line for line in lines if not line.lstrip().startswith('"url": "https://')]
        assert not [line for line in lines if not line.lstrip().startswith(("#", '"""'))], file


def test_no_file_names_a_path_of_some_machine() -> None:
    home = re.compile(rb"/(?:home|Users)/[a-z]+/|" + re.escape(str(ROOT).encode()) + rb"/")
    assert not [file for file in tracked() if home.search(file.read_bytes()) and file.name != "test_repository.py"]


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_readmes_first_block_is_an_app_that_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi.testclient import TestClient

    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(python_blocks()[0], "README.md", "exec"), names)
    with TestClient(names["app"]) as client:  # type: ignore[arg-type]
        assert client.get("/test").json() == "open to all"
        assert client.get("/tasks/00000000-0000-4000-8000-000000000000").status_code == 401


def test_the_readmes_other_blocks_are_python_and_its_rules_are_rules() -> None:
    from garrison import allow, public, require

    for block in python_blocks():
        decorators = [line for line in block.splitlines() if line.startswith("@")]
        if decorators and "def " not in block:
            for line in decorators:
                exec(line[1:], {"allow": allow, "public": public, "require": require, "task_owner": lambda id: None})
        else:
            compile(block, "README.md", "exec")


def test_the_readmes_tests_of_an_app_pass_as_they_stand(tmp_path: Path) -> None:
    tests, conftest = python_blocks()[-2:]
    (tmp_path / "main.py").write_text("from examples.tasks.app import app\n")
    (tmp_path / "conftest.py").write_text(conftest)
    again = "\ndef test_the_store_is_this_tests_own(tmp_path):\n    test_reports_are_for_admins()\n"
    again += "    assert (tmp_path / 'var' / 'garrison.db').exists()\n"
    (tmp_path / "test_main.py").write_text(tests + again)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "2 passed" in done.stdout, done.stdout
    assert not (tmp_path / "var").exists()


def test_the_readmes_refusal_is_the_real_one(tmp_path: Path) -> None:
    from tests.process.server import GARRISON

    (tmp_path / "main.py").write_text(
        "from fastapi import FastAPI\nfrom garrison import public\n\napp = FastAPI()\n\n\n\n"
        '@app.get("/invoices/{id}")\nasync def invoice(id: int): return {"id": id}\n\n'
        "from garrison import Garrison\nGarrison().protect(app)\n"
    )
    done = subprocess.run([GARRISON, "serve", "main:app"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip() in README
    assert "Traceback" not in done.stderr


def test_every_make_target_of_the_readme_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"make ([a-z]+)", README)) <= targets
