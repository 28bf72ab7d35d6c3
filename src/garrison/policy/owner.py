"""Owner functions: which path parameters they take, and how text becomes what they expect.

One converted value must have one spelling: `int` and `UUID` take only what their own `str()` would write (upper-case
UUIDs excepted), so that two texts of the same object do not meet two decisions.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints
from uuid import UUID


def owner_converters(owner: Callable[..., Any]) -> dict[str, Callable[[str], Any]]:
    """Return path parameter → converter for an owner function: `str`, `int`, `UUID`, no annotation is `str`.

    Raises TypeError for anything else, and for parameters that cannot be given by name.
    """
    target: Any = owner
    bound: set[str] = set()
    while isinstance(target, functools.partial):
        bound |= set(target.keywords)
        target = target.func
    if not inspect.isroutine(target):
        target = getattr(target, "__call__", target)  # noqa: B004 - its signature is read
    try:
        hints = get_type_hints(target)
    except NameError as error:
        raise TypeError(f"owner= has an annotation that cannot be read: {error}") from None
    found: dict[str, Callable[[str], Any]] = {}
    for name, parameter in inspect.signature(owner).parameters.items():
        if name in bound:
            continue
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"owner= parameter {name} must be given by name")
        converter = _CONVERTERS.get(hints.get(name, str))
        if converter is None:
            raise TypeError(f"owner= parameter {name} must be str, int or UUID")
        found[name] = converter
    return found


def _int(text: str) -> int:
    """Only what `str(int)` would write: no plus, leading zeros, spaces, underscores or other scripts' digits."""
    if len(text) > 20:
        raise ValueError("not an integer")
    value = int(text)
    if str(value) != text:
        raise ValueError("not a canonical integer")
    return value


def _uuid(text: str) -> UUID:
    """Only the canonical form, upper or lower case: `UUID()` also takes braces and missing hyphens."""
    value = UUID(text)
    if str(value) != text.lower():
        raise ValueError("not a canonical UUID")
    return value


_CONVERTERS: dict[Any, Callable[[str], Any]] = {str: str, int: _int, UUID: _uuid}
