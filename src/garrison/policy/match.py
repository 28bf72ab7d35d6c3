"""Choosing the route that the framework would, before it does (CWE-863).

Declaration order, the framework's own regular expressions and converters, hosts and mounts included. A static-first
tree would be faster and a bypass: FastAPI serves `/tasks/{id}`, declared first, for `/tasks/export`. What makes this
fast instead: nodes are filed under their literal first segment, in order, and what a request line was found to mean is
remembered (bounded; the meaning is a pure function of method and path).

Refused, besides what `paths.py` refuses: a path of which another reading (case, trailing slash, `;`, twice decoded)
would select another decision, since another program in the line may read it that way.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from garrison.policy.decide import Decision, Decisions
from garrison.policy.inventory import Branch, Kind, Route
from garrison.policy.paths import BadPath, normal_path, variants

Outcome = Literal["found", "method", "redirect", "missing", "bad_path"]
_MOST_REMEMBERED = 4096
_LONGEST_REMEMBERED = 512
_SAMPLES = {
    "int": ("7",),
    "float": ("7.5",),
    "uuid": ("00000000-0000-4000-8000-000000000000",),
    "path": ("x~", "x~/x~", "x~/x~/x~"),
}
_SAMPLE = ("x~",)
_OWN_SAMPLES = ("x~", "7", "7.5", "00000000-0000-4000-8000-000000000000")
_PARAMETER = re.compile(r"\{[A-Za-z_][A-Za-z0-9_]*(?::([a-zA-Z_][a-zA-Z0-9_]*))?\}")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a request line means. `decision` stands for `found`; `allow` lists methods for `method`."""

    outcome: Outcome
    path: str = ""
    decision: Decision | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    """Path parameters as text."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """The same as the framework's converters make them; those left out that are not equal to themselves."""
    allow: tuple[str, ...] = ()


class Matcher:
    """Matches paths against an inventory with its decisions. Thread-safe: nothing but the memory changes."""

    __slots__ = ("_branch", "_folded", "_has_upper", "_remembered", "has_hosts")

    def __init__(self, root: Branch, decisions: Decisions) -> None:
        self._branch = _Branch(root, decisions, folded=False)
        self._folded = _Branch(root, decisions, folded=True)
        self.has_hosts = _any_host(root)
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
        if kind == "http" and not self.has_hosts and len(raw) <= _LONGEST_REMEMBERED:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[key] = meaning
        return meaning

    def find(self, kind: Kind, method: str, path: str, *, root_path: str = "", host: str = "") -> Meaning:
        """Return what a decoded path means, by itself: no look at its other readings."""
        return self._branch.find(_Asked(kind, method, path, host), root_path, {}, {})

    def _judge(self, kind: Kind, method: str, raw: bytes, root_path: str, host: str) -> Meaning:
        try:
            path, has_encoded_slash = normal_path(raw)
        except BadPath:
            return Meaning("bad_path")
        found = self._branch.find(_Asked(kind, method, path, host), root_path, {}, {})
        if found.outcome == "found" and found.decision is not None:
            rule = found.decision.rule
            if has_encoded_slash and not (rule is not None and rule.encoded_slash):
                return Meaning("bad_path", path)
            if self._reads_differently(_Asked(kind, method, path, host), root_path, found.decision):
                return Meaning("bad_path", path)
        elif has_encoded_slash:
            return Meaning("bad_path", path)
        return found

    def _reads_differently(self, asked: "_Asked", root_path: str, decision: Decision) -> bool:
        path = asked.path
        others = variants(path)
        for other in others:
            if _differs(self._branch.find(asked.instead(other), root_path, {}, {}), decision):
                return True
        if self._has_upper or path != path.lower() or not path.isascii():
            for other in (path, *others):
                if _differs(self._folded.find(asked.instead(other), root_path, {}, {}), decision):
                    return True
        return False


# What is wrong with a table of routes


def hidden_routes(root: Branch, decisions: Decisions) -> list[str]:
    """Return a sentence for every route that an earlier pattern hides, so that it would never run.

    Asked with sample paths: only what every sample of a route shows is said, so a route with a converter of the app's
    own, for which there is no sample, is passed over.
    """
    if _any_host(root):  # which host a sample would come from is not ours to invent
        return []
    whole = _Branch(root, decisions, folded=False)
    order = {route: number for number, route in enumerate(decisions.by_route)}
    refusals: list[str] = []
    for route, by_method in decisions.by_route.items():
        alone = _Branch(root, Decisions({route: by_method}), folded=False, docs=False)
        for method in by_method:
            asked = [
                _Asked(route.kind, "PROPFIND" if method == "*" else method, path, "")
                for path in sample_paths(route.template)
            ]
            takers = {
                _taker(whole.find(one, "", {}, {}), root, one)
                for one in asked
                if alone.find(one, "", {}, {}).outcome == "found"
            }
            if len(takers) == 1 and None not in takers:
                taker = takers.pop()
                if isinstance(taker, Branch):
                    refusals.append(
                        _hidden(f"{method} {route.template}", f"what is mounted at {taker.template or '/'}")
                    )
                elif taker is not None and taker.route is not route and order[taker.route] < order[route]:
                    refusals.append(_hidden(f"{method} {route.template}", taker.label))
    return refusals


def _hidden(label: str, taker: str) -> str:
    return (
        f"{label} is never reached: {taker}, declared earlier, takes its requests; declare the more specific one "
        "first, or remove one"
    )


def _taker(found: Meaning, root: Branch, asked: "_Asked") -> Decision | Branch | None:
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

    def path(number: int) -> str:
        def value(match: re.Match[str]) -> str:
            samples = _SAMPLES.get(match[1] or "", _SAMPLE)
            return samples[number % len(samples)]

        found = _PARAMETER.sub(value, template)
        return found[:-2] + _SAMPLE[0] if found.endswith("/**") else found

    return tuple(path(number) for number in range(most))


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


# The compiled tree


class _Asked:
    """A request as routers see it: the whole path, of which each takes what its root path leaves."""

    __slots__ = ("host", "kind", "method", "path")

    def __init__(self, kind: Kind, method: str, path: str, host: str) -> None:
        self.kind = kind
        self.method = method
        self.path = path
        self.host = host

    def instead(self, path: str) -> "_Asked":
        return _Asked(self.kind, self.method, path, self.host)


class _Branch:
    """A compiled branch: children filed under their literal first segment, in declaration order."""

    __slots__ = ("_any", "_by_segment", "_default", "_last", "_redirects", "converters", "is_host", "regex")

    def __init__(self, branch: Branch, decisions: Decisions, *, folded: bool, docs: bool = True) -> None:
        self.regex = _regex(branch.regex, folded)
        self.converters = branch.converters
        self.is_host = branch.is_host
        self._redirects = branch.redirects_slashes
        self._last = tuple(_Leaf(leaf, decisions, folded) for leaf in branch.last if leaf in decisions.by_route)
        default = branch.default
        self._default = (
            None if default is None or default not in decisions.by_route else _Leaf(default, decisions, folded)
        )
        nodes: list[tuple[str | None, _Branch | _Leaf]] = []
        for child in branch.children:
            if isinstance(child, Branch):
                literal = None if child.is_host else _first_literal(child.template[len(branch.template) :], prefix=True)
                nodes.append((literal, _Branch(child, decisions, folded=folded, docs=docs)))
            elif child in decisions.by_route or (child.docs and docs):
                literal = _first_literal(child.template[len(branch.template) :], prefix=child.opaque)
                nodes.append((literal, _Leaf(child, decisions, folded)))
        self._any = tuple(node for literal, node in nodes if literal is None or folded)
        segments = set() if folded else {literal for literal, _ in nodes if literal is not None}
        self._by_segment = {
            segment: tuple(node for literal, node in nodes if literal in (None, segment)) for segment in segments
        }

    def find(self, asked: _Asked, root_path: str, params: Mapping[str, str], values: Mapping[str, Any]) -> Meaning:
        """Return what the request means here, below `root_path`, with what the branches above found."""
        found = self._match(asked, root_path, params, values)
        if found is not None:
            return found
        path = asked.path
        if asked.kind == "http":
            below = _below(path, root_path)
            if self._redirects and below != "/":
                other = path.rstrip("/") if below.endswith("/") else path + "/"
                again = self._match(asked.instead(other), root_path, params, values)
                if again is not None and again.outcome in ("found", "method"):
                    decision = again.decision
                    if decision is not None and decision.rule is not None and not decision.route.own:
                        return Meaning("redirect", path, decision)
                    return Meaning("missing", path)
            partial: Meaning | None = None
            for leaf in self._last:
                if leaf.regex.match(below) is not None:
                    found = leaf.meaning(asked, params, values)
                    if found.outcome == "found":
                        return found
                    partial = partial or found
            if partial is not None:
                return partial
            if self._default is not None:
                return self._default.meaning(asked, params, values)
        return Meaning("missing", path)

    def _match(
        self, asked: _Asked, root_path: str, params: Mapping[str, str], values: Mapping[str, Any]
    ) -> Meaning | None:
        partial: Meaning | None = None
        kind = asked.kind
        below = _below(asked.path, root_path)
        for node in self._by_segment.get(below[1:].partition("/")[0], self._any):
            if isinstance(node, _Leaf):
                if node.kind != kind:
                    continue
                match = node.regex.match(below)
                if match is None:
                    continue
                converted = _converted(match, node.converters)
                if converted is None:
                    return Meaning("missing", asked.path)
                found = node.meaning(asked, {**params, **converted[0]}, {**values, **converted[1]})
                if found.outcome == "found" or node.is_claimed(asked.method):
                    return found
                if partial is None:
                    partial = found
            else:
                match = node.regex.match(asked.host if node.is_host else below)  # type: ignore[union-attr]
                if match is None:
                    continue
                converted = _converted(match, node.converters)
                if converted is None:
                    return Meaning("missing", asked.path)
                texts, made = converted
                if not node.is_host:
                    rest = "/" + texts.pop("path", "")
                    made.pop("path", None)
                    root_path += below[: -len(rest)]
                return node.find(asked, root_path, {**params, **texts}, {**values, **made})
        return partial


class _Leaf:
    """A compiled route."""

    __slots__ = ("_absent", "_allow", "_any", "_by_method", "_claims", "_opaque", "converters", "kind", "regex")

    def __init__(self, route: Route, decisions: Decisions, folded: bool) -> None:
        by_method = decisions.by_route.get(route, {})
        self.kind = route.kind
        self.regex = _regex(route.regex, folded) or re.compile("(?!)")
        self.converters = route.converters
        self._absent = not by_method  # documentation in production: the framework would, the guard will not
        self._by_method = dict(by_method)
        self._any = by_method.get("*") or by_method.get("WS")
        self._allow = tuple(sorted(by_method))
        self._claims = None if route.claims is None else route.claims | (route.methods or frozenset())
        self._opaque = route.opaque

    def meaning(self, asked: _Asked, params: Mapping[str, str], values: Mapping[str, Any]) -> Meaning:
        if self._absent:
            return Meaning("missing", asked.path)
        decision = self._by_method.get(asked.method) or self._any
        if decision is None:
            return Meaning("method", asked.path, allow=self._allow)
        if self._opaque:  # the path below a mount is no parameter
            params = {name: text for name, text in params.items() if name != "path"}
            values = {name: value for name, value in values.items() if name != "path"}
        return Meaning("found", asked.path, decision, params, values)

    def is_claimed(self, method: str) -> bool:
        """Say whether the framework stops here with this method, whatever it then answers."""
        return self._claims is None or method in self._claims


def _differs(other: Meaning, decision: Decision) -> bool:
    if other.outcome != "found" or other.decision is None:
        return False
    return other.decision.rule != decision.rule


def _converted(match: re.Match[str], converters: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, Any]] | None:
    """Return the parameters as text and converted, or None where the framework's own conversion would fail."""
    texts = match.groupdict()
    values: dict[str, Any] = {}
    for name, text in texts.items():
        convert = converters.get(name)
        if convert is None:
            continue
        try:
            value = convert(text)
            if value == convert(text):  # else the second lock could not tell it from another
                values[name] = value
        except Exception:  # converters are the app's code: whatever they raise, no endpoint would run
            return None
    return texts, values


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
