"""Owner functions: which path parameters they take, and how text becomes what they expect.

One converted value must have one spelling: `int` and `UUID` take only what their own `str()` would write (upper-case
UUIDs excepted), so that two texts of the same object do not meet two decisions.
"""

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints
from uuid import UUID


def owner_converters(owner: Callable[..., Any]) -> dict[str, Callable[[str], Any]]:
    """Return path parameter → converter for an owner function: `str`, `int`, `UUID`, no annotation is `str`.

    Raises TypeError for anything else, and for parameters that cannot be given by name.
    """
    target = owner if inspect.isroutine(owner) else getattr(owner, "__call__", owner)  # noqa: B004 - its signature is read
    hints = get_type_hints(target)
    found: dict[str, Callable[[str], Any]] = {}
    for name, parameter in inspect.signature(owner).parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"owner= parameter {name} must be given by name")
        converter = _CONVERTERS.get(hints.get(name, str))
        if converter is None:
            raise TypeError(f"owner= parameter {name} must be str, int or UUID")
        found[name] = converter
    return found


def _int(text: str) -> int:
    """Only what `str(int)` would write: no signs but minus, no spaces, underscores or other scripts' digits."""
    if len(text) > 19 or not (text.isascii() and text.removeprefix("-").isdigit()):
        raise ValueError("not an integer")
    return int(text)


def _uuid(text: str) -> UUID:
    """Only the canonical form, upper or lower case: `UUID()` also takes braces and missing hyphens."""
    value = UUID(text)
    if str(value) != text.lower():
        raise ValueError("not a canonical UUID")
    return value


_CONVERTERS: dict[Any, Callable[[str], Any]] = {str: str, int: _int, UUID: _uuid}
