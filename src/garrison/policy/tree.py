"""The inventory compiled for matching: the framework's routers, walked in their order, without running any of them.

What is copied here from Starlette and FastAPI, and held by a property test against them: the first full match wins,
else the first partial one; a mount or host that matches is final; a router's redirect goes before what it tries last;
what a router sees is the path below its root path, which each mount makes longer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from garrison.policy.decide import Decision, Decisions
from garrison.policy.inventory import Branch, Kind, Route

Outcome = Literal["found", "method", "redirect", "missing", "bad_path"]


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


class Asked:
    """A request as routers see it: the whole path, of which each takes what its root path leaves."""

    __slots__ = ("host", "kind", "method", "path")

    def __init__(self, kind: Kind, method: str, path: str, host: str) -> None:
        self.kind = kind
        self.method = method
        self.path = path
        self.host = host

    def instead(self, path: str) -> "Asked":
        return Asked(self.kind, self.method, path, self.host)


class Tree:
    """A compiled branch: children filed under their literal first segment, in declaration order."""

    __slots__ = (
        "_any",
        "_by_segment",
        "_default",
        "_last",
        "_redirects",
        "converters",
        "is_host",
        "leads_somewhere",
        "regex",
    )

    def __init__(self, branch: Branch, decisions: Decisions, *, folded: bool, alone: bool = False) -> None:
        """`alone`: what is not decided is not there, as if the app had nothing else."""
        self.regex = _regex(branch.regex, folded)
        self.converters = branch.converters
        self.is_host = branch.is_host
        self._redirects = branch.redirects_slashes
        self._last = tuple(_Leaf(leaf, decisions, folded) for leaf in branch.last if leaf in decisions.by_route)
        default = branch.default
        self._default = (
            None if default is None or default not in decisions.by_route else _Leaf(default, decisions, folded)
        )
        nodes: list[tuple[str | None, Tree | _Leaf]] = []
        for child in branch.children:
            if isinstance(child, Branch):
                literal = None if child.is_host else _first_literal(child.template[len(branch.template) :], prefix=True)
                compiled = Tree(child, decisions, folded=folded, alone=alone)
                if compiled.leads_somewhere or not alone:
                    nodes.append((literal, compiled))
            elif child in decisions.by_route or (child.docs and not alone):
                literal = _first_literal(child.template[len(branch.template) :], prefix=child.opaque)
                nodes.append((literal, _Leaf(child, decisions, folded)))
        self.leads_somewhere: bool = bool(nodes or self._last or self._default)
        self._any = tuple(node for literal, node in nodes if literal is None or folded)
        segments = set() if folded else {literal for literal, _ in nodes if literal is not None}
        self._by_segment = {
            segment: tuple(node for literal, node in nodes if literal in (None, segment)) for segment in segments
        }

    def find(self, asked: Asked, root_path: str, params: Mapping[str, str], values: Mapping[str, Any]) -> Meaning:
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
                if again is not None:
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
        self, asked: Asked, root_path: str, params: Mapping[str, str], values: Mapping[str, Any]
    ) -> Meaning | None:
        partial: Meaning | None = None
        kind = asked.kind
        below = _below(asked.path, root_path)
        for node in self._by_segment.get(below[1:].partition("/")[0], self._any):
            if isinstance(node, _Leaf):
                if node.kind != kind and not node.opaque:
                    continue
                match = node.regex.match(below)
                if match is None:
                    continue
                if node.kind != kind:  # what is mounted takes web sockets, too; they stay closed
                    return Meaning("missing", asked.path)
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

    __slots__ = ("_absent", "_allow", "_any", "_by_method", "_claims", "converters", "kind", "opaque", "regex")

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
        self.opaque = route.opaque

    def meaning(self, asked: Asked, params: Mapping[str, str], values: Mapping[str, Any]) -> Meaning:
        if self._absent:
            return Meaning("missing", asked.path)
        decision = self._by_method.get(asked.method) or self._any
        if decision is None:
            return Meaning("method", asked.path, allow=self._allow)
        if self.opaque:  # the path below a mount is no parameter
            params = {name: text for name, text in params.items() if name != "path"}
            values = {name: value for name, value in values.items() if name != "path"}
        return Meaning("found", asked.path, decision, params, values)

    def is_claimed(self, method: str) -> bool:
        """Say whether the framework stops here with this method, whatever it then answers."""
        return self._claims is None or method in self._claims


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


def any_host(branch: Branch) -> bool:
    """Say whether routes depend on the host name."""
    return any(isinstance(child, Branch) and (child.is_host or any_host(child)) for child in branch.children)
