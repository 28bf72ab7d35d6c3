"""Finding the app that `MODULE:APP` names: bare or protected, in the current directory or installed."""

import importlib
import os
import sys
from typing import Any

import typer

from garrison.cli.output import WRONG_USE, say
from garrison.serve.frameworks import guard_of
from garrison.serve.garrison import Garrison


def load_app(target: str) -> Any:
    """Return the object; ends the command with a sentence where there is none."""
    module_name, colon, name = target.partition(":")
    if not colon or not module_name or not name:
        say(f"garrison: {target!r} does not name an app; write MODULE:APP, for example main:app")
        raise typer.Exit(WRONG_USE)
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            raise
        say(f"garrison: there is no module {module_name} here or installed")
        raise typer.Exit(WRONG_USE) from None
    for part in name.split("."):
        if not hasattr(found, part):
            say(f"garrison: {module_name} has no {name}")
            raise typer.Exit(WRONG_USE)
        found = getattr(found, part)
    return found


def load_guarded(target: str) -> tuple[Any, Garrison]:
    """Return the app and its guard; a bare app is protected here."""
    app = load_app(target)
    guard = guard_of(app)
    if isinstance(guard, Garrison):
        return app, guard
    guard = Garrison()
    return guard.protect(app), guard
