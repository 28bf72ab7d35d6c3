"""The benchmark works and its figures are figures; the guard's own work stays within a wide margin of its goal."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.apps import guarded
from bench.asking import Reads, demand_open, heard, scope_of, settings, signed_in, started, timed
from bench.asking import run as run_in_loop
from garrison.serve.frameworks import guard_of
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
    tokens, machines = report["tokens"], report["machines"]
    assert 0.5 < tokens["verify_ratio"] < 10
    assert 0.5 < tokens["first_seen_ratio"] < 20
    assert 0.2 < tokens["warm_ratio"] < 5
    assert 0.2 < tokens["cookie_jwt_ratio"] < 5
    assert 0.2 < machines["key_ratio"] < 5
    assert 0.5 < machines["client_token_ratio"] < 20
    assert tokens["reads_when_warm"] == machines["reads_when_warm"] == 0, "what is called warm was not"
    for row in report["over_tcp"]:
        assert 0.3 < row["cpu_ratio"] < 1.5, "guarded and bare FastAPI are of one order"
    assert report["storm"]["statuses"]["401"] > 0
    assert report["storm"]["memory_mib"] < 300
    lowest = min(one["lowest_us"] for one in report["own_work"])
    print(f"own work, lowest: {lowest:.1f} µs; goal 8")
    assert lowest < 80, "ten times the goal: something waits, or asks the store"


def test_what_is_refused_or_cold_is_no_figure(tmp_path: Path) -> None:
    async def ask() -> None:
        app = guarded("raw ASGI", settings(tmp_path))
        async with started(app):
            cookie, _ = await signed_in(app)
            session, stranger = scope_of("/private", cookie), scope_of("/private", (b"authorization", b"Bearer a.b.c"))
            await demand_open(app, session)
            with pytest.raises(RuntimeError, match="401, not 200"):
                await demand_open(app, stranger)
            reads = Reads(app)
            await heard(app)
            await timed(app, [session] * 3)
            assert reads.count == 0
            guard_of(app)._runtime._view.fresh_until = float("-inf")  # as when the loop was kept busy
            await timed(app, [session] * 3)
            assert reads.count == 3
            await heard(app)
            await timed(app, [session] * 3)
            assert reads.count == 3

    run_in_loop(ask)


def test_help_has_examples() -> None:
    assert "make bench ARGS=" in run("--help")
