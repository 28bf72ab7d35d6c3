"""`garrison routes` and `garrison check`: what is decided, and by whom. Opens no database and writes no file."""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.cli.apps import load_guarded
from garrison.cli.output import FOUND, emit, guarded, say, show, table
from garrison.core.errors import PolicyError, SettingsError
from garrison.policy.decide import Decision
from garrison.policy.holders import unknown_roles, unreachable
from garrison.policy.marks import find_marks, place_of
from garrison.serve.garrison import Garrison

if TYPE_CHECKING:
    from garrison.serve.plans import Inspected
    from garrison.serve.review import Review

Target = Annotated[str, typer.Argument(metavar="MODULE:APP", help="A bare or a protected app.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def routes_command(target: Target, json: Json = False) -> None:
    """List every route and what it demands, Garrison's own, too. Each says where that was decided.

    \b
    Examples:
      garrison routes main:app
      garrison routes main:app --json | \\
        jq '.routes[] | select(.rule.access == "public")'
    """
    seen = guarded(lambda: _inspect(target))
    routes = guarded(lambda: _every_route(seen))
    if json:
        emit({"routes": routes} | _document(seen))
        return
    rows = [(one["method"], one["path"], _described(one["rule"]), one["source"]) for one in routes]
    table(("method", "path", "demands", "decided by"), rows)
    if not seen.protected:
        say(f"garrison: {target}: {_OPEN}")


def check_command(target: Target, json: Json = False) -> None:
    """Say what keeps an app from starting or leaves it open.

    It looks at routes, policy and settings, and notes what is worth knowing. Exit code 1 if something was found; a
    marked app that does not call Garrison().protect(app) is open, and so found, too. It needs no secrets: what
    production has and this machine lacks is a note.

    \b
    Examples:
      garrison check main:app
      garrison check main:app --json
    """
    found = guarded(lambda: _checked(target))
    wrong = any(found[name] for name in _FINDINGS)
    if json:
        emit(found)
    else:
        for one in found["undecided"]:
            place = f" ({one['place']})" if one["place"] else ""
            mend = "mark it with @public or @allow(…), or add a table line"
            show(f"  undecided: {one['method']} {one['path']}: nothing decides it{place}; {mend}")
        for text in found["refusals"]:
            show(f"  refused: {text}")
        for text in found["unprotected"]:
            show(f"  open: {text}")
        for text in found["unreachable"]:
            show(f"  closed: {text}")
        for one in found["settings"]:
            show(f"  setting: {one['name']}: {one['problem']}")
        for text in found["warnings"]:
            show(f"  note: {text}")
        verdict = "mend the above" if wrong else "each one decided"
        own = f"{len(_own_routes(''))} more are Garrison's own: garrison routes {target}"
        show(f"{found['routes']} routes of the app, {verdict}; {own}")
    if wrong:
        raise typer.Exit(FOUND)


_FINDINGS = ("undecided", "refusals", "unprotected", "unreachable", "settings")


@dataclass(frozen=True, slots=True)
class _Seen:
    """An app, its routes and its settings, nothing of it started."""

    guard: Garrison
    inspected: "Inspected"
    review: "Review"
    protected: bool
    """False where only `garrison serve` guards the app."""


def _inspect(target: str) -> _Seen:
    from garrison.serve.plans import inspect_app, own_path  # keeps --help quick
    from garrison.serve.review import review_environment, review_of
    from garrison.serve.wiring import OWN_PATHS

    sys.dont_write_bytecode = True  # no file is written, caches of the app's modules included
    with contextlib.redirect_stdout(sys.stderr):  # what an app prints while imported is no part of the document
        _, guard, protected = load_guarded(target)
        adapter = guard.adapter
        if adapter is None:
            raise typer.Exit(FOUND)
        review = review_environment(os.environ, Path()) if guard.settings is None else review_of(guard.settings)
        own = [own_path(path, guard.prefix) for path in OWN_PATHS]
        return _Seen(guard, inspect_app(adapter, guard.policy, own, docs=review.development), review, protected)


def _document(seen: _Seen) -> dict[str, Any]:
    return {
        "protected": seen.protected,
        "undecided": [_undecided(one) for one in seen.inspected.decisions.undecided()],
        "refusals": list(seen.inspected.refusals),
        "unprotected": [_OPEN] if _is_open(seen) else [],
        "unreachable": unreachable(seen.inspected.decisions, seen.guard.policy),
        "settings": _named(seen.review.problems),
        "warnings": _warnings(seen),
    }


_OPEN = (
    "the app does not call Garrison().protect(app), so only `garrison serve` guards it: under uvicorn, or in a test "
    "client, it is OPEN"
)


def _is_open(seen: _Seen) -> bool:
    """Tell an app that means to be guarded and is not: it carries marks. A bare one means to be run by `serve`."""
    routes = [decision.route for decision in seen.inspected.decisions.all()]
    endpoints = (one for route in routes for one in (route.endpoint, *route.handlers.values()))
    return not seen.protected and any(find_marks(one) for one in endpoints)


def _undecided(decision: Decision) -> dict[str, Any]:
    route = decision.route
    place = None if route.endpoint is None else place_of(route.endpoint) or None
    return {"method": decision.method, "path": route.template, "place": place}


def _checked(target: str) -> dict[str, Any]:
    """An app that cannot even be made (decided twice, a table that cannot be read) is a finding, too."""
    nothing: dict[str, Any] = {"protected": None, **{name: [] for name in (*_FINDINGS, "warnings")}, "routes": 0}
    try:
        seen = _inspect(target)
    except PolicyError as error:
        return nothing | {"refusals": list(error.refusals)}
    except SettingsError as error:
        return nothing | {"settings": _named(error.problems)}
    return _document(seen) | {"routes": len(seen.inspected.decisions.all())}


def _named(problems: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"name": name, "problem": problem} for name, problem in problems]


def _warnings(seen: _Seen) -> list[str]:
    """What is worth knowing here: that of production in production."""
    found = unknown_roles(seen.inspected.decisions, seen.guard.policy)
    if not seen.protected and not _is_open(seen):
        found.append(_OPEN)
    if seen.review.absent:
        found.append(f"production needs {', '.join(seen.review.absent)}, which this environment does not have")
    found.extend(seen.review.notes)
    if seen.review.production:
        found.append(
            "under another server than `garrison serve`, the bounds of headers, time and framing are that server's"
        )
        found.append("identity on a host of its own (ISSUER) keeps a script injected into the app away from it")
    return found


def _every_route(seen: _Seen) -> list[dict[str, Any]]:
    """Return the app's routes and ours. Raises SettingsError where it is unsure which environment they are of."""
    unsure = [problem for problem in seen.review.problems if problem[0] in ("GARRISON_ENV", ".env")]
    if unsure:
        raise SettingsError(unsure)
    decisions = seen.inspected.decisions
    return [*(_route(decision) for decision in decisions.all()), *_own_routes(seen.guard.prefix)]


def _own_routes(prefix: str) -> list[dict[str, Any]]:
    """Return our own routes as they will be served. What they would work with is made and never opened."""
    from garrison.core.clock import SystemClock
    from garrison.core.sealing import MIN_SECRET_BYTES, Sealer
    from garrison.guard.limit_table import LimitTable
    from garrison.guard.revocation import RevocationView
    from garrison.identity.settings import IdentitySettings
    from garrison.policy.decide import Decisions
    from garrison.policy.inventory import Branch
    from garrison.serve.health import health_endpoints
    from garrison.serve.plans import Inspected, with_own
    from garrison.serve.wiring import openapi_endpoint, wire_identity
    from garrison.store.sqlite import SqliteDatabase

    async def ready() -> dict[str, bool]:
        return {}

    clock = SystemClock()
    identity = wire_identity(
        SqliteDatabase(Path("never-opened")),
        clock,
        RevocationView(clock),
        Sealer([secrets.token_bytes(MIN_SECRET_BYTES)]),
        IdentitySettings(development=True),
        lambda _roles: frozenset(),
        LimitTable(),
    )
    endpoints = (*identity.endpoints, *health_endpoints(ready, ()), openapi_endpoint(dict))
    _, decisions, _ = with_own(Inspected(Branch(()), Decisions(), ()), endpoints, prefix)
    return [_route(decision) for decision in decisions.all()]


def _route(decision: Decision) -> dict[str, Any]:
    return {
        "method": decision.method,
        "path": decision.route.template,
        "rule": None if decision.rule is None else decision.rule.described(),
        "source": decision.source,
    }


def _described(rule: dict[str, Any] | None) -> str:
    if rule is None:
        return "UNDECIDED"
    more = [
        f"{name}={' '.join(value) if isinstance(value, list) else value}"
        for name, value in rule.items()
        if name != "access"
    ]
    return " ".join([rule["access"], *more])
