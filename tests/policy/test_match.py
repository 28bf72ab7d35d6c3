"""The guard chooses the route that the framework would: held over generated tables against the real routers."""

import os
from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.convertors import CONVERTOR_TYPES, StringConvertor, register_url_convertor
from starlette.routing import Mount, Route, WebSocketRoute

from garrison import allow, public
from garrison.core.principal import Principal
from garrison.guard.routing import routing_layer
from garrison.policy.decide import Decision, decide
from garrison.policy.match import Matcher, Meaning
from garrison.policy.table import Policy
from garrison.serve.frameworks import adapter_for
from garrison.wire.call import Call
from tests.policy.tables import Builder, Ran, decided, requests, run, scope_of, tables

IS_NEWEST = "TEST_FASTAPI" not in os.environ  # the others are tried at fewer tables, to be quick
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


# What generated tables meet too seldom, one by one


def matcher_of(app: Any, *lines: Any) -> Matcher:
    policy = Policy(*lines)
    root = adapter_for(app).inventory(policy)
    return Matcher(root, decide(root, policy, docs=True))


def endpoint(request: Any) -> None: ...


async def raw(scope: Any, receive: Any, send: Any) -> None: ...


def test_what_is_mounted_takes_the_web_sockets_below_it_and_they_stay_closed() -> None:
    matcher = matcher_of(
        Starlette(routes=[Mount("/raw", raw), WebSocketRoute("/raw/x", endpoint)]),
        ("WS /raw/x", public),
        ("GET /raw/**", public),
    )
    assert asked(matcher, ("websocket", "WS", b"/raw/x", "h", "")).outcome == "missing"


def test_a_default_and_a_slash_redirect_are_not_for_web_sockets() -> None:
    app = Starlette(routes=[WebSocketRoute("/x", endpoint)])
    app.router.default = raw
    matcher = matcher_of(app, ("WS /x", public), ("GET /**", public))
    assert asked(matcher, ("http", "GET", b"/y", "h", "")).outcome == "found"
    for path in (b"/y", b"/x/"):
        assert asked(matcher, ("websocket", "WS", path, "h", "")).outcome == "missing"


def test_the_inner_of_two_parameters_of_one_name_counts() -> None:
    app = Starlette(routes=[Mount("/{id}", routes=[Route("/tasks/{id:int}", endpoint)])])
    meaning = asked(matcher_of(app, ("* /**", public)), ("http", "GET", b"/5/tasks/7", "h", ""))
    assert (meaning.params, meaning.values) == ({"id": "7"}, {"id": 7})


def test_a_converter_whose_values_equal_nothing_is_left_to_the_path() -> None:
    class Opaque(StringConvertor):
        def convert(self, value: str) -> Any:
            return object()

    register_url_convertor("opaque", Opaque())
    try:
        app = Starlette(routes=[Route("/{a:opaque}/{b}", endpoint)])
    finally:
        del CONVERTOR_TYPES["opaque"]
    meaning = asked(matcher_of(app, ("* /**", public)), ("http", "GET", b"/x/y", "h", ""))
    assert (meaning.params, meaning.values) == ({"a": "x", "b": "y"}, {"b": "y"})


def test_a_route_in_capitals_is_not_dodged_in_lower_case() -> None:
    app = Starlette(routes=[Route("/Admin", endpoint), Route("/{rest:path}", endpoint)])
    matcher = matcher_of(app, ("GET /Admin", allow(role="admin")), ("* /**", public))
    assert asked(matcher, ("http", "GET", b"/admin", "h", "")).outcome == "bad_path"
    assert asked(matcher, ("http", "GET", b"/other", "h", "")).outcome == "found"


def test_what_is_remembered_of_one_root_path_is_not_said_of_another() -> None:
    app = Starlette(routes=[Route("/x", endpoint), Route("/api/x", endpoint)])
    matcher = matcher_of(app, ("GET /x", public), ("GET /api/x", allow(role="admin")))
    labels = []
    for root_path in ("", "/api", ""):
        decision = asked(matcher, ("http", "GET", b"/api/x", "h", root_path)).decision
        labels.append(decision and decision.label)
    assert labels == ["GET /api/x", "GET /x", "GET /api/x"]


def test_what_is_remembered_is_bounded() -> None:
    matcher = matcher_of(Starlette(routes=[Route("/{id}", endpoint)]), ("* /**", public))
    for number in range(10_000):
        asked(matcher, ("http", "GET", b"/%d" % number, "h", ""))
    asked(matcher, ("http", "GET", b"/" + b"x" * 8000, "h", ""))
    asked(matcher, ("http", "X" * 8000, b"/1", "h", ""))
    assert 0 < len(matcher.remembered) <= 4096
    assert all(len(method) + len(raw_path or b"") <= 512 for method, raw_path, _ in matcher.remembered)


def test_the_routing_layer_remembers_under_all_that_it_reads() -> None:
    """Whatever it looks at, changed alone after a first request, is looked at again."""

    async def endpoint(_request: Any) -> Any:
        raise AssertionError

    app = Starlette(routes=[Route("/a", endpoint), Route("/a/b", endpoint, methods=["POST"])])
    app.router.routes.append(WebSocketRoute("/a", endpoint))
    adapter = adapter_for(app)
    root = adapter.inventory(Policy())
    decisions = decided(root)
    for number, decision in enumerate(decisions.all()):
        decision.plan = number
    plain: dict[str, Any] = {"type": "http", "method": "GET", "path": "/a", "raw_path": b"/a", "root_path": ""}
    changes: list[dict[str, Any]] = [
        {},
        {"method": "POST"},
        {"method": "HEAD"},
        {"path": "/b"},
        {"raw_path": b"/b"},
        {"raw_path": b"/a?c=/b"},
        {"raw_path": None},
        {"raw_path": None, "path": "/b"},
        {"root_path": "/a"},
        {"root_path": "/a", "path": "/a/a", "raw_path": b"/a/a"},
        {"type": "websocket"},
    ]

    def said(change: dict[str, Any], *, after: bool) -> Any:
        nothing: Any = None
        layer = routing_layer(
            Matcher(root, decisions),
            root_path=adapter.root_path,
            has_late=lambda _scope: False,
            late=nothing,
            redirect=nothing,
        )
        for scope in [plain, plain | change] if after else [plain | change]:
            call = Call(scope)
            call.request_id, call.headers = "", {}
            answer = layer(call)
        return answer and answer.code, call.path, call.route and call.route.label, call.plan

    assert [said(change, after=True) for change in changes] == [said(change, after=False) for change in changes]
    assert len({said(change, after=True) for change in changes}) > 4
