"""Routes that get in each other's way: one that an earlier pattern hides, one of the app's over a path of ours, and,
where the table's lines are the routes, a wider one that takes requests which a `require` line names.

Asked with sample paths. Only what every sample of a route shows is said, so that a route with a converter of the app's
own, for which there is no sample, is passed over: a refusal to start must be right.
"""

import re
from collections.abc import Iterator

from garrison.policy.decide import Decision, Decisions
from garrison.policy.inventory import WEBSOCKET_METHOD, Branch, Kind, Route
from garrison.policy.table import Policy
from garrison.policy.tree import Asked, Meaning, Tree, any_host

_SAMPLES = {
    "int": ("7",),
    "float": ("7.5",),
    "uuid": ("00000000-0000-4000-8000-000000000000",),
    "path": ("x~", "x~/x~", "x~/x~/x~"),
}
_SAMPLE = ("x~",)
_SAMPLE_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND")
_OWN_SAMPLES = ("x~", "7", "7.5", "00000000-0000-4000-8000-000000000000")
_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*(?::([a-zA-Z_][a-zA-Z0-9_]*))?\}")


def hidden_routes(root: Branch, decisions: Decisions, *, wholly: bool = False) -> list[str]:
    """Return a sentence for every route that an earlier pattern hides, so that it would never run.

    `wholly`: only where it hides all methods of the route. A HEAD that merely comes with a GET is not asked for.
    """
    if any_host(root):  # which host a sample would come from is not ours to invent
        return []
    whole = Tree(root, decisions, folded=False)
    order = {route: number for number, route in enumerate(decisions.by_route)}
    refusals: list[str] = []
    for route, by_method in decisions.by_route.items():
        alone = Tree(root, Decisions({route: by_method}), folded=False, alone=True)
        methods = [method for method in by_method if method != "HEAD" or "GET" not in by_method]
        hidden: list[str] = []
        for method in methods:
            asked = [
                Asked(route.kind, "PROPFIND" if method == "*" else method, path, "")
                for path in sample_paths(route.template)
            ]
            takers = {
                _taker(whole.find(one, "", {}, {}), root, one)
                for one in asked
                if alone.find(one, "", {}, {}).outcome == "found"
            }
            if len(takers) == 1 and None not in takers:
                taker = takers.pop()
                label, source = by_method[method].label, by_method[method].source
                if isinstance(taker, Branch):
                    hidden.append(_hidden(label, f"what is mounted at {taker.template or '/'}", source))
                elif taker is not None and taker.route is not route and order[taker.route] < order[route]:
                    hidden.append(_hidden(label, taker.label, f"{source}; {taker.source}"))
        if not wholly or len(hidden) == len(methods):
            refusals.extend(hidden)
    return refusals


def _hidden(label: str, taker: str, places: str) -> str:
    return (
        f"{label} is never reached: {taker}, declared earlier, takes its requests; declare the more specific one "
        f"first, or remove one ({places})"
    )


def _taker(found: Meaning, root: Branch, asked: "Asked") -> Decision | Branch | None:
    """Return what took a request: a decision, a mount with nothing for it, or None where that cannot be said."""
    if found.decision is not None:
        return found.decision
    for node in root.children:
        if isinstance(node, Branch) and node.regex is not None and node.regex.match(asked.path) is not None:
            return node
    return None


def sample_paths(template: str) -> tuple[str, ...]:
    """Return paths that the template matches, with values that are unlikely as literals."""
    most = max((len(_SAMPLES.get(match[1] or "", _SAMPLE)) for match in _PARAMETER.finditer(template)), default=1)
    below = _SAMPLES["path"]
    if template.endswith("/**"):
        most = max(most, len(below))

    def path(number: int) -> str:
        def value(match: re.Match[str]) -> str:
            samples = _SAMPLES.get(match[1] or "", _SAMPLE)
            return samples[number % len(samples)]

        found = _PARAMETER.sub(value, template)
        return found[:-2] + below[number % len(below)] if found.endswith("/**") else found

    return tuple(path(number) for number in range(most))


def unnarrowed(root: Branch, decisions: Decisions, policy: Policy) -> list[str]:
    """Return a sentence for every line that takes requests which a `require` line names, and is not narrowed by it."""
    whole = Tree(root, decisions, folded=False)
    refusals: dict[str, None] = {}
    for line in policy.requirements:
        pattern = line.pattern
        for method in sorted(pattern.methods or _SAMPLE_METHODS):
            kind: Kind = "websocket" if method == WEBSOCKET_METHOD else "http"
            for path in sample_paths("/" + "/".join(pattern.segments)):
                taker = whole.find(Asked(kind, method, path, ""), "", {}, {}).decision
                if taker is None or taker.rule is None or pattern.matches(taker.route, taker.method):
                    continue
                refusals[
                    f"{taker.label} takes requests that table line {line.number} ({pattern.text}) should narrow: put a "
                    "line for just those before it"
                ] = None
    return list(refusals)


def routes_over(template: str, root: Branch) -> list[Route]:
    """Return the app's HTTP routes that would match paths of a template of ours, whatever the method.

    Catch-alls stand aside: what has a parameter for its first segment and takes any number of segments.
    """
    found: dict[Route, None] = {}
    for sample in dict.fromkeys(_PARAMETER.sub(value, template) for value in _OWN_SAMPLES):
        found.update(dict.fromkeys(_over(sample, root)))
    return list(found)


def _over(path: str, branch: Branch) -> Iterator[Route]:
    for node in branch.children:
        if isinstance(node, Branch):
            match = None if node.is_host or node.regex is None else node.regex.match(path)
            if node.is_host or node.regex is None:
                yield from _over(path, node)
            elif match is not None:
                yield from _over("/" + match.groupdict().get("path", ""), node)
        elif node.kind == "http" and node.regex.match(path) is not None and not _is_catch_all(node.template):
            yield node


def _is_catch_all(template: str) -> bool:
    segment = template.removeprefix("/").partition("/")[0]
    takes_any = template.endswith("/**") or any(match[1] == "path" for match in _PARAMETER.finditer(template))
    return takes_any and ("{" in segment or "*" in segment)
