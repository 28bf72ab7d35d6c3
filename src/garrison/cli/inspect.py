"""`garrison routes` and `garrison check`: what is decided, and by whom. Opens no database and writes no file."""

import contextlib
import os
import secrets
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from garrison.cli.apps import load_guarded
from garrison.cli.output import FOUND, emit, guarded, say, table
from garrison.core.errors import PolicyError, SettingsError
from garrison.policy.decide import Decision
from garrison.serve.garrison import Garrison

Target = Annotated[str, typer.Argument(metavar="MODULE:APP", help="A bare or a protected app.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def routes_command(target: Target, json: Json = False) -> None:
    """List every route, Garrison's own too, what it demands, and where that was decided.

    Examples:

      garrison routes main:app

      garrison routes main:app --json | jq '.routes[] | select(.rule.access == "public")'
    """
    found = guarded(lambda: _inspect(target))
    found["routes"] = guarded(lambda: [*found["routes"], *_own_routes(found.pop("prefix"))])
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
    found = guarded(lambda: _checked(target))
    wrong = bool(found["undecided"] or found["refusals"])
    if json:
        emit({name: found[name] for name in ("undecided", "refusals", "warnings")} | {"routes": len(found["routes"])})
    else:
        for one in found["routes"]:
            if one["rule"] is None:
                mend = "mark it with @public or @allow(…), or add a table line"
                say(f"  undecided: {one['method']} {one['path']}: {one['source']}; {mend}")
        for text in found["refusals"]:
            say(f"  refused: {text}")
        for text in found["warnings"]:
            say(f"  note: {text}")
        say(f"{len(found['routes'])} routes, " + ("mend the above." if wrong else "each one decided."))
    if wrong:
        raise typer.Exit(FOUND)


def _checked(target: str) -> dict[str, Any]:
    """An app that cannot even be made (decided twice, a table that cannot be read) is a finding, too."""
    try:
        return _inspect(target)
    except PolicyError as error:
        return {"routes": [], "undecided": [], "refusals": list(error.refusals), "warnings": []}


def _inspect(target: str) -> dict[str, Any]:
    from garrison.serve.plans import inspect_app, own_path  # keeps --help quick
    from garrison.serve.wiring import OWN_PATHS

    sys.dont_write_bytecode = True  # no file is written, caches of the app's modules included
    with contextlib.redirect_stdout(sys.stderr):  # what an app prints while imported is no part of the document
        _, guard = load_guarded(target, warns=True)
        adapter = guard.adapter
        if adapter is None:
            raise typer.Exit(FOUND)
        development, tells = _environment(guard)
        own = [own_path(path, guard.prefix) for path in OWN_PATHS]
        inspected = inspect_app(adapter, guard.policy, own, docs=development)
    decisions = inspected.decisions
    return {
        "routes": [_route(decision) for decision in decisions.all()],
        "undecided": [
            {"method": decision.method, "path": decision.route.template} for decision in decisions.undecided()
        ],
        "refusals": list(inspected.refusals),
        "warnings": _warnings(tells=tells),
        "prefix": guard.prefix,
    }


def _environment(guard: Garrison) -> tuple[bool, bool]:
    """Return whether the app will run in development, and whether in production a sign-up tells about addresses.

    Asks for two settings and needs no other, so that CI can check a production app without its secrets.
    """
    from dotenv import dotenv_values  # keeps --help quick

    verification: str
    if guard.settings is not None:
        development, verification = guard.settings.development, guard.settings.email_verification
    else:
        file = Path(".env")
        written = dotenv_values(file, interpolate=False) if file.is_file() else {}
        env = os.environ.get("GARRISON_ENV", written.get("GARRISON_ENV")) or "development"
        if env not in ("development", "production"):
            raise SettingsError([("GARRISON_ENV", "write development or production")])
        development = env == "development"
        name = "GARRISON_EMAIL_VERIFICATION"
        verification = os.environ.get(name, written.get(name)) or ""
    return development, not development and verification == "optional"


def _own_routes(prefix: str) -> list[dict[str, Any]]:
    """Return our own routes as they will be served. What they would work with is made and never opened."""
    from garrison.core.clock import SystemClock
    from garrison.core.sealing import MIN_SECRET_BYTES, Sealer
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


def _warnings(*, tells: bool) -> list[str]:
    found = ["under another server than `garrison serve`, the bounds of headers, time and framing are that server's"]
    if tells:
        found.append("EMAIL_VERIFICATION=optional: a sign-in right after a sign-up tells whether an address was taken")
    found.append("identity on a host of its own (ISSUER) keeps a script injected into the app away from it")
    return found
