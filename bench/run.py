"""`make bench`: what the guard costs, measured side by side in one run.

    in process     the guard's own work for one warm request, bare and guarded in turn
    tokens         a JWT warm and first seen, a JWT in a cookie, an API key, tokens for clients
    over TCP       the server on one core, load on the other; plain uvicorn, bare and guarded on our edge, in turn
    shared         limits counted for all nodes: in memory, in Redis batched, in Redis by a call each
    storm          sign-ins without pause, 64 at a time: what others feel, and what is shed

Medians throughout, limits raised, every layer in.
"""

import argparse
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # this file is run by its name

from bench import machines, shared, storm, tokens  # noqa: E402
from bench.apps import FRAMEWORKS  # noqa: E402
from bench.asking import run as run_in_loop  # noqa: E402
from bench.inprocess import GOAL_US  # noqa: E402
from bench.inprocess import measure as measure_own_work  # noqa: E402
from bench.over_tcp import measure as measure_over_tcp  # noqa: E402

PACKAGES = (
    "fastapi",
    "starlette",
    "uvicorn",
    "httptools",
    "uvloop",
    "pydantic",
    "sqlalchemy",
    "joserfc",
    "cryptography",
    "argon2-cffi",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, return the exit code: 0, since a figure below its goal is a figure and no failure."""
    parser = argparse.ArgumentParser(
        prog="bench/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  make bench\n  make bench ARGS='--quick'\n  make bench ARGS='--only FastAPI --json'",
    )
    parser.add_argument("--quick", action="store_true", help="short and few rounds: to see that it works")
    parser.add_argument("--only", nargs="+", choices=FRAMEWORKS, default=FRAMEWORKS, help="frameworks (all)")
    parser.add_argument("--no-storm", action="store_true", help="leave the sign-in storm out")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))  # stdout is the report's
    say("in process …")
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in PACKAGES},
    }
    with tempfile.TemporaryDirectory() as directory:
        rounds, count = (5, 500) if chosen.quick else (31, 3000)
        work = run_in_loop(lambda: measure_own_work(Path(directory), rounds=rounds, count=count, said=say))
        report["own_work"] = [asdict(one) for one in work]
    rounds, count = (3, 100) if chosen.quick else (21, 400)
    for name, measure in (("tokens", tokens.measure), ("machines", machines.measure)):
        with tempfile.TemporaryDirectory() as directory:
            report[name] = asdict(run_in_loop(partial(measure, Path(directory), rounds=rounds, count=count, said=say)))
    rounds, seconds = (2, 0.3) if chosen.quick else (9, 0.7)
    rows = measure_over_tcp(rounds=rounds, seconds=seconds, said=say, frameworks=chosen.only)
    report["over_tcp"] = [asdict(row) for row in rows]
    rows_shared = shared.measure(rounds=rounds, seconds=seconds, said=say)
    report["shared"] = [asdict(row) for row in rows_shared]
    if not chosen.no_storm:
        say("storm …")
        report["storm"] = storm.run(2.0 if chosen.quick else 10.0)
    if chosen.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


def say(text: str) -> None:
    """Tell how far it is, on stderr."""
    print(f"\r\033[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr)


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    versions = ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    print(f"\nPython {report['python']}, {report['machine']}\n{versions}")
    print(f"\nThe guard's own work for one warm request, in process (goal: {GOAL_US:g} µs at most)")
    print(f"  {'':<8}{'bare':>8}{'guarded':>9}{'own':>8}{'lowest':>8}")
    for one in report["own_work"]:
        figures = f"{one['bare_us']:8.2f}{one['guarded_us']:9.2f}{one['own_us']:8.2f}{one['lowest_us']:8.2f} µs"
        print(f"  {one['case']:<8}{figures}")
    show_tokens(report["tokens"], report["machines"])
    print("\nOver TCP: CPU µs a request, and guarded ÷ bare of requests a second")
    print(f"  {'':<20}{'plain':>8}{'bare':>8}{'guarded':>9}{'by CPU':>8}{'by clock':>9}{'goal':>7}")
    for row in report["over_tcp"]:
        cpu = row["cpu_us"]
        ratios = f"{row['cpu_ratio']:8.2f}{row['ratio']:9.2f}{row['goal']:7.2f}"
        name = f"{row['framework']}, {row['case']}"
        print(f"  {name:<20}{cpu['plain']:8.1f}{cpu['bare']:8.1f}{cpu['guarded']:9.1f}{ratios}")
    show_shared(report["shared"])
    found = report.get("storm")
    if found:
        print("\nSign-in storm, 64 at a time without pause, real hash parameters")
        quiet, stormy = found["quiet_p99_ms"], found["stormy_p99_ms"]
        print(f"  p99 of others  {quiet:.2f} ms without, {stormy:.2f} ms with it: {found['p99_ratio']:.2f} (goal 2)")
        hashes, alone = found["hashes_per_s"], found["pool_alone_per_s"]
        print(f"  hashes         {hashes:.1f}/s, the pool alone {alone:.1f}/s: {found['hash_ratio']:.2f} (goal 0.9)")
        slowest = f"the slowest after {found['refused_max_ms']:.0f} ms (goal 50)"
        print(f"  refused        {found['refused']} with 503, {slowest}")
        print(f"  memory         {found['memory_mib']:.0f} MiB at most")


def show_shared(rows: Sequence[dict[str, Any]]) -> None:
    """Print what it costs to count for all nodes."""
    print("\nLimits for all nodes, FastAPI, two hits a request: CPU µs a request, and its part of memory's")
    if not rows:
        print("  no redis-server here")
        return
    print(f"  {'connections':<14}{'memory':>9}{'redis':>9}{'of memory':>11}{'awaited':>9}{'of memory':>11}")
    for row in rows:
        cpu, ratio = row["cpu_us"], row["cpu_ratio"]
        batched = f"{cpu['redis']:9.1f}{ratio['redis']:11.2f}"
        print(f"  {row['connections']:<14}{cpu['memory']:9.1f}{batched}{cpu['awaited']:9.1f}{ratio['awaited']:11.2f}")
    print(f"  goal for redis: {shared.GOAL:.2f} where requests come many at a time")


def show_tokens(people: dict[str, Any], others: dict[str, Any]) -> None:
    """Print what tokens and keys cost."""

    def line(name: str, figure: float, rest: str) -> None:
        print(f"  {name:<23}{figure:8.1f} µs  {rest}")

    print("\nTokens (RS256) in process, whole requests unless it says otherwise")
    line("session, warm", people["session_warm_us"], "")
    line("JWT, warm", people["token_warm_us"], f"{people['warm_ratio']:.2f} of a session (goal 1)")
    line("JWT in a cookie, warm", people["cookie_jwt_warm_us"], f"{people['cookie_jwt_ratio']:.2f} of a session")
    line("raw verification", people["raw_verify_us"], "by the cryptography library alone")
    line("verification", people["verify_us"], f"{people['verify_ratio']:.2f} of raw (goal {tokens.GOAL_RATIO:g})")
    line("JWT, first seen", people["first_seen_us"], f"more than warm: {people['first_seen_ratio']:.2f} of raw")
    line("session, with a scope", others["session_us"], "warm, under a rule that names one")
    line("API key, warm", others["key_us"], f"{others['key_ratio']:.2f} of a session under the same rule")
    line("raw signature", others["raw_sign_us"], "by the cryptography library alone")
    ratio, rate = others["client_token_ratio"], others["client_tokens_per_s"]
    line("token for a client", others["client_token_us"], f"{ratio:.2f} of a raw signature; {rate:.0f} a second")
    warm_reads = people["reads_when_warm"] + others["reads_when_warm"]
    if warm_reads:
        print(f"  NOT WARM: the store was asked {warm_reads} times; these figures are none")


if __name__ == "__main__":
    sys.exit(main())
