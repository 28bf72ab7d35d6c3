"""The guard's own work in process: the guarded app minus the app, without server, sockets or framework.

Everything of the guard is in it: the door, every layer, the route's checks, the second lock, the headers of the answer.
The app behind is a raw handler that sends two messages to nobody. The copy of the scope is on both sides and so
cancels out.

A round is bare, then guarded, then bare again …; the figure is the median of the rounds' differences.
"""

import cProfile
import pstats
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.apps import guarded, raw
from bench.asking import demand_open, heard, scope_of, settings, signed_in, started, timed
from garrison.wire.answer import ASGIApp, Scope

CASES = ("public", "cookie", "token")
GOAL_US = 8.0


@dataclass(frozen=True, slots=True)
class Work:
    """Microseconds a warm request, medians over the rounds."""

    case: str
    bare_us: float
    guarded_us: float
    own_us: float
    lowest_us: float
    """The least of the rounds' differences: what it costs on a quiet machine."""


async def scopes(app: ASGIApp) -> dict[str, Scope]:
    """Sign up, sign in both ways, and return the scope of each case's request."""
    cookie, token = await signed_in(app)
    return {
        "public": scope_of("/public"),
        "cookie": scope_of("/private", cookie),
        "token": scope_of("/private", (b"authorization", f"Bearer {token}".encode())),
    }


async def measure(directory: Path, *, rounds: int, count: int, said: Callable[[str], None]) -> list[Work]:
    """Return the guard's own work for each case: medians over `rounds` of `count` requests each."""
    app = guarded("raw ASGI", settings(directory))
    found: list[Work] = []
    async with started(app):
        for case, scope in (await scopes(app)).items():
            said(f"in process, {case}")
            await demand_open(app, scope)
            requests = [scope] * count
            await timed(app, requests)
            bare_us: list[float] = []
            guarded_us: list[float] = []
            for _ in range(rounds):
                await heard(app)
                bare_us.append(await timed(raw, requests))
                guarded_us.append(await timed(app, requests))
            own = [full - least for full, least in zip(guarded_us, bare_us, strict=True)]
            found.append(
                Work(case, statistics.median(bare_us), statistics.median(guarded_us), statistics.median(own), min(own))
            )
    return found


async def profile(directory: Path, case: str, *, count: int) -> pstats.Stats:
    """Return where the guard's time goes, by function; profiling itself costs more than what it shows."""
    app = guarded("raw ASGI", settings(directory))
    async with started(app):
        requests = [(await scopes(app))[case]] * count
        await timed(app, requests)
        profiler = cProfile.Profile()
        profiler.enable()
        await timed(app, requests)
        profiler.disable()
    return pstats.Stats(profiler)
