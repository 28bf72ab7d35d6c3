"""The table: rules for many routes in one place.

    Policy(
        ("GET /test", public),
        ("GET|POST /tasks", allow(scope="tasks:read")),
        ("* /tasks/{id}", allow(owner=task_owner)),
        ("* /reports/**", allow(role="admin")),
        require("* /reports/**", factor_age="10 minutes"),
        roles={"editor": ["tasks:read", "tasks:write"]},
    )

The first line that matches a route decides; a line that decides nothing is refused at start. `require` lines decide
nothing and only narrow. Patterns: methods separated by `|`, `*` for any, `WS` for web sockets; then a path whose
segments are literal, `{name}` for one path parameter of any name, `*` for any one segment, and `**` at the end for any
number, none included. A route's own template, as the framework writes it (`/files/{name}.{suffix}`, `{id:int}`), is a
pattern, too. A line for GET covers the HEAD that comes with it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from garrison.core.errors import PolicyError
from garrison.policy.inventory import WEBSOCKET_METHOD, Route
from garrison.policy.rules import Requirement, Rule, Words

_METHOD = re.compile(r"[A-Z]{1,20}", re.ASCII)
_SEGMENT = re.compile(r"\*|\*\*|(?:\{[A-Za-z_][A-Za-z0-9_]*(?::[a-z_A-Z0-9]+)?\}|[^{}*/\s])*")
_PARAMETER = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::[a-z_A-Z0-9]+)?\}")


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern, taken apart. `methods` is None for `*`."""

    text: str
    methods: frozenset[str] | None
    segments: tuple[str, ...]

    def matches(self, route: Route, method: str) -> bool:
        """Say whether this method of the route is meant; `*`, the rest of a route that takes any, only by `*`."""
        return self._means_method(route, method) and self._means_path(route.template)

    def methods_of(self, route: Route) -> frozenset[str]:
        """Return the methods that this pattern names of an HTTP route that takes any, `*` for the rest of them."""
        if not self._means_path(route.template):
            return frozenset()
        if self.methods is None:
            return frozenset({"*"})
        named = self.methods - {WEBSOCKET_METHOD}
        return named | {"HEAD"} if "GET" in named else named

    def _means_method(self, route: Route, method: str) -> bool:
        if self.methods is None or method in self.methods:
            return True
        if method == "HEAD" and (route.methods is None or "GET" in route.methods):
            return "GET" in self.methods
        return False

    def _means_path(self, template: str) -> bool:
        given = segments_of(template)
        wanted = self.segments
        if wanted[-1] == "**":
            wanted = wanted[:-1]
            if given[len(wanted) :] == ("",):  # `/reports/**` means `/reports/` too
                given = given[:-1]
            if len(given) < len(wanted):
                return False
            given = given[: len(wanted)]
        return len(given) == len(wanted) and all(map(_means_segment, wanted, given))


def _means_segment(wanted: str, given: str) -> bool:
    if wanted == "*" or wanted == given:
        return True
    parameter = _PARAMETER.fullmatch(wanted)
    return parameter is not None and ":" not in wanted and _PARAMETER.fullmatch(given) is not None


def segments_of(template: str) -> tuple[str, ...]:
    """Return the segments of a path template: `/tasks/{id}` → `("tasks", "{id}")`."""
    return tuple(template.removeprefix("/").split("/"))


def parameters_of(template: str) -> tuple[str, ...]:
    """Return the names of the path parameters of a template."""
    return tuple(match[1] for match in _PARAMETER.finditer(template))


def parse_pattern(text: str) -> Pattern:
    """Return the pattern. Raises ValueError that says what is wrong."""
    methods_text, _, path = text.strip().partition(" ")
    path = path.strip()
    if not path.startswith("/"):
        raise ValueError(f"{text!r} is not a pattern: write methods and a path, for example 'GET|POST /tasks/{{id}}'")
    methods = None if methods_text == "*" else frozenset(methods_text.split("|"))
    if methods is not None and any(_METHOD.fullmatch(method) is None for method in methods):
        raise ValueError(f"{text!r}: methods are upper case, separated by |, or *")
    segments = segments_of(path)
    if any(_SEGMENT.fullmatch(segment) is None for segment in segments) or "**" in segments[:-1]:
        raise ValueError(f"{text!r}: a segment is literal, {{name}} or *, and ** stands at the end only")
    return Pattern(text, methods, segments)


@dataclass(frozen=True, slots=True)
class Line:
    """One line that decides. `number` counts from 1."""

    number: int
    pattern: Pattern
    rule: Rule


@dataclass(frozen=True, slots=True)
class RequireLine:
    """One line that narrows."""

    number: int
    pattern: Pattern
    rule: Rule


class Policy:
    """A table of lines and what roles mean. Frozen once made. Raises PolicyError with every mistake in it."""

    __slots__ = ("lines", "requirements", "roles")

    def __init__(self, *lines: tuple[str, Rule] | Requirement, roles: Mapping[str, Words] | None = None) -> None:
        refusals: list[str] = []
        decided: list[Line] = []
        narrowed: list[RequireLine] = []
        for number, line in enumerate(lines, 1):
            try:
                if isinstance(line, Requirement):
                    narrowed.append(RequireLine(number, parse_pattern(line.pattern), line.rule))
                elif (
                    isinstance(line, tuple)
                    and len(line) == 2
                    and isinstance(line[0], str)
                    and isinstance(line[1], Rule)
                ):
                    decided.append(Line(number, parse_pattern(line[0]), line[1]))
                else:
                    raise ValueError("a line is a pair of pattern and rule, or require(…)")
            except ValueError as error:
                refusals.append(f"table line {number}: {error}")
        found: dict[str, frozenset[str]] = {}
        for role, scopes in (roles or {}).items():
            try:
                found[role] = frozenset(_words(scopes))
            except (TypeError, AttributeError):
                refusals.append(f"roles: {role!r} is given scopes, as text or as a list of texts")
        if refusals:
            raise PolicyError(*refusals)
        self.lines = tuple(decided)
        self.requirements = tuple(narrowed)
        self.roles: Mapping[str, frozenset[str]] = found


def _words(scopes: Words) -> Iterable[str]:
    return scopes.split() if isinstance(scopes, str) else [word for text in scopes for word in text.split()]
