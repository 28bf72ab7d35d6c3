"""npm packages for tests: installed from their lock file once a run, however many workers there are."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or shutil.which("npm") is None, reason="needs node and npm (make system)"
)
_UNREACHABLE = ("ENOTFOUND", "ECONNREFUSED", "network")


def installed(source: Path, made: pytest.TempPathFactory) -> Path:
    """Return a copy of `source` with the packages of its lock; skip where no registry can be reached."""
    run = made.getbasetemp()
    directory = (run.parent if "PYTEST_XDIST_WORKER" in os.environ else run) / f"npm-{source.name}"
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (directory / "node_modules").is_dir():
            ignored = shutil.ignore_patterns("node_modules", "*.py", "__pycache__")
            shutil.copytree(source, directory, ignore=ignored, dirs_exist_ok=True)
            _install(directory)
    return directory


def _install(directory: Path) -> None:
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode == 0:
        return
    shutil.rmtree(directory / "node_modules", ignore_errors=True)
    if any(word in done.stderr for word in _UNREACHABLE):
        pytest.skip(f"the packages of {directory.name} need a package registry")
    raise AssertionError(done.stderr[-2000:])
