"""The guard chooses the route that the framework would: held over generated tables against the real routers."""

import os
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from garrison.core.principal import Principal
from garrison.policy.decide import Decision
from garrison.policy.match import Matcher, Meaning
from garrison.policy.table import Policy
from garrison.serve.frameworks import adapter_for
from garrison.wire.call import Call
from tests.policy.tables import Builder, Ran, decided, requests, run, scope_of, tables

IS_NEWEST = "GARRISON_TEST_FASTAPI" not in os.environ  # the others are tried at fewer tables, to be quick
QUIET = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
Request = tuple[str, str, bytes, str, str]


def label_of(decision: Decision) -> Any:
    route = decision.route
    found = getattr(route.endpoint, "label", None) or getattr(route.element, "label", None)
    return found or getattr(getattr(route.element, "default", None), "label", None)  # a router's default


def asked(matcher: Matcher, request: Request) -> Meaning:
    kind, method, raw, host, root_path = request
    name = host.lower()
    name = name.partition("]")[0] + "]" if name.startswith("[") else name.partition(":")[0]
    return matcher.meaning(kind, method if kind == "http" else "WS", raw, root_path, name)  # type: ignore[arg-type]


def granted(meaning: Meaning, scope: dict[str, Any]) -> dict[str, Any]:
    call = Call(scope)
    call.path, call.route, call.granted = meaning.path, meaning.decision, meaning.outcome == "found"
    call.values = meaning.values
    call.principal = Principal.anonymous
    return {**scope, "garrison": call}


def is_opaque_websocket(request: Request, ran: Ran) -> bool:
    """A web socket to what cannot be seen through is closed by default."""
    return request[0] == "websocket" and all(label.startswith(("raw", "default")) for label, _ in ran.calls)


def hold(app: Any, ran: Ran, listed: list[Request]) -> None:
    """Hold the matcher, and then the lock, against what really runs."""
    adapter = adapter_for(app)
    root = adapter.inventory(Policy())
    decisions = decided(root)
    labels = {decision: label_of(decision) for decision in decisions.all()}
    matcher = Matcher(root, decisions)
    meanings = []
    for request in listed:
        meaning = asked(matcher, request)
        meanings.append(meaning)
        ran.calls.clear()
        status = run(app, scope_of(*request))
        event(meaning.outcome)
        if meaning.outcome == "found":
            assert meaning.decision is not None
            assert ran.calls == [(labels[meaning.decision], dict(meaning.values))], (request, meaning, status)
        elif meaning.outcome != "bad_path" and not is_opaque_websocket(request, ran):  # stricter on purpose
            assert ran.calls == [], (request, meaning, status)
        if meaning.outcome == "redirect":
            assert status == 307, (request, meaning, status)
    refused: list[str] = []
    adapter.lock(lambda _scope, name: refused.append(name))
    for request, meaning in zip(listed, meanings, strict=True):
        ran.calls.clear()
        refused.clear()
        run(app, granted(meaning, scope_of(*request)))
        if meaning.outcome == "found":
            assert meaning.decision is not None
            assert (ran.calls, refused) == ([(labels[meaning.decision], dict(meaning.values))], []), (request, meaning)
        else:
            assert ran.calls == [], (request, meaning)
        ran.calls.clear()
        run(app.router.app, scope_of(*request))  # past the gate, without a decision
        assert ran.calls == [], (request, meaning)


@settings(QUIET, max_examples=700)
@given(tables, st.lists(requests(), min_size=6, max_size=12))
def test_the_guard_chooses_the_route_that_starlette_would(table: tuple[Any, ...], listed: list[Request]) -> None:
    ran = Ran()
    hold(Builder(ran).starlette(table), ran, listed)


@settings(QUIET, max_examples=500 if IS_NEWEST else 100)
@given(tables, st.lists(requests(), min_size=6, max_size=12), st.sampled_from(("", "", "/a", "/root")))
def test_the_guard_chooses_the_route_that_fastapi_would(
    table: tuple[Any, ...], listed: list[Request], root_path: str
) -> None:
    ran = Ran()
    app = Builder(ran).fastapi(table)
    app.root_path = root_path
    if root_path:
        listed = [(kind, method, raw, host, root_path) for kind, method, raw, host, _ in listed]
    hold(app, ran, listed)
