"""Adapters: how a framework's app is guarded in place and what it serves. Nothing here imports a framework."""

import sys
from typing import Any

from garrison.core.errors import PolicyError
from garrison.serve.frameworks.adapter import GUARD, Adapter, Entry
from garrison.serve.frameworks.plain import PlainAdapter

__all__ = ["Adapter", "Entry", "adapter_for", "guard_of"]


def adapter_for(app: Any) -> Adapter:
    """Return the adapter of this app. Raises PolicyError for what is guarded already, and for what is no ASGI app."""
    if guard_of(app) is not None:
        raise PolicyError("this app is protected already; once is enough", code="protected_twice")
    if not callable(app):
        raise PolicyError(f"protect takes an ASGI app, not {type(app).__name__}", code="no_app")
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(app).__mro__}
    if "fastapi.applications.FastAPI" in names:
        from garrison.serve.frameworks.fastapi import FastAPIAdapter  # only where FastAPI is in use

        return FastAPIAdapter(app)
    if "starlette.applications.Starlette" in names:
        if "fastapi.routing" in sys.modules:
            from garrison.serve.frameworks.fastapi import FastAPITree  # a FastAPI app may be mounted in it

            return FastAPITree(app)
        from garrison.serve.frameworks.starlette import StarletteAdapter  # only where Starlette is in use

        return StarletteAdapter(app)
    return PlainAdapter(app)


def guard_of(app: Any) -> Any:
    """Return the Garrison that guards this app, or None."""
    return getattr(type(app), GUARD, None) or vars(app).get(GUARD) if hasattr(app, "__dict__") else None
