"""Which rules nobody can satisfy, and which roles look as if another was meant."""

from typing import Any

import pytest

from garrison import Policy, allow, public, require
from garrison.policy.decide import decide
from garrison.policy.holders import unknown_roles, unreachable
from garrison.policy.rules import Requirement, Rule
from garrison.serve.frameworks import adapter_for

Roles = dict[str, str]


async def _nothing(scope: Any, receive: Any, send: Any) -> None: ...


def found(rule: Rule, roles: Roles, *more: Requirement) -> tuple[int, int]:
    """Return how many routes let nobody in and how many roles are unknown, beside a route that is open to members."""
    policy = Policy(("POST /x", rule), ("GET /open", allow(scope="open")), *more, roles=roles)
    decisions = decide(adapter_for(_nothing).inventory(policy), policy, docs=False)
    assert decisions.refusals == []
    return len(unreachable(decisions, policy)), len(unknown_roles(decisions, policy))


@pytest.mark.parametrize(
    ("rule", "roles", "closed"),
    [
        (public, {}, 0),
        (allow(scope="a"), {}, 0),  # every member holds it
        (allow(role="admin"), {}, 0),
        (allow(role="admin", scope="a"), {}, 1),
        (allow(role="admin", scope="open"), {}, 0),  # a scope of `member` comes with any role
        (allow(role="admin", scope="a"), {"admin": "a"}, 0),
        (allow(role="admin", scope="a"), {"member": "a"}, 0),
        (allow(role="admin", scope="a b"), {"admin": "a", "editor": "b"}, 1),  # nobody has both roles
        (allow(role="admin editor", scope="a b"), {"admin": "a", "editor": "a b"}, 0),
    ],
)
def test_a_rule_lets_somebody_in_where_one_role_comes_with_all_its_scopes(
    rule: Rule, roles: Roles, closed: int
) -> None:
    assert found(rule, roles)[0] == closed


def test_what_a_require_line_narrows_counts_too() -> None:
    assert found(allow(role="admin"), {}, require("POST /x", scope="a"))[0] == 1


@pytest.mark.parametrize(
    ("role", "roles", "noted"),
    [
        ("admin", {}, 0),
        ("support", {}, 0),  # set-role gives any name, and nothing says what the roles are
        ("admn", {}, 1),
        ("support", {"editor": "a"}, 1),
        ("editor", {"editor": "a"}, 0),
    ],
)
def test_a_role_is_noted_where_another_may_have_been_meant(role: str, roles: Roles, noted: int) -> None:
    assert found(allow(role=role), roles)[1] == noted
