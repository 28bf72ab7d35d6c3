"""The benchmark works and its figures are figures; the guard's own work stays within a wide margin of its goal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process.server import ROOT

pytestmark = pytest.mark.alone


def run(*arguments: str) -> str:
    command = [sys.executable, str(Path("bench") / "run.py"), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_a_quick_run_measures_everything_it_names() -> None:
    report = json.loads(run("--quick", "--only", "FastAPI", "--json"))
    assert {one["case"] for one in report["own_work"]} == {"public", "cookie", "token"}
    assert {row["case"] for row in report["over_tcp"]} == {"public", "cookie", "token"}
    assert report["versions"]["fastapi"]
    assert 0.5 < report["tokens"]["first_seen_ratio"] < 20
    assert 0.2 < report["tokens"]["warm_ratio"] < 5
    for row in report["over_tcp"]:
        assert 0.3 < row["cpu_ratio"] < 1.5, "guarded and bare FastAPI are of one order"
    assert report["storm"]["statuses"]["401"] > 0
    assert report["storm"]["memory_mib"] < 300
    lowest = min(one["lowest_us"] for one in report["own_work"])
    print(f"own work, lowest: {lowest:.1f} µs; goal 8")
    assert lowest < 80, "ten times the goal: something waits, or asks the store"


def test_help_has_examples() -> None:
    assert "make bench ARGS=" in run("--help")
