"""From an app and a policy to compiled plans: inventory, decisions, refusals to start, one matcher for everything.

Our own paths come first in the matcher and take every method of theirs; a route of the app that matches one of them
is refused, catch-alls excepted. `garrison check` and `garrison routes` use this without opening anything.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from garrison.core.errors import PolicyError
from garrison.guard.endpoint import Endpoint
from garrison.policy.decide import Decision, Decisions, decide
from garrison.policy.inventory import Branch, Route
from garrison.policy.marks import place_of
from garrison.policy.overlap import hidden_routes, routes_over, unnarrowed
from garrison.policy.table import Policy
from garrison.serve.frameworks import Adapter

_PARAMETER = re.compile(r"\{([a-z_]+)\}")
NEVER_MOVED = "/.well-known/"


@dataclass(frozen=True, slots=True)
class Inspected:
    """An app as the policy sees it. `refusals` says all that is wrong, undecided routes not among it."""

    root: Branch
    decisions: Decisions
    refusals: tuple[str, ...]


def inspect_app(adapter: Adapter, policy: Policy, own_paths: Iterable[str], *, docs: bool) -> Inspected:
    """Take the inventory and decide it. Raises PolicyError only for an app that cannot be looked at."""
    root = adapter.inventory(policy)
    decisions = decide(root, policy, docs=docs)
    refusals = [*decisions.refusals]
    is_table = adapter.framework == "ASGI"  # there the lines are the routes, and are meant to overlap
    refusals.extend(hidden_routes(root, decisions, wholly=is_table))
    if is_table:
        refusals.extend(unnarrowed(root, decisions, policy))
    for path in own_paths:
        for route in routes_over(path, root):
            place = f" ({place_of(route.endpoint)})" if route.endpoint is not None else ""
            refusals.append(
                f"{route.template} of the app{place} matches {path}, which Garrison serves; move one (prefix=)"
            )
    return Inspected(root, decisions, tuple(dict.fromkeys(refusals)))


def undecided_refusals(decisions: Decisions) -> list[str]:
    """Return a sentence for each undecided route."""
    return [
        f"{decision.label} is undecided: mark it with @public or @allow(…), or add a line to the table "
        f"({decision.source})"
        for decision in decisions.undecided()
    ]


def refuse(inspected: Inspected, *, undecided_may_start: bool) -> None:
    """Raise PolicyError with everything that is wrong, if anything is."""
    refusals = list(inspected.refusals)
    if not undecided_may_start:
        refusals.extend(undecided_refusals(inspected.decisions))
    if refusals:
        raise PolicyError(*refusals)


def with_own(
    inspected: Inspected, endpoints: Iterable[Endpoint], prefix: str
) -> tuple[Branch, Decisions, dict[Decision, Endpoint]]:
    """Return the inventory and decisions with our own endpoints before the app's routes, and which are ours."""
    by_path: dict[str, list[Endpoint]] = {}
    for endpoint in endpoints:
        by_path.setdefault(own_path(endpoint.path, prefix), []).append(endpoint)
    decisions = Decisions()
    own: dict[Decision, Endpoint] = {}
    leaves: list[Route] = []
    for path, listed in by_path.items():
        by_method = {endpoint.method: endpoint for endpoint in listed}
        if "GET" in by_method:
            by_method["HEAD"] = by_method["GET"]
        pattern = _PARAMETER.sub(r"(?P<\1>[^/]+)", re.escape(path).replace(r"\{", "{").replace(r"\}", "}"))
        leaf = Route(path, "http", re.compile(pattern + r"\Z"), frozenset(by_method), claims=None, own=True)
        leaves.append(leaf)
        decisions.by_route[leaf] = {}
        for method, endpoint in by_method.items():
            decision = Decision(leaf, method, endpoint.rule, "Garrison")
            decisions.by_route[leaf][method] = decision
            own[decision] = endpoint
    decisions.by_route.update(inspected.decisions.by_route)
    root = inspected.root
    combined = replace(root, children=(*leaves, *root.children))
    return combined, decisions, own


def own_path(path: str, prefix: str) -> str:
    """Return where one of our paths is served."""
    return path if path.startswith(NEVER_MOVED) else prefix + path
