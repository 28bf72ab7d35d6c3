"""Who could ever pass: the roles and scopes that rules name, held against what an account can have.

An account has `member` and at most one role beside it (`set-role` replaces every other), and holds the scopes that the
policy gives to these two. A rule none of whose roles comes with all of its scopes therefore lets nobody in, whatever
anybody is set to: a sure mistake, though one that fails closed, so the app may start and `garrison check` finds it.

A role that the policy does not name is no sure mistake, since `set-role` gives any name: it is worth a note where the
policy says what its roles are, or where the name is nearly that of another. A misspelt scope of a rule without a role
cannot be told at all: `member` holds it.
"""

import difflib
from collections.abc import Iterable

from garrison.policy.decide import Decision, Decisions, scopes_by_role
from garrison.policy.rules import Rule
from garrison.policy.table import Policy

BUILT_IN = frozenset({"member", "admin"})


def unreachable(decisions: Decisions, policy: Policy) -> list[str]:
    """Return a sentence for each route that nobody can ever call, whatever their role."""
    held = scopes_by_role(policy, [rule for _, rule in _ruled(decisions)])
    found: list[str] = []
    for decision, rule in _ruled(decisions):
        lacking = {role: rule.scopes - held["member"] - held.get(role, frozenset()) for role in sorted(rule.roles)}
        if lacking and all(lacking.values()):
            what = ", ".join(f"{role} never has {' '.join(sorted(scopes))}" for role, scopes in lacking.items())
            found.append(f"{decision.label} lets nobody in: {what}; add it in Policy(roles=…) ({decision.source})")
    return found


def unknown_roles(decisions: Decisions, policy: Policy) -> list[str]:
    """Return a sentence for each role of a rule that looks as if another was meant."""
    known = BUILT_IN | policy.roles.keys()
    first: dict[str, Decision] = {}
    for decision, rule in _ruled(decisions):
        for role in sorted((rule.roles | rule.or_role) - known):
            first.setdefault(role, decision)
    found: list[str] = []
    for role, decision in first.items():
        near = difflib.get_close_matches(role, known, n=1)
        if near or policy.roles:
            hint = f"; did you mean {near[0]}?" if near else ""
            place = f"{decision.label}, {decision.source}"
            found.append(f"role {role} ({place}) is not in Policy(roles=…): only `set-role` gives it{hint}")
    return found


def _ruled(decisions: Decisions) -> Iterable[tuple[Decision, Rule]]:
    """Decided routes, a HEAD that comes with its GET left out."""
    for by_method in decisions.by_route.values():
        for method, decision in by_method.items():
            if decision.rule is not None and not (method == "HEAD" and "GET" in by_method):
                yield decision, decision.rule
