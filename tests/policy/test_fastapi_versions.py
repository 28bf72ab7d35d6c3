"""The private attributes that the adapter stands on, pinned: the same tests under other versions of FastAPI.

Each version is installed once into `.venv/garrison-fastapi/VERSION`, without what it depends on: that is the
environment's. Where no package index can be reached and a version is not there yet, its test is skipped, and says so.
"""

import os
import subprocess
import sys
from pathlib import Path

import fastapi
import pytest

ROOT = Path(__file__).resolve().parents[2]
VENV = Path(sys.executable).parents[1]
UV = Path(sys.executable).with_name("uv")
VERSIONS = ("0.133.0", "0.136.3", "0.137.0", "0.150.0")
"""The oldest that is supported, the last without a tree of routers, the first with one, and one of those between."""
ESSENTIALS = (
    "test_a_fastapi_app_is_guarded or test_dependency_overrides or test_nested_and_repeated or test_documentation_is "
    "or test_web_sockets_are_closed or test_a_root_path or test_a_route_that_appears "
    "or (test_a_middleware_that_rewrites and -Rewriting) or test_a_router_of_its_own_default "
    "or test_a_mounted_app_or_an_included or test_an_app_that_another_server or test_known_routes_stay "
    "or test_a_late_web_socket or test_the_guard_chooses_the_route_that_fastapi_would or test_the_second_start"
)


def installed(version: str) -> Path:
    """Return where this version is, installing it first if it is not there. Skips where it cannot be had."""
    target = VENV / "garrison-fastapi" / version
    if not (target / f"fastapi-{version}.dist-info").is_dir():
        if not UV.is_file():
            pytest.skip("uv is not in the environment, so other versions of FastAPI cannot be installed")
        done = subprocess.run(
            [UV, "pip", "install", "--quiet", "--no-deps", "--target", target, f"fastapi=={version}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            pytest.skip(f"FastAPI {version} cannot be installed here: {done.stderr.strip()[-300:]}")
    return target


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_guard_stands_on_is_there_in_this_version(version: str, tmp_path: Path) -> None:
    target = installed(version)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "GARRISON_"))}
    environment |= {
        "PYTHONPATH": os.pathsep.join((str(target), str(ROOT / "src"), str(ROOT))),
        "TEST_FASTAPI": version,
    }
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", f"--rootdir={ROOT}"),
            *("-c", str(ROOT / "pyproject.toml"), f"--basetemp={tmp_path / 'inner'}", "-k", ESSENTIALS),
            *(
                str(ROOT / "tests/policy" / f"{name}.py")
                for name in ("test_frameworks", "test_lock", "test_late", "test_match")
            ),
            str(Path(__file__)),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


def test_a_fastapi_app_is_guarded_under_the_version_that_was_asked_for() -> None:
    """Runs within the others: that they test what they say."""
    assert fastapi.__version__ == os.environ.get("TEST_FASTAPI", fastapi.__version__)
