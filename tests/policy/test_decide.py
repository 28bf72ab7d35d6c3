"""Every route has exactly one decision, or the app does not start, and says why."""

import functools
import re
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, WebSocketRoute

from garrison import Policy, allow, public, require
from garrison.policy.decide import Decisions, decide, scopes_by_role
from garrison.policy.rules import Rule
from garrison.serve.frameworks import adapter_for

ADMIN = allow(role="admin")


def plain() -> Callable[..., Any]:
    async def endpoint(request: Request) -> Response:
        return Response()

    return endpoint


async def raw(scope: Any, receive: Any, send: Any) -> None: ...


def decided(routes: list[Any], *lines: Any, roles: Any = None, docs: bool = True) -> Decisions:
    app = Starlette(routes=routes)
    policy = Policy(*lines, roles=roles)
    return decide(adapter_for(app).inventory(policy), policy, docs=docs)


def table(decisions: Decisions) -> dict[str, Rule | None]:
    return {decision.label: decision.rule for decision in decisions.all()}


# One decision each


def test_a_decorator_above_and_below_the_framework_s_own_decide_alike() -> None:
    app = FastAPI(openapi_url=None)

    @app.get("/below")
    @public
    async def below() -> None: ...

    @public
    @app.get("/above")
    async def above() -> None: ...

    policy = Policy()
    decisions = decide(adapter_for(app).inventory(policy), policy, docs=True)
    assert table(decisions) == {"GET /below": public, "GET /above": public}
    assert all("test_decide.py:" in decision.source for decision in decisions.all())


def test_head_follows_get() -> None:
    decisions = decided([Route("/x", plain())], ("GET /x", ADMIN))
    assert table(decisions) == {"GET /x": ADMIN, "HEAD /x": ADMIN}
    assert decisions.refusals == []


def test_the_first_line_that_matches_decides() -> None:
    decisions = decided(
        [Route("/a", plain(), methods=["POST"]), Route("/b", plain(), methods=["POST"])],
        ("POST /a", public),
        ("* /**", ADMIN),
    )
    assert table(decisions) == {"POST /a": public, "POST /b": ADMIN}
    assert "table line 1" in decisions.all()[0].source


def test_nothing_decided_is_undecided_and_names_the_place() -> None:
    (decision, _) = decided([Route("/x", plain())]).undecided()
    assert decision.rule is None
    assert "test_decide.py:" in decision.source


def test_a_mark_on_any_other_kind_of_endpoint_counts() -> None:
    class Callable_:
        @public
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    class Views:
        @public
        async def show(self, request: Request) -> Response:
            return Response()

    routes = [
        Route("/instance", Callable_()),
        Route("/method", Views().show),
        Route("/partial", functools.partial(public(plain()))),
    ]
    decisions = decided(routes)
    assert decisions.undecided() == []
    assert decisions.refusals == []


# Class-based endpoints


def test_a_class_based_endpoint_is_decided_as_a_whole_or_method_by_method() -> None:
    @public
    class Whole(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return Response()

        async def post(self, request: Request) -> Response:
            return Response()

    class Parts(HTTPEndpoint):
        @public
        async def get(self, request: Request) -> Response:
            return Response()

        @ADMIN
        async def post(self, request: Request) -> Response:
            return Response()

        async def delete(self, request: Request) -> Response:
            return Response()

    decisions = decided([Route("/whole", Whole), Route("/parts", Parts)])
    assert table(decisions) == {
        "GET /whole": public,
        "HEAD /whole": public,
        "POST /whole": public,
        "GET /parts": public,
        "HEAD /parts": public,
        "POST /parts": ADMIN,
        "DELETE /parts": None,
    }


def test_marks_on_class_and_method_are_two_decisions() -> None:
    @public
    class Endpoint(HTTPEndpoint):
        @ADMIN
        async def get(self, request: Request) -> Response:
            return Response()

    assert any("decided twice" in text for text in decided([Route("/x", Endpoint)]).refusals)


def test_a_class_that_dispatches_by_itself_takes_any_method() -> None:
    class Endpoint(HTTPEndpoint):
        async def dispatch(self) -> None: ...

        async def get(self, request: Request) -> Response:
            return Response()

    assert table(decided([Route("/x", Endpoint)])) == {"* /x": None}


# Two decisions, and lines that decide nothing


def test_a_decorator_and_a_line_for_one_route_are_refused() -> None:
    decisions = decided([Route("/x", public(plain()), methods=["POST"])], ("POST /x", ADMIN))
    assert any("POST /x is decided twice" in text and "table line 1" in text for text in decisions.refusals)


def test_a_line_that_decides_nothing_is_refused() -> None:
    decisions = decided([Route("/x", plain())], ("GET /x", public), ("GET /x", ADMIN), ("GET /y", ADMIN))
    assert decisions.refusals == [
        "table line 2 (GET /x) decides nothing: what it matches is decided by table line 1: GET /x",
        "table line 3 (GET /y) decides nothing: no route matches it",
    ]


def test_a_requirement_that_narrows_nothing_is_refused() -> None:
    decisions = decided([Route("/x", plain())], ("GET /x", ADMIN), require("POST /x", factor_age="5m"))
    assert len(decisions.refusals) == 1
    assert "narrows nothing" in decisions.refusals[0]


def test_a_line_for_exactly_what_is_mounted_at_the_root_leaves_marked_routes_alone() -> None:
    routes = [Route("/x", ADMIN(plain()), methods=["POST"]), Mount("", raw)]
    decisions = decided(routes, ("GET /**", public))
    assert decisions.refusals == []
    assert table(decisions) == {"POST /x": ADMIN, "GET /**": public, "HEAD /**": public}


# Narrowing


def test_require_narrows_and_never_decides() -> None:
    decisions = decided(
        [Route("/a", plain(), methods=["POST"]), Route("/b", plain(), methods=["POST"])],
        ("POST /a", ADMIN),
        require("* /**", factor_age="10 minutes", scope="x"),
    )
    assert table(decisions) == {"POST /a": allow(role="admin", factor_age=600, scope="x"), "POST /b": None}


def test_require_on_a_public_route_is_refused() -> None:
    decisions = decided([Route("/x", plain())], ("GET /x", public), require("* /x", role="admin"))
    assert any("(table line 1: GET /x): require on table line 2 (* /x)" in text for text in decisions.refusals)


def test_require_narrows_marked_routes_too() -> None:
    decisions = decided([Route("/x", ADMIN(plain()), methods=["POST"])], require("* /**", scope="x"))
    assert table(decisions) == {"POST /x": allow(role="admin", scope="x")}


# Routes that take any method


def test_what_a_line_says_of_one_method_is_not_said_of_the_others() -> None:
    decisions = decided([Mount("/raw", raw)], ("GET /raw/**", public), ("* /raw/**", ADMIN))
    assert table(decisions) == {"GET /raw/**": public, "HEAD /raw/**": public, "* /raw/**": ADMIN}


def test_methods_that_no_line_names_are_left_out() -> None:
    decisions = decided([Mount("/raw", raw)], ("GET|POST /raw/**", public))
    assert set(table(decisions)) == {"GET /raw/**", "HEAD /raw/**", "POST /raw/**"}


def test_a_requirement_for_one_method_of_many_narrows_that_one() -> None:
    decisions = decided([Mount("/raw", raw)], ("* /raw/**", ADMIN), require("POST /raw/**", scope="x"))
    assert table(decisions) == {"* /raw/**": ADMIN, "POST /raw/**": allow(role="admin", scope="x")}


def test_web_sockets_are_decided_by_themselves() -> None:
    routes = [WebSocketRoute("/x", plain()), Route("/x", plain(), methods=["POST"])]
    assert table(decided(routes, ("POST /x", public))) == {"WS /x": None, "POST /x": public}
    assert table(decided(routes, ("WS /x", ADMIN), ("POST /x", public))) == {"WS /x": ADMIN, "POST /x": public}


# Owners


def owner_refusals(owner: Callable[..., Any], path: str = "/orgs/{org}/tasks/{id:uuid}") -> list[str]:
    return decided([Route(path, plain(), methods=["POST"])], (f"POST {path}", allow(owner=owner))).refusals


def test_an_owner_takes_parameters_of_the_path() -> None:
    def by_id(id: UUID) -> str | None: ...

    def by_both(org: str, id: UUID) -> str | None: ...

    class Owner:
        def __call__(self, org: str) -> str | None: ...

    def bound(kind: str, id: UUID) -> str | None: ...

    for owner in (by_id, by_both, Owner(), Owner().__call__, functools.partial(bound, kind="task")):
        assert owner_refusals(owner) == [], owner


def test_an_owner_of_other_parameters_is_refused() -> None:
    def lacking(task: UUID) -> None: ...

    def floating(id: float) -> None: ...

    def positional(id: UUID, /) -> None: ...

    def many(**ids: str) -> None: ...

    def nobody() -> None: ...

    def unreadable(id: "Unknown") -> None: ...  # type: ignore[name-defined]  # noqa: F821 - that is the point

    for owner, said in (
        (lacking, "takes task, which the path does not have"),
        (floating, "must be str, int or UUID"),
        (positional, "must be given by name"),
        (many, "must be given by name"),
        (nobody, "takes no path parameter"),
        (unreadable, "cannot be read"),
    ):
        (text,) = owner_refusals(owner)
        assert said in text
        assert "(table line 1: " in text


def test_what_is_wrong_with_a_marked_route_says_where_it_is_marked() -> None:
    def lacking(task: UUID) -> None: ...

    (text,) = decided([Route("/x/{id}", allow(owner=lacking)(plain()), methods=["POST"])]).refusals
    assert re.search(r"\(decorator at .*test_decide\.py:\d+\): owner=", text)


@pytest.mark.parametrize("text", ["7", "-7", "0", "9" * 18])
def test_an_integer_has_one_spelling(text: str) -> None:
    assert _convert(int, text) == int(text)


@pytest.mark.parametrize("text", ["007", "+7", " 7", "7 ", "1_0", "-0", "\u0663", "7.0", "", "9" * 30, "9" * 5000])
def test_another_spelling_of_an_integer_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"int(eger)?"):
        _convert(int, text)


def test_a_uuid_has_one_spelling_in_either_case() -> None:
    text = "8f14e45f-ceea-467f-a8f6-0b6dd4b1e6a1"
    assert _convert(UUID, text) == _convert(UUID, text.upper()) == UUID(text)
    for other in (text.replace("-", ""), "{" + text + "}", f"urn:uuid:{text}", text + " ", text[:-1] + "\u0661"):
        with pytest.raises(ValueError, match="UUID"):
            _convert(UUID, other)


def _convert(annotation: Any, text: str) -> Any:
    from garrison.policy.owner import owner_converters

    def owner(id: Any) -> None: ...

    owner.__annotations__["id"] = annotation
    return owner_converters(owner)["id"](text)


# Roles


def test_member_holds_every_scope_that_a_rule_without_a_role_names() -> None:
    found = scopes_by_role(
        Policy(roles={"editor": "b", "member": "m"}), [allow(scope="a"), allow(scope="b", role="editor"), public]
    )
    assert found == {"editor": frozenset({"b"}), "member": frozenset({"a", "m"})}
