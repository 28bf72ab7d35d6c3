"""CPU per request and requests per second over TCP: server on one core, load on the other.

    for each framework      three servers run: plain uvicorn, bare on our edge, guarded on our edge
    for each case           public route, cookie session, opaque token: the same bytes to all three
    for each round          plain, bare, guarded in turn, a short slice each

The figures are medians over the rounds, and a ratio is the median of the rounds' ratios, so that a neighbour who takes
the machine for a second disturbs all three alike. The CPU time is the server process's own, user and system, over all
of its threads; a closed loop keeps it busy, so requests per second are its inverse on a quiet machine.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from bench.apps import FRAMEWORKS
from bench.load import Figures, Job, Load, request
from bench.server import KINDS, Server

GOALS = {"raw ASGI": 0.65, "Starlette": 0.82, "FastAPI": 0.92}
"""Guarded ÷ bare, at least."""
_PATHS = {"public": "/public", "cookie": "/private", "token": "/private"}


@dataclass(frozen=True, slots=True)
class Row:
    """One framework and case; by kind of server, medians. A ratio of CPU is bare ÷ guarded: less is more."""

    framework: str
    case: str
    cpu_us: dict[str, float]
    per_second: dict[str, float]
    cpu_ratio: float
    """Guarded ÷ bare, of requests a CPU second."""
    ratio: float
    """Guarded ÷ bare, of requests a second of the clock."""
    ratio_to_plain: float
    """Guarded on our edge ÷ bare on plain uvicorn, of requests a CPU second."""
    goal: float
    load_share: float
    """How busy the load's core was; near 1, the load was the limit and the clock's ratio flatters."""


def cores() -> tuple[int | None, int | None]:
    """Return the server's core and the load's, None and None where there is one only or no pinning."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    allowed = sorted(os.sched_getaffinity(0))
    return (allowed[0], allowed[1]) if len(allowed) > 1 else (None, None)


def measure(
    *, rounds: int, seconds: float, said: Callable[[str], None], frameworks: Sequence[str] = FRAMEWORKS
) -> list[Row]:
    """Return a row for each framework and case."""
    server_core, load_core = cores()
    rows: list[Row] = []
    with Load(load_core) as load:
        for framework in frameworks:
            with ExitStack() as running:
                servers = {kind: running.enter_context(Server(framework, kind, core=server_core)) for kind in KINDS}
                for case, headers in servers["guarded"].credentials().items():
                    text = request(_PATHS[case], headers=headers)
                    found: dict[str, list[Figures]] = {kind: [] for kind in KINDS}
                    for kind in KINDS:  # not counted: a server that has just started still makes its keys
                        load.run(Job(servers[kind].port, text, servers[kind].pid, seconds))
                    for number in range(rounds):
                        said(f"{framework}, {case}, round {number + 1} of {rounds}")
                        for kind in KINDS:
                            server = servers[kind]
                            figures = load.run(Job(server.port, text, server.pid, seconds))
                            if set(figures.statuses) != {"200"} or figures.closed:
                                raise RuntimeError(f"{framework} {kind} {case}: {figures.statuses}, not 200 alone")
                            found[kind].append(figures)
                    rows.append(_row(framework, case, found))
    return rows


def _row(framework: str, case: str, found: dict[str, list[Figures]]) -> Row:
    rounds = list(zip(*(found[kind] for kind in KINDS), strict=True))
    return Row(
        framework,
        case,
        cpu_us={kind: statistics.median(one.cpu_us for one in found[kind]) for kind in KINDS},
        per_second={kind: statistics.median(one.per_second for one in found[kind]) for kind in KINDS},
        cpu_ratio=statistics.median(bare.cpu_us / guarded.cpu_us for _, bare, guarded in rounds),
        ratio=statistics.median(guarded.per_second / bare.per_second for _, bare, guarded in rounds),
        ratio_to_plain=statistics.median(plain.cpu_us / guarded.cpu_us for plain, _, guarded in rounds),
        goal=GOALS[framework],
        load_share=statistics.median(one.load_cpu_s / one.seconds for group in rounds for one in group),
    )
