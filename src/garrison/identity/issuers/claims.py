"""What a subject of others' tokens may be (RFC 7519 section 4.1.2)."""

from typing import Any, TypeGuard


def is_subject(value: Any) -> TypeGuard[str]:
    """Say whether a token may be about this: printable text, so that it can be stored, shown, and refused by name."""
    return isinstance(value, str) and value != "" and value.isprintable()
