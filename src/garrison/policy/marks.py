"""Finding the rule that a decorator left on an endpoint, and where it stands.

A mark records its own function. `functools.wraps` copies a function's attributes, so a wrapper that a library puts
around a public handler would carry a copied mark to wherever that wrapper is used next. A copy counts only along
`__wrapped__`, where the function that was marked is really what runs.
"""

import functools
import inspect
import os
from collections.abc import Iterator

from garrison.policy.rules import MARK, Mark, Rule


def find_marks(endpoint: object) -> list[tuple[Rule, str]]:
    """Return every rule that was left on this endpoint itself, each with where (`file:line`); usually one or none."""
    found: list[tuple[Rule, str]] = []
    for target in _chain(endpoint):
        mark = vars(target).get(MARK) if hasattr(target, "__dict__") else None
        if isinstance(mark, Mark) and mark.owner is target:
            found.append((mark.rule, place_of(target)))
    return found


def place_of(target: object) -> str:
    """Return `file:line` of a function or class, relative to the current directory where it lies below it."""
    while isinstance(target, functools.partial):
        target = target.func
    if not inspect.isclass(target) and not inspect.isroutine(target):
        target = type(target)
    try:
        name = inspect.getsourcefile(target) or ""
        line = inspect.getsourcelines(target)[1]
    except (OSError, TypeError):
        return getattr(target, "__module__", "") or ""
    here = os.getcwd() + os.sep
    return f"{name.removeprefix(here)}:{line}"


def _chain(endpoint: object) -> Iterator[object]:
    """Yield the endpoint and what it stands for: along `__wrapped__`, partials, bound methods, callable instances."""
    seen: set[int] = set()
    target: object | None = endpoint
    while target is not None and id(target) not in seen:
        seen.add(id(target))
        yield target
        if isinstance(target, functools.partial):
            target = target.func
        elif inspect.ismethod(target):
            target = target.__func__
        elif hasattr(target, "__wrapped__"):
            target = target.__wrapped__
        elif not inspect.isroutine(target) and not inspect.isclass(target):
            target = getattr(type(target), "__call__", None)  # noqa: B004 - what runs is wanted, inherited or not
        else:
            target = None
