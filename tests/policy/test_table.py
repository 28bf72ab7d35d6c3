"""Patterns and tables: what they mean, and what is no pattern."""

import re

import pytest

from garrison import Policy, PolicyError, allow, public, require
from garrison.policy.inventory import Route
from garrison.policy.table import parameters_of, parse_pattern


def route(template: str, *methods: str, kind: str = "http") -> Route:
    listed = frozenset(methods) if methods else None
    return Route(template, kind, re.compile(""), listed)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pattern", "template", "meant"),
    [
        ("GET /", "/", True),
        ("GET /tasks", "/tasks", True),
        ("GET /tasks", "/tasks/", False),
        ("GET /tasks", "/Tasks", False),
        ("GET /tasks/{id}", "/tasks/{id}", True),
        ("GET /tasks/{id}", "/tasks/{task:uuid}", True),
        ("GET /tasks/{id}", "/tasks/export", False),
        ("GET /tasks/{id:uuid}", "/tasks/{id:uuid}", True),
        ("GET /tasks/{id:uuid}", "/tasks/{id}", False),
        ("GET /tasks/export", "/tasks/{id}", False),
        ("GET /tasks/*", "/tasks/{id}", True),
        ("GET /tasks/*", "/tasks/export", True),
        ("GET /tasks/*", "/tasks", False),
        ("GET /tasks/*", "/tasks/{id}/notes", False),
        ("GET /reports/**", "/reports", True),
        ("GET /reports/**", "/reports/", True),
        ("GET /reports/**", "/reports/{year:int}/{month}", True),
        ("GET /reports/**", "/reports-old", False),
        ("GET /reports/**", "/old/reports", False),
        ("GET /**", "/", True),
        ("GET /**", "/a/b", True),
        ("GET /files/{name}.{suffix}", "/files/{name}.{suffix}", True),
        ("GET /files/{name}", "/files/{name}.{suffix}", False),
        ("GET /files/*", "/files/{name}.{suffix}", True),
        ("GET /{path:path}", "/{path:path}", True),
    ],
)
def test_a_path_pattern_means_templates(pattern: str, template: str, meant: bool) -> None:
    assert parse_pattern(pattern).matches(route(template, "GET"), "GET") is meant


@pytest.mark.parametrize(
    ("pattern", "methods", "method", "meant"),
    [
        ("GET /x", ("GET", "HEAD"), "GET", True),
        ("GET /x", ("GET", "HEAD"), "HEAD", True),
        ("GET /x", ("HEAD",), "HEAD", False),
        ("HEAD /x", ("GET", "HEAD"), "GET", False),
        ("GET|POST /x", ("POST",), "POST", True),
        ("GET|POST /x", ("PUT",), "PUT", False),
        ("* /x", ("PUT",), "PUT", True),
        ("* /x", (), "*", True),
        ("GET /x", (), "*", False),
        ("GET /x", (), "HEAD", True),
        ("WS /x", ("GET",), "GET", False),
    ],
)
def test_a_method_pattern_covers_head_with_get_and_the_rest_only_by_a_star(
    pattern: str, methods: tuple[str, ...], method: str, meant: bool
) -> None:
    assert parse_pattern(pattern).matches(route("/x", *methods), method) is meant


def test_web_sockets_are_meant_by_their_own_word_and_by_a_star() -> None:
    socket = route("/x", kind="websocket")
    assert parse_pattern("WS /x").matches(socket, "WS")
    assert parse_pattern("* /x").matches(socket, "WS")
    assert not parse_pattern("GET /x").matches(socket, "WS")


@pytest.mark.parametrize(
    "text",
    [
        *("", "/tasks", "GET", "GET tasks", "get /tasks", "GET|* /x", "GET,POST /x", "GET  ", "G3T /x", "| /x"),
        *("GET /a/**/b", "GET /a**", "GET /{id", "GET /id}", "GET /{1d}", "GET /a b", "GET /{}", "GET /***"),
    ],
)
def test_anything_else_is_no_pattern(text: str) -> None:
    with pytest.raises(ValueError, match=r"pattern|segment|method"):
        parse_pattern(text)


def test_parameters_are_found_with_and_without_converters() -> None:
    assert parameters_of("/{org}/tasks/{id:uuid}/{name}.{suffix:path}") == ("org", "id", "name", "suffix")


def test_every_mistake_of_a_table_is_told_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy(("GET tasks", public), ("GET /ok", public), "GET /x", ("GET /x", "public"), require("nothing", role="a"))  # type: ignore[arg-type]
    assert [line.split(":")[0] for line in caught.value.refusals] == [
        "table line 1",
        "table line 3",
        "table line 4",
        "table line 5",
    ]


def test_roles_are_lists_of_scopes() -> None:
    policy = Policy(roles={"editor": ["tasks:read", "tasks:write"], "reader": "tasks:read notes:read"})
    assert policy.roles == {
        "editor": frozenset({"tasks:read", "tasks:write"}),
        "reader": frozenset({"tasks:read", "notes:read"}),
    }


def test_what_is_no_list_of_scopes_is_told_with_the_other_mistakes() -> None:
    with pytest.raises(PolicyError) as caught:
        Policy("GET /x", roles={"editor": 5, "reader": [6], "writer": "tasks:write"})  # type: ignore[arg-type,dict-item,list-item]
    assert [line.split(" ")[1] for line in caught.value.refusals] == ["line", "'editor'", "'reader'"]


def test_a_policy_is_frozen() -> None:
    policy = Policy(("GET /x", allow(role="admin")))
    with pytest.raises(AttributeError):
        policy.extra = ()  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        policy.lines[0].rule.public = True  # type: ignore[misc]
