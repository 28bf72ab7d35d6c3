"""Fixtures of this room: a directory of one's own, and real guarded apps in it."""

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings, secret and database lie in the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GARRISON_PASSWORD_COST", "m=8,t=1,p=1")
    return tmp_path
