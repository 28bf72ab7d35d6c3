"""Choosing the route that the framework would, before it does (CWE-863).

Declaration order, the framework's own regular expressions and converters, hosts and mounts included. A static-first
tree would be faster and a bypass: FastAPI serves `/tasks/{id}`, declared first, for `/tasks/export`. What makes this
fast instead: nodes are filed under their literal first segment, in order, and what a request line was found to mean is
remembered (bounded; the meaning is a pure function of method and path).

Refused, besides what `paths.py` refuses: a path of which another reading (case, trailing slash, `;`, twice decoded)
would select another decision, since another program in the line may read it that way.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from garrison.policy.decide import Decision, Decisions
from garrison.policy.inventory import Branch, Kind, Route
from garrison.policy.paths import BadPath, normal_path, variants

Outcome = Literal["found", "method", "redirect", "missing", "bad_path"]
_MOST_REMEMBERED = 4096
_SAMPLES = {"int": "7", "float": "7.5", "uuid": "00000000-0000-4000-8000-000000000000", "path": "x~/x~"}
_SAMPLE = "x~"
_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*(?::([a-zA-Z_][a-zA-Z0-9_]*))?\}")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a request line means. `decision` stands for `found`; `allow` lists methods for `method`."""

    outcome: Outcome
    path: str = ""
    decision: Decision | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    allow: tuple[str, ...] = ()


class Matcher:
    """Matches paths against an inventory with its decisions. Thread-safe: nothing but the memory changes."""

    __slots__ = ("_branch", "_folded", "_has_hosts", "_has_upper", "_remembered")

    def __init__(self, root: Branch, decisions: Decisions) -> None:
        self._branch = _Branch(root, decisions, folded=False)
        self._folded = _Branch(root, decisions, folded=True)
        self._has_hosts = _any_host(root)
        literals = [_PARAMETER.sub("", route.template) for route in decisions.by_route]
        self._has_upper = any(literal != literal.lower() for literal in literals)
        self._remembered: dict[tuple[str, bytes, str], Meaning] = {}

    def meaning(self, kind: Kind, method: str, raw: bytes, root_path: str, host: str) -> Meaning:
        """Return what the request line means. `raw` is the undecoded path, `host` lower case, without port.

        Costs one look-up when the same line was seen before, else a scan of the routes that share its first segment.
        """
        key = (method, raw, root_path)
        if kind == "http":
            known = self._remembered.get(key)
            if known is not None:
                return known
        meaning = self._judge(kind, method, raw, root_path, host)
        if kind == "http" and not self._has_hosts:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = meaning
        return meaning

    def find(self, kind: Kind, method: str, path: str, host: str = "") -> Meaning:
        """Return what a decoded path means, by itself: no look at its other readings."""
        return self._branch.find(kind, method, path, host, {})

    def _judge(self, kind: Kind, method: str, raw: bytes, root_path: str, host: str) -> Meaning:
        try:
            whole, has_encoded_slash = normal_path(raw)
        except BadPath:
            return Meaning("bad_path")
        path = _below(whole, root_path)
        found = self._branch.find(kind, method, path, host, {})
        if found.outcome == "found" and found.decision is not None:
            rule = found.decision.rule
            if has_encoded_slash and not (rule is not None and rule.encoded_slash):
                return Meaning("bad_path", whole)
            if self._reads_differently(kind, method, path, host, found.decision):
                return Meaning("bad_path", whole)
        elif has_encoded_slash:
            return Meaning("bad_path", whole)
        return Meaning(found.outcome, whole, found.decision, found.params, found.allow)

    def _reads_differently(self, kind: Kind, method: str, path: str, host: str, decision: Decision) -> bool:
        others = variants(path)
        for other in others:
            if _differs(self._branch.find(kind, method, other, host, {}), decision):
                return True
        if self._has_upper or path != path.lower():
            for other in (path, *others):
                if _differs(self._folded.find(kind, method, other, host, {}), decision):
                    return True
        return False


def hidden_routes(root: Branch, decisions: Decisions) -> list[str]:
    """Return a sentence for every route that an earlier pattern hides, so that it would never run."""
    whole = _Branch(root, decisions, folded=False)
    if _any_host(root):  # which host a sample would come from is not ours to invent
        return []
    refusals = []
    for route, by_method in decisions.by_route.items():
        sample = sample_path(route.template)
        for method in by_method:
            asked = "PROPFIND" if method == "*" else method
            found = whole.find(route.kind, asked, sample, "", {})
            if found.outcome == "found" and found.decision is not None and found.decision.route is not route:
                refusals.append(
                    f"{method} {route.template} is never reached: {found.decision.label}, declared earlier, takes its "
                    "requests; declare the more specific one first, or remove one"
                )
    return refusals


def sample_path(template: str) -> str:
    """Return a path that the template matches, with values that are unlikely as literals."""

    def value(match: re.Match[str]) -> str:
        return _SAMPLES.get(match[1] or "", _SAMPLE)

    path = _PARAMETER.sub(value, template)
    if path.endswith("/**"):
        return path[:-2] + _SAMPLE
    return path


def routes_over(path: str, root: Branch) -> list[Route]:
    """Return the app's HTTP routes that would match this path, whatever the method; catch-alls stand aside."""
    found: list[Route] = []
    for node in root.children:
        if isinstance(node, Branch):
            match = None if node.is_host or node.regex is None else node.regex.match(path)
            if node.is_host or node.regex is None:
                found.extend(routes_over(path, node))
            elif match is not None:
                found.extend(routes_over("/" + match.groupdict().get("path", ""), node))
        elif node.kind == "http" and _is_narrow(node.template) and node.regex.match(path) is not None:
            found.append(node)
    return found


class _Branch:
    """A compiled branch: children filed under their literal first segment, in declaration order."""

    __slots__ = ("_any", "_by_segment", "_default", "_folded", "_redirects", "converters", "is_host", "regex")

    def __init__(self, branch: Branch, decisions: Decisions, *, folded: bool) -> None:
        self.regex = _regex(branch.regex, folded)
        self.converters = branch.converters
        self.is_host = branch.is_host
        self._folded = folded
        self._redirects = branch.redirects_slashes
        self._default = None if branch.default is None else _Leaf(branch.default, decisions.by_route, folded)
        nodes: list[tuple[str | None, _Branch | _Leaf]] = []
        for child in branch.children:
            if isinstance(child, Branch):
                literal = None if child.is_host else _first_literal(child.template[len(branch.template) :], prefix=True)
                nodes.append((literal, _Branch(child, decisions, folded=folded)))
            elif child in decisions.by_route:
                literal = _first_literal(child.template[len(branch.template) :], prefix=child.opaque)
                nodes.append((literal, _Leaf(child, decisions.by_route, folded)))
        self._any = tuple(node for literal, node in nodes if literal is None or folded)
        segments = {literal for literal, _ in nodes if literal is not None}
        self._by_segment = {
            segment: tuple(node for literal, node in nodes if literal in (None, segment)) for segment in segments
        }

    def find(self, kind: Kind, method: str, path: str, host: str, params: Mapping[str, str]) -> Meaning:
        """Return what `path`, which is what the branches above left, means here."""
        found = self._match(kind, method, path, host, params)
        if found is not None:
            return found
        if kind == "http" and self._redirects and path != "/":
            other = path.rstrip("/") if path.endswith("/") else path + "/"
            again = self._match(kind, method, other, host, params)
            if again is not None and again.outcome in ("found", "method"):
                decision = again.decision
                if decision is not None and decision.rule is not None and not decision.route.exclusive:
                    return Meaning("redirect", path, decision)
                return Meaning("missing", path)
        if self._default is not None:
            return self._default.meaning(method, path, params)
        return Meaning("missing", path)

    def _match(self, kind: Kind, method: str, path: str, host: str, params: Mapping[str, str]) -> Meaning | None:
        partial: Meaning | None = None
        segment = path[1:].partition("/")[0]
        for node in self._by_segment.get(segment, self._any) if not self._folded else self._any:
            if isinstance(node, _Leaf):
                if node.kind != kind:
                    continue
                match = node.regex.match(path)
                if match is None:
                    continue
                values = _converted(match, node.converters)
                if values is None:
                    return Meaning("missing", path)
                found = node.meaning(method, path, {**params, **values})
                if found.outcome == "found" or node.exclusive:
                    return found
                if partial is None:
                    partial = found
            else:
                match = node.regex.match(host if node.is_host else path)  # type: ignore[union-attr]
                if match is None:
                    continue
                values = _converted(match, node.converters)
                if values is None:
                    return Meaning("missing", path)
                rest = path if node.is_host else "/" + values.pop("path", "")
                return node.find(kind, method, rest, host, {**params, **values})
        return partial


class _Leaf:
    """A compiled route."""

    __slots__ = ("_allow", "_any", "_by_method", "converters", "exclusive", "kind", "regex")

    def __init__(self, route: Route, by_route: Mapping[Route, Mapping[str, Decision]], folded: bool) -> None:
        by_method = by_route.get(route, {})
        self.kind = route.kind
        self.exclusive = route.exclusive
        self.regex = _regex(route.regex, folded) or re.compile("(?!)")
        self.converters = route.converters
        self._by_method = dict(by_method)
        self._any = by_method.get("*") or by_method.get("WS")
        self._allow = tuple(sorted(by_method))

    def meaning(self, method: str, path: str, params: Mapping[str, str]) -> Meaning:
        decision = self._any or self._by_method.get(method)
        if decision is None:
            return Meaning("method", path, allow=self._allow)
        return Meaning("found", path, decision, params)


def _differs(other: Meaning, decision: Decision) -> bool:
    if other.outcome != "found" or other.decision is None:
        return False
    return other.decision.rule != decision.rule


def _converted(match: re.Match[str], converters: Mapping[str, object]) -> dict[str, str] | None:
    """Return the parameters as text, or None where the framework's own conversion would fail."""
    values = match.groupdict()
    for name, value in values.items():
        convert = converters.get(name)
        if convert is not None:
            try:
                convert(value)  # type: ignore[operator]
            except (ValueError, OverflowError):
                return None
    return values


def _below(path: str, root_path: str) -> str:
    """Return what is left of the path below the root path, as frameworks see it."""
    if not root_path or not path.startswith(root_path):
        return path
    if path == root_path:
        return ""
    return path[len(root_path) :] if path[len(root_path)] == "/" else path


def _first_literal(template: str, *, prefix: bool) -> str | None:
    """Return the first segment if the whole of it is literal; None files the node under every segment."""
    segment = template.removeprefix("/").partition("/")[0]
    if "{" in segment or "*" in segment or (prefix and not segment):
        return None
    return segment


def _regex(regex: re.Pattern[str] | None, folded: bool) -> re.Pattern[str] | None:
    if regex is None or not folded:
        return regex
    return re.compile(regex.pattern, regex.flags | re.IGNORECASE)


def _any_host(branch: Branch) -> bool:
    return any(isinstance(child, Branch) and (child.is_host or _any_host(child)) for child in branch.children)


def _is_narrow(template: str) -> bool:
    """Say whether a template is no catch-all: those match our paths by nature and stand aside."""
    return not template.endswith("/**") and not any(match[1] == "path" for match in _PARAMETER.finditer(template))
