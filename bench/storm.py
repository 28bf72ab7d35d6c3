"""T8: sign-ins without pause, 64 at a time, against `garrison serve`; what others feel, and what is shed.

Prints p99 of a public route without and with the storm, how long refused sign-ins waited, and how many hashes a second
the storm got, beside what the pool alone does.

The storm is a process of its own at the lowest priority: on a machine of few cores it would else take from the server
the very time that is to be measured, and whoever probes would measure the storm's own event loop.
"""

import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).resolve().parents[1]
AT_A_TIME = 64
PLENTY = "100000000/minute"
LIMITS = {f"GARRISON_LIMIT_{name}": PLENTY for name in ("ADDRESS", "API", "SIGN_IN", "SIGN_IN_ADDRESS", "SIGN_UP")}
_POOL_ALONE = """
import asyncio, json, time
from garrison.identity.passwords.hashing import Passwords
from garrison.identity.passwords.pool import HashPool
from garrison.identity.settings import PasswordCost
pool = HashPool(queue=64, timeout_s=60)
passwords = Passwords(PasswordCost(), pool)
async def main():
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        await asyncio.gather(*(passwords.verify(None, "x") for _ in range(8)))
        done += 8
    print(json.dumps(done / (time.perf_counter() - began)))
asyncio.run(main())
"""


def pool_alone(seconds: float) -> float:
    """Return hashes a second of the pool with nothing beside it."""
    code = _POOL_ALONE.replace("SECONDS", str(seconds))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


async def _probe(url: str, seconds: float) -> tuple[list[float], list[float]]:
    """Return how long a public route took, again and again, and how long sign-ins took that were refused."""
    times: list[float] = []
    refused: list[float] = []
    body = {"email": "somebody@example.com", "password": "wrong", "deliver": "token"}
    async with aiohttp.ClientSession(url) as client:
        end = time.perf_counter() + seconds

        async def sign_in() -> None:
            while time.perf_counter() < end:
                began = time.perf_counter()
                async with client.post("/auth/sign-in", json=body) as answer:
                    await answer.read()
                    if answer.status == 503:
                        refused.append(time.perf_counter() - began)
                await asyncio.sleep(0.05)

        trying = asyncio.create_task(sign_in())
        while time.perf_counter() < end:
            began = time.perf_counter()
            async with client.get("/test") as answer:
                await answer.read()
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.004)
        await trying
    return times, refused


async def _storm(url: str, seconds: float) -> dict[str, Any]:
    statuses: dict[int, int] = {}
    connector = aiohttp.TCPConnector(limit=AT_A_TIME)
    async with aiohttp.ClientSession(url, connector=connector) as client:
        end = time.perf_counter() + seconds

        async def sign_in(number: int) -> None:
            tried = 0
            while time.perf_counter() < end:
                tried += 1
                body = {"email": f"nobody{number}-{tried}@example.com", "password": "wrong", "deliver": "token"}
                async with client.post("/auth/sign-in", json=body) as answer:
                    await answer.read()
                    statuses[answer.status] = statuses.get(answer.status, 0) + 1
                    if answer.status == 503 and "retry-after" not in answer.headers:
                        raise SystemExit("a 503 without Retry-After")

        await asyncio.gather(*(sign_in(number) for number in range(AT_A_TIME)))
    return {"statuses": statuses}


def _both(url: str, seconds: float) -> dict[str, Any]:
    quiet, _ = asyncio.run(_probe(url, seconds))
    command = [sys.executable, "-m", "bench.storm", url, str(seconds)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as storm:
        time.sleep(0.7)  # it starts
        stormy, refused = asyncio.run(_probe(url, max(0.5, seconds - 1.0)))
        output, _ = storm.communicate()
    if storm.returncode:
        raise SystemExit("the storm broke off")
    found = json.loads(output)
    statuses = {int(status): count for status, count in found["statuses"].items()}
    return {"quiet": quiet, "stormy": stormy, "statuses": statuses, "refused_s": refused}


def run(seconds: float = 10.0) -> dict[str, Any]:
    """Run the storm and return its figures."""
    alone = pool_alone(min(5.0, seconds))
    with tempfile.TemporaryDirectory() as directory, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        environment = {**os.environ, **LIMITS, "PYTHONPATH": str(ROOT)}
        command = [
            str(Path(sys.executable).with_name("garrison")),
            "serve",
            "examples.tasks.app:app",
            "--port",
            str(port),
        ]
        server = subprocess.Popen(command, cwd=directory, env=environment, stderr=subprocess.DEVNULL)
        try:
            _wait(port)
            found = _both(f"http://127.0.0.1:{port}", seconds)
            memory = _memory_mib(server.pid)
        finally:
            server.terminate()
            server.wait(15)
    hashed = found["statuses"].get(401, 0)
    p99 = [statistics.quantiles(found[name], n=100)[98] * 1e3 for name in ("quiet", "stormy")]
    return {
        "quiet_p99_ms": p99[0],
        "stormy_p99_ms": p99[1],
        "p99_ratio": p99[1] / p99[0],
        "hashes_per_s": hashed / seconds,
        "pool_alone_per_s": alone,
        "hash_ratio": hashed / seconds / alone,
        "refused": found["statuses"].get(503, 0),
        "refused_max_ms": max(found["refused_s"], default=0.0) * 1e3,
        "statuses": found["statuses"],
        "memory_mib": memory,
    }


def _wait(port: int) -> None:
    for _ in range(400):
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("the server did not start")


def _memory_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    print(json.dumps(asyncio.run(_storm(sys.argv[1], float(sys.argv[2])))))
