"""`garrison routes` and `garrison check`: what is decided, and by whom. Opens no database and writes no file."""

import os
from typing import Annotated, Any

import typer

from garrison.cli.apps import load_guarded
from garrison.cli.output import FOUND, emit, guarded, say, table
from garrison.policy.decide import Decision

Target = Annotated[str, typer.Argument(metavar="MODULE:APP", help="A bare or a protected app.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def routes_command(target: Target, json: Json = False) -> None:
    """List every route, what it demands, and where that was decided.

    Examples:

      garrison routes main:app

      garrison routes main:app --json | jq '.routes[] | select(.rule.access == "public")'
    """
    found = guarded(lambda: _inspect(target))
    if json:
        emit(found)
        return
    rows = [(one["method"], one["path"], _described(one["rule"]), one["source"]) for one in found["routes"]]
    table(("method", "path", "demands", "decided by"), rows)


def check_command(target: Target, json: Json = False) -> None:
    """Say what would keep the app from starting, and what is worth knowing. Exit code 1 if something was found.

    Examples:

      garrison check main:app

      garrison check main:app --json
    """
    found = guarded(lambda: _inspect(target))
    wrong = bool(found["undecided"] or found["refusals"])
    if json:
        emit({name: found[name] for name in ("undecided", "refusals", "warnings")} | {"routes": len(found["routes"])})
    else:
        for one in found["undecided"]:
            say(f"  undecided: {one['method']} {one['path']}  (mark it with @public or @allow(…), or add a table line)")
        for text in found["refusals"]:
            say(f"  refused: {text}")
        for text in found["warnings"]:
            say(f"  note: {text}")
        say(f"{len(found['routes'])} routes, " + ("mend the above." if wrong else "each one decided."))
    if wrong:
        raise typer.Exit(FOUND)


def _inspect(target: str) -> dict[str, Any]:
    from garrison.serve.plans import inspect_app, own_path  # keeps --help quick
    from garrison.serve.wiring import OWN_PATHS

    _, guard = load_guarded(target)
    adapter = guard.adapter
    if adapter is None:
        raise typer.Exit(FOUND)
    development = os.environ.get("GARRISON_ENV", "development") != "production"
    own = [own_path(path, guard.prefix) for path in OWN_PATHS]
    inspected = inspect_app(adapter, guard.policy, own, docs=development)
    decisions = inspected.decisions
    return {
        "routes": [_route(decision) for decision in decisions.all()],
        "undecided": [
            {"method": decision.method, "path": decision.route.template} for decision in decisions.undecided()
        ],
        "refusals": list(inspected.refusals),
        "warnings": _warnings(development=development),
    }


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


def _warnings(*, development: bool) -> list[str]:
    found = ["under another server than `garrison serve`, the bounds of headers, time and framing are that server's"]
    if not development and os.environ.get("GARRISON_EMAIL_VERIFICATION") == "optional":
        found.append("EMAIL_VERIFICATION=optional: a sign-in right after a sign-up tells whether an address was taken")
    found.append("identity on a host of its own (ISSUER) keeps a script injected into the app away from it")
    return found
