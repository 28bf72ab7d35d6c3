"""Finding the app that `MODULE:APP` names: bare or protected, in the current directory or installed."""

import importlib
import inspect
import os
import sys
import traceback
from types import TracebackType
from typing import Any

import typer

from garrison.cli.output import FOUND, WRONG_USE, say
from garrison.core.errors import GarrisonError
from garrison.serve.frameworks import guard_of
from garrison.serve.garrison import Garrison


def load_app(target: str) -> Any:
    """Return the app; ends the command with a sentence where there is none.

    Raises GarrisonError where importing it does. Whatever else goes wrong in the app's own module is shown with the
    frames of that module, since only its author can mend it.
    """
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
            _show_failure(module_name, error)
            raise typer.Exit(FOUND) from None
        say(f"garrison: there is no module {module_name} here or installed")
        raise typer.Exit(WRONG_USE) from None
    except GarrisonError:
        raise
    except Exception as error:
        _show_failure(module_name, error)
        raise typer.Exit(FOUND) from None
    for part in name.split("."):
        if not hasattr(found, part):
            say(f"garrison: {module_name} has no {name}")
            raise typer.Exit(WRONG_USE)
        found = getattr(found, part)
    if not _takes_asgi(found):
        say(
            f"garrison: {target} is no ASGI app; where it makes one, name what it makes, for example app = create_app()"
        )
        raise typer.Exit(WRONG_USE)
    return found


_OPEN = (
    "garrison: {target} does not call Garrison().protect(app): only `garrison serve` guards it. Under uvicorn, or in a "
    "test client, it is OPEN."
)


def load_guarded(target: str, *, warns: bool = False) -> tuple[Any, Garrison]:
    """Return the app and its guard; a bare app is protected here, `warns` saying that only here it is."""
    app = load_app(target)
    guard = guard_of(app)
    if isinstance(guard, Garrison):
        return app, guard
    if warns:
        say(_OPEN.format(target=target))
    guard = Garrison()
    return guard.protect(app), guard


def _takes_asgi(found: Any) -> bool:
    """Tell apps from factories: an app is called with scope, receive and send.

    A factory would pass for an opaque ASGI app without routes, and `check` would find nothing to complain of.
    """
    if not callable(found):
        return False
    try:
        inspect.signature(found).bind(None, None, None)
    except TypeError:
        return False
    except ValueError:  # written in C: it does not say
        return True
    return True


def _show_failure(module_name: str, error: Exception) -> None:
    """Print what failed in the app's module, without the frames of the import machinery and ours."""
    frames: TracebackType | None = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename in (__file__, importlib.__file__):
        frames = frames.tb_next
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith("<frozen importlib"):
        frames = frames.tb_next
    traceback.print_exception(type(error), error, frames)
    say(f"garrison: importing {module_name} failed, as above")
