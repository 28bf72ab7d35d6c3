"""A mark counts on the very function that was marked, wherever that is what runs; a copy of it counts nowhere else."""

import functools
import re
from collections.abc import Callable
from typing import Any

import pytest

from garrison import PolicyError, allow, public, require
from garrison.policy.marks import find_marks
from garrison.policy.rules import MARK, Rule


def rules(endpoint: object) -> list[Rule]:
    return [rule for rule, _ in find_marks(endpoint)]


def marked() -> Callable[..., Any]:
    @public
    def handler() -> None: ...

    return handler


def test_a_function_keeps_its_mark_and_where_it_stands() -> None:
    ((rule, place),) = find_marks(marked())
    assert rule is public
    assert "test_marks.py:" in place


def test_an_unmarked_function_has_none() -> None:
    assert rules(lambda: None) == []


def test_a_copied_mark_does_not_count() -> None:
    def other() -> None: ...

    vars(other).update(vars(marked()))
    assert MARK in vars(other)
    assert rules(other) == []


def test_a_copy_counts_along_wrapped_and_only_there() -> None:
    handler = marked()

    @functools.wraps(handler)
    def wrapper() -> None:
        handler()

    assert rules(wrapper) == [public]
    del wrapper.__wrapped__
    assert rules(wrapper) == []


def test_a_mark_on_a_wrapper_counts_for_the_wrapper_alone() -> None:
    def inner() -> None: ...

    @public
    @functools.wraps(inner)
    def wrapper() -> None: ...

    assert rules(wrapper) == [public]
    assert rules(inner) == []


def test_marks_on_wrapper_and_wrapped_are_two() -> None:
    handler = marked()
    wrapper = allow(role="admin")(functools.wraps(handler)(lambda: None))
    assert rules(wrapper) == [allow(role="admin"), public]


def test_twice_decorated_is_refused_at_once() -> None:
    with pytest.raises(PolicyError) as caught:
        allow(role="admin")(marked())
    assert caught.value.code == "decided_twice"


@pytest.mark.parametrize(
    ("spelt", "says"),
    [
        ("public()", "write @public"),
        ("allow(print)", 'allow(role="admin")'),  # @allow without parentheses
        ("allow(roles='admin')", "no argument roles=; did you mean role=?"),
        ("allow(everybody=True)", "there are signed_in, role, scope"),
        ("allow()", "allow(signed_in=True)"),
        ("allow(signed_in=True, max_body='1000')", "max_body is a number of bytes"),
        ("allow(signed_in=True, max_body=True)", "max_body is a number of bytes"),
        ("allow(signed_in=True, cache='no')", "cache is True or False, not 'no'"),
        ("allow(signed_in=True, csrf=0)", "csrf is True or False, not 0"),
        ("require('* /a', audit='yes')", "audit is True or False, not 'yes'"),
        ("require('* /x', 'admin')", 'require(…, role="admin")'),
        ("require('* /x', limits='5/minute')", "did you mean limit=?"),
    ],
)
def test_a_rule_that_is_misspelt_says_what_to_write(spelt: str, says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=re.escape(says)):
        eval(spelt, {"public": public, "allow": allow, "require": require})


def test_partials_stand_for_their_function_and_may_be_marked_themselves() -> None:
    assert rules(functools.partial(marked(), 1)) == [public]
    assert rules(functools.partial(functools.partial(marked(), 1), 2)) == [public]
    own = public(functools.partial(lambda: None))
    assert rules(own) == [public]


def test_methods_are_marked_in_their_class() -> None:
    class Views:
        @public
        def one(self) -> None: ...

        def two(self) -> None: ...

    class More(Views):
        def one(self) -> None: ...

    assert rules(Views().one) == [public]
    assert rules(Views().two) == []
    assert rules(More().one) == []  # another function runs


def test_a_bound_method_cannot_be_marked() -> None:
    class Views:
        def one(self) -> None: ...

    with pytest.raises(PolicyError) as caught:
        public(Views().one)
    assert caught.value.code == "unmarkable"


def test_a_callable_instance_is_marked_by_itself_or_by_its_call() -> None:
    class Plain:
        def __call__(self) -> None: ...

    class Marked:
        @public
        def __call__(self) -> None: ...

    class Inherits(Marked): ...

    class Overrides(Marked):
        def __call__(self) -> None: ...

    one, other = Plain(), Plain()
    public(one)
    assert rules(one) == [public]
    assert rules(other) == []
    assert rules(Marked()) == [public]
    assert rules(Inherits()) == [public]  # the marked function is what runs
    assert rules(Overrides()) == []


def test_a_class_is_marked_by_itself_and_its_heirs_are_not() -> None:
    @public
    class Endpoint: ...

    class Heir(Endpoint): ...

    assert rules(Endpoint) == [public]
    assert rules(Heir) == []
    assert rules(Endpoint()) == []  # an instance is something else


def test_what_cannot_hold_a_mark_says_so() -> None:
    with pytest.raises(PolicyError) as caught:
        public(len)
    assert caught.value.code == "unmarkable"


def test_wrapped_in_a_circle_ends() -> None:
    def one() -> None: ...

    one.__wrapped__ = one  # type: ignore[attr-defined]
    assert rules(one) == []
