"""Choosing the route that the framework would, before it does (CWE-863).

Declaration order, the framework's own regular expressions and converters, hosts and mounts included. A static-first
tree would be faster and a bypass: FastAPI serves `/tasks/{id}`, declared first, for `/tasks/export`. What makes this
fast instead: nodes are filed under their literal first segment, in order, and what a request line was found to mean is
remembered (bounded; the meaning is a pure function of method and path).

Refused, besides what `paths.py` refuses: a path of which another reading (case, trailing slash, `;`, twice decoded)
would select another decision, since another program in the line may read it that way.
"""

import re

from garrison.policy.decide import Decision, Decisions
from garrison.policy.inventory import Branch, Kind
from garrison.policy.paths import BadPath, normal_path, variants
from garrison.policy.tree import Asked, Meaning, Tree, any_host

__all__ = ["Matcher", "Meaning"]

MOST_REMEMBERED = 4096
_LONGEST_REMEMBERED = 512
_PARAMETER = re.compile(r"\{[^}]*\}")


class Matcher:
    """Matches paths against an inventory with its decisions. Thread-safe: nothing but the memory changes."""

    __slots__ = ("_branch", "_folded", "_has_upper", "has_hosts", "remembered")

    def __init__(self, root: Branch, decisions: Decisions) -> None:
        self._branch = Tree(root, decisions, folded=False)
        self._folded = Tree(root, decisions, folded=True)
        self.has_hosts = any_host(root)
        literals = [_PARAMETER.sub("", route.template) for route in decisions.by_route]
        self._has_upper = any(literal != literal.lower() for literal in literals)
        self.remembered: dict[tuple[str, bytes | None, str], Meaning] = {}
        """(method, undecoded path, root path) → what such an HTTP request was found to mean."""

    def meaning(self, kind: Kind, method: str, raw: bytes, root_path: str, host: str) -> Meaning:
        """Return what the request line means. `raw` is the undecoded path, `host` lower case, without port.

        Costs one look-up when the same line was seen before, else a scan of the routes that share its first segment.
        """
        key = (method, raw, root_path)
        if kind == "http":
            known = self.remembered.get(key)
            if known is not None:
                return known
        meaning = self._judge(kind, method, raw, root_path, host)
        if kind == "http" and not self.has_hosts and len(method) + len(raw) <= _LONGEST_REMEMBERED:
            if len(self.remembered) >= MOST_REMEMBERED:
                self.remembered.clear()
            self.remembered[key] = meaning
        return meaning

    def find(self, kind: Kind, method: str, path: str, *, root_path: str = "", host: str = "") -> Meaning:
        """Return what a decoded path means, by itself: no look at its other readings."""
        return self._branch.find(Asked(kind, method, path, host), root_path, {}, {})

    def _judge(self, kind: Kind, method: str, raw: bytes, root_path: str, host: str) -> Meaning:
        try:
            path, has_encoded_slash = normal_path(raw)
        except BadPath:
            return Meaning("bad_path")
        found = self._branch.find(Asked(kind, method, path, host), root_path, {}, {})
        if found.outcome == "found" and found.decision is not None:
            rule = found.decision.rule
            if has_encoded_slash and not (rule is not None and rule.encoded_slash):
                return Meaning("bad_path", path)
            if self._reads_differently(Asked(kind, method, path, host), root_path, found.decision):
                return Meaning("bad_path", path)
        elif has_encoded_slash:
            return Meaning("bad_path", path)
        return found

    def _reads_differently(self, asked: Asked, root_path: str, decision: Decision) -> bool:
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


def _differs(other: Meaning, decision: Decision) -> bool:
    if other.outcome != "found" or other.decision is None:
        return False
    return other.decision.rule != decision.rule
