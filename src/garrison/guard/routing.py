"""Layer 6: which route is meant, and what was decided about it.

The last layer before the plan of the route. What matches no route exactly is 404, a wrong method 405, a path that is
not in its normal form 400; a slash redirect to a decided route is left to the framework, without letting any endpoint
run. A route that appeared after start is undecided: 401, or 403 when signed in, and an event.
"""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from garrison.guard.layer import BeforeLayer
from garrison.guard.plan import Plan
from garrison.policy.decide import Decision
from garrison.policy.match import MOST_REMEMBERED, Matcher
from garrison.wire.answer import Answer, Scope
from garrison.wire.call import Call
from garrison.wire.problem import problem


def routing_layer(
    matcher: Matcher,
    *,
    root_path: Callable[[Scope], str],
    has_late: Callable[[Scope], bool],
    late: Decision,
    redirect: Plan,
) -> BeforeLayer:
    """Return the layer that sets `call.path`, `call.route`, `call.plan`, `call.params` and `call.values`."""
    meaning_of, has_hosts, remembered = matcher.meaning, matcher.has_hosts, matcher.remembered
    usual: dict[
        tuple[str, str, bytes | None, str, str], tuple[str, Any, Any, Mapping[str, str], Mapping[str, Any]]
    ] = {}
    """Of what the matcher remembers, what was found, as the call takes it; under all that this layer reads."""

    def route(call: Call) -> Answer | None:
        scope = call.scope
        raw, root, kind = scope.get("raw_path"), root_path(scope), call.kind
        key = (kind, call.method, raw, root, scope["path"])
        known = usual.get(key)
        if known is not None:
            call.path, call.route, call.plan, call.params, call.values = known
            return None
        if raw is None:
            raw = quote(scope["path"], safe="/!$&'()*+,;=:@~").encode()
        elif b"?" in raw:  # servers disagree on whether the query is part of it
            raw = raw.partition(b"?")[0]
        host = _host(call) if has_hosts else call.host
        meaning = meaning_of(kind, call.method if kind == "http" else "WS", raw, root, host)
        path = meaning.path
        if meaning.outcome == "found" and path == scope["path"]:
            decision = meaning.decision
            known = (path, decision, decision.plan, meaning.params, meaning.values)  # type: ignore[union-attr]
            call.path, call.route, call.plan, call.params, call.values = known
            if remembered.get((call.method, raw, root)) is meaning and key[2] in (None, raw):
                if len(usual) >= MOST_REMEMBERED:
                    usual.clear()
                usual[key] = known
            return None
        outcome = meaning.outcome
        if outcome == "bad_path" or (path != scope["path"] and outcome != "missing"):
            return problem("bad_path", call.request_id)
        call.path = path
        if outcome == "redirect":
            call.plan = redirect
            return None
        if has_late(scope):
            call.route, call.plan = late, late.plan
            return None
        if outcome == "method":
            allow = ", ".join(meaning.allow).encode()
            return problem("method_not_allowed", call.request_id, headers=((b"allow", allow),))
        return problem("not_found", call.request_id)

    return route


def _host(call: Call) -> str:
    """Return the host that frameworks route by: lower case, no port, but a trailing dot, which `call.host` lost."""
    host = call.header(b"host").decode("latin-1").lower()
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]
