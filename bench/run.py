"""`make bench`: what the guard costs, measured side by side in one run.

bare and guarded servers on core 0, load from core 1, in turn, several rounds, medians; every layer in, limits raised
"""

import argparse
import asyncio
import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from bench.apps import KINDS  # noqa: E402 - the path comes first, since this file is run by its name
from bench.inprocess import EMAIL, PASSWORD, own_work_us  # noqa: E402
from bench.storm import LIMITS  # noqa: E402
from bench.storm import run as run_storm

GOALS = {"raw": 0.65, "starlette": 0.82, "fastapi": 0.92}
OWN_WORK_GOAL_US = 8.0
PACKAGES = ("fastapi", "starlette", "uvicorn", "httptools", "uvloop", "pydantic", "sqlalchemy")


class Server:
    """One server process of the benchmark."""

    def __init__(self, kind: str, how: str, directory: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        environment = {**os.environ, **LIMITS, "GARRISON_PASSWORD_COST": "m=64,t=1,p=1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "bench.server", kind, how, str(self.port)]
        self.process = subprocess.Popen(command, cwd=directory, env=environment, stderr=subprocess.DEVNULL)
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"the {how} {kind} server did not start")

    def cpu_s(self) -> float:
        """Return the processor time spent so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def load(self, request: bytes, seconds: float) -> dict[str, float]:
        """Drive it and return requests a second, CPU µs a request, p50 and p99."""
        before = self.cpu_s()
        command = [sys.executable, "-m", "bench.load", str(self.port), str(seconds)]
        done = subprocess.run(command, cwd=ROOT, input=request, capture_output=True, check=False)
        if done.returncode:
            raise SystemExit(done.stderr.decode()[-1000:])
        found = json.loads(done.stdout)
        spent = self.cpu_s() - before
        return {
            "per_s": found["requests"] / found["seconds"],
            "cpu_us": spent / found["requests"] * 1e6,
            "p50_us": found["p50_us"],
            "p99_us": found["p99_us"],
        }

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(15)


def request(path: str, *lines: str) -> bytes:
    """Return the bytes of one GET."""
    head = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1:8000", "User-Agent: bench", "Accept: */*", *lines, "", ""]
    return "\r\n".join(head).encode()


async def sign_in(port: int) -> tuple[str, str]:
    """Return the cookie and the token of a new account of this server."""
    import aiohttp

    url = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(url, cookie_jar=aiohttp.CookieJar(unsafe=True)) as client:
        who = {"email": EMAIL, "password": PASSWORD}
        async with client.post("/auth/sign-up", json=who) as answer:
            answer.raise_for_status()
        async with client.post("/auth/sign-in", json=who) as answer:
            cookie = answer.cookies["garrison"].value
        async with client.post("/auth/sign-in", json={**who, "deliver": "token"}) as answer:
            return cookie, (await answer.json())["access_token"]


def compare(kind: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Measure one kind of app, bare and guarded in turn."""
    with tempfile.TemporaryDirectory() as directory:
        bare = guarded = None
        try:
            bare, guarded = Server(kind, "bare", directory), Server(kind, "guarded", directory)
            cookie, token = asyncio.run(sign_in(guarded.port))
            cases = {
                "bare": (bare, request("/public")),
                "public": (guarded, request("/public")),
                "cookie": (guarded, request("/private", f"Cookie: garrison={cookie}")),
                "token": (guarded, request("/private", f"Authorization: Bearer {token}")),
            }
            for server, asked in cases.values():
                server.load(asked, 0.5)
            found: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
            for number in range(rounds):
                for name, (server, asked) in cases.items():
                    print(f"\r{kind}: round {number + 1}/{rounds}, {name:<8}", end="", file=sys.stderr, flush=True)
                    found[name].append(server.load(asked, seconds))
            print(file=sys.stderr)
        finally:
            for server in (bare, guarded):
                if server is not None:
                    server.stop()
    result: dict[str, Any] = {
        name: {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        for name, measured in found.items()
    }
    for name in ("public", "cookie", "token"):
        result[name]["ratio"] = statistics.median(
            one["per_s"] / base["per_s"] for one, base in zip(found[name], found["bare"], strict=True)
        )
    return result


def show(report: dict[str, Any]) -> None:
    """Print the report for people."""
    print(
        f"Python {report['python']}, {report['cpus']} cores; "
        + ", ".join(f"{k} {v}" for k, v in report["versions"].items())
    )
    print("\nThe guard's own work for one warm request, in process (goal: 8 µs at most)")
    for name, own in report["own_work_us"].items():
        print(f"  {name:<8}{own:7.2f} µs")
    for kind, cases in report["servers"].items():
        print(f"\n{kind}: guarded ÷ bare, goal {GOALS[kind]:.2f} at least")
        print(f"  {'':<8}{'req/s':>9}{'CPU µs':>9}{'p50 µs':>9}{'p99 µs':>9}{'ratio':>8}")
        for name, one in cases.items():
            ratio = f"{one['ratio']:8.2f}" if "ratio" in one else ""
            print(f"  {name:<8}{one['per_s']:9.0f}{one['cpu_us']:9.1f}{one['p50_us']:9.0f}{one['p99_us']:9.0f}{ratio}")
    storm = report.get("storm")
    if storm:
        print("\nSign-in storm, 64 at a time without pause, real hash parameters")
        print(
            f"  p99 of others   {storm['quiet_p99_ms']:.1f} ms without, {storm['stormy_p99_ms']:.1f} ms with: ×{storm['p99_ratio']:.2f}"
        )
        print(
            f"  hashes          {storm['hashes_per_s']:.1f}/s, the pool alone {storm['pool_alone_per_s']:.1f}/s: {storm['hash_ratio']:.0%}"
        )
        print(
            f"  refused         {storm['refused']} with 503, the slowest after {storm['refused_max_ms']:.0f} ms (the queue's bound is 2,000)"
        )
        print(f"  memory          {storm['memory_mib']:.0f} MiB at most")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench/run.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="examples:\n  make bench\n  make bench ARGS='--quick'\n  make bench ARGS='--kinds fastapi --json'",
    )
    parser.add_argument("--quick", action="store_true", help="one short round of each: to see that it works")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each case (5)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds of each measurement (2)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="which apps (all)")
    parser.add_argument("--no-storm", action="store_true", help="leave the sign-in storm out")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    chosen = parser.parse_args()
    rounds, seconds = (1, 0.5) if chosen.quick else (chosen.rounds, chosen.seconds)
    print("in process …", file=sys.stderr)
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "versions": {name: version(name) for name in PACKAGES},
        "own_work_us": own_work_us(10 if chosen.quick else 60),
        "servers": {kind: compare(kind, rounds, seconds) for kind in chosen.kinds},
    }
    if not chosen.no_storm:
        print("storm …", file=sys.stderr)
        report["storm"] = run_storm(2.0 if chosen.quick else 10.0)
    if chosen.json:
        print(json.dumps(report, indent=2))
    else:
        show(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
