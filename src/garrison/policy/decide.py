"""Every route gets exactly one decision, or the app does not start (OWASP API5, CWE-862; ASVS 5.0 V8.1).

Two spellings meet here: marks that decorators left on endpoints, and lines of the table. Both for one route are two
decisions; none is an undecided route. Whatever is wrong is collected and told at once, naming route and reason.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from garrison.core.errors import PolicyError
from garrison.policy.inventory import Branch, Route, routes_of
from garrison.policy.marks import find_marks, place_of
from garrison.policy.owner import owner_converters
from garrison.policy.rules import Rule, public
from garrison.policy.table import Line, Policy, parameters_of, segments_of


@dataclass(slots=True, eq=False)
class Decision:
    """What was decided of one method of one route. `rule` None: nothing was. `plan` is the guard's, compiled later."""

    route: Route
    method: str
    rule: Rule | None
    source: str
    """Where the decision stands: `decorator at app.py:12`, `table line 3`, `framework documentation` …"""
    label: str = ""
    plan: Any = None

    def __post_init__(self) -> None:
        self.label = f"{self.method} {self.route.template}"


@dataclass(slots=True)
class Decisions:
    """All of them, and what is wrong with them."""

    by_route: dict[Route, dict[str, Decision]] = field(default_factory=dict)
    refusals: list[str] = field(default_factory=list)

    def all(self) -> list[Decision]:
        """Return every decision in the order in which routes are tried."""
        return [decision for found in self.by_route.values() for decision in found.values()]

    def undecided(self) -> list[Decision]:
        """Return those that nothing was decided about."""
        return [decision for decision in self.all() if decision.rule is None]


def decide(root: Branch, policy: Policy, *, docs: bool) -> Decisions:
    """Decide every route of the inventory. `docs`: the framework's own documentation is public; else it is left out."""
    result = Decisions()
    used: set[int] = set()
    routes = routes_of(root)
    opaque = frozenset(segments_of(route.template) for route in routes if route.opaque)
    for route in routes:
        found: dict[str, Decision] = {}
        for method in _methods(route, policy):
            rule, source = _decide_one(route, method, policy, opaque, used, result.refusals)
            if rule is None and route.docs:
                if not docs:
                    continue
                rule, source = public, "framework documentation, public in development"
            if rule is not None:
                label = f"{method} {route.template} ({source})"
                rule = _narrowed(route, method, label, rule, policy, used, result.refusals)
                _check_owner(route, label, rule, result.refusals)
            found[method] = Decision(route, method, rule, source)
        if found:
            result.by_route[route] = found
    result.refusals.extend(
        f"table line {line.number} ({line.pattern.text}) decides nothing: {_left(line, result)}"
        for line in policy.lines
        if line.number not in used
    )
    result.refusals.extend(
        f"table line {line.number} ({line.pattern.text}) narrows nothing: no decided route matches it"
        for line in policy.requirements
        if line.number not in used
    )
    return result


def _left(line: Line, result: Decisions) -> str:
    """Say why nothing is left for a line: what it matches is decided elsewhere, or is not there."""
    others = {one.source: None for one in result.all() if line.pattern.matches(one.route, one.method)}
    return f"what it matches is decided by {' and by '.join(others)}" if others else "no route matches it"


def scopes_by_role(policy: Policy, rules: Iterable[Rule]) -> dict[str, frozenset[str]]:
    """Return role → scopes. `member` holds every scope that a rule without a role names, and what it is given."""
    open_to_members = frozenset(scope for rule in rules if not rule.roles for scope in rule.scopes)
    found = dict(policy.roles)
    found["member"] = found.get("member", frozenset()) | open_to_members
    return found


def _methods(route: Route, policy: Policy) -> Sequence[str]:
    """A route that takes any method has a decision for each that a line names, and for the rest of them (`*`).

    The rest is left out, and so answered with 405, where lines decide some methods and none decides all; a route that
    nothing decides is one undecided route.
    """
    if route.kind == "websocket" or route.methods is not None:
        return route.listed_methods()
    decided: set[str] = {"*"} if find_marks(route.endpoint) else set()
    for line in policy.lines:
        decided |= line.pattern.methods_of(route)
    if not decided:
        return ("*",)
    if "*" in decided:  # where a method is narrowed, it needs a decision of its own
        for requirement in policy.requirements:
            decided |= requirement.pattern.methods_of(route)
    return sorted(decided)


def _decide_one(
    route: Route,
    method: str,
    policy: Policy,
    opaque: frozenset[tuple[str, ...]],
    used: set[int],
    refusals: list[str],
) -> tuple[Rule | None, str]:
    """`opaque`: templates of what cannot be marked. A line for exactly one of them (a front end at `/**`) is meant for
    it, and is no second decision about the marked routes that it happens to match, too."""
    label = f"{method} {route.template}"
    marks = find_marks(route.endpoint) if route.endpoint is not None else []
    handler = route.handlers.get(method)
    if handler is not None:
        marks = marks + [mark for mark in find_marks(handler) if mark not in marks]
    if len(marks) > 1:
        places = " and ".join(place for _, place in marks)
        refusals.append(f"{label} is decided twice, at {places}: one decorator is enough")
    first: Line | None = None
    for line in policy.lines:
        if line.pattern.matches(route, method) and not (marks and line.pattern.segments in opaque):
            first = line
            used.add(line.number)
            break
    if marks and first is not None:
        refusals.append(
            f"{label} is decided twice, by the decorator at {marks[0][1]} and by table line {first.number} "
            f"({first.pattern.text}): keep one"
        )
    if marks:
        return marks[0][0], f"decorator at {marks[0][1]}"
    if first is not None:
        return first.rule, f"table line {first.number}: {first.pattern.text}"
    where = place_of(route.endpoint) if route.endpoint is not None else ""
    return None, f"nothing decides it ({where})" if where else "nothing decides it"


def _narrowed(
    route: Route, method: str, label: str, rule: Rule, policy: Policy, used: set[int], refusals: list[str]
) -> Rule:
    for line in policy.requirements:
        if line.pattern.matches(route, method):
            used.add(line.number)
            try:
                rule = rule.narrowed(line.rule)
            except PolicyError as error:
                refusals.append(f"{label}: require on table line {line.number} ({line.pattern.text}): {error}")
    return rule


def _check_owner(route: Route, label: str, rule: Rule, refusals: list[str]) -> None:
    if rule.owner is None:
        return
    name = getattr(rule.owner, "__qualname__", "owner")
    try:
        wanted = owner_converters(rule.owner)
    except TypeError as error:
        refusals.append(f"{label}: {error}")
        return
    missing = [parameter for parameter in wanted if parameter not in parameters_of(route.template)]
    if missing:
        refusals.append(f"{label}: owner={name} takes {', '.join(missing)}, which the path does not have")
    if not wanted:
        refusals.append(f"{label}: owner={name} takes no path parameter, so it cannot know whose object is meant")
