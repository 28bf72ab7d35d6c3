"""Finding the app that `MODULE:APP` names: bare or protected, in the current directory or installed."""

import importlib
import inspect
import os
import sys
import sysconfig
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from garrison.cli.output import FOUND, WRONG_USE, say
from garrison.core.errors import GarrisonError, PolicyError
from garrison.serve.frameworks import guard_of
from garrison.serve.garrison import Garrison


def load_app(target: str) -> Any:
    """Return the app; ends the command with a sentence where there is none.

    Raises GarrisonError where importing it does, PolicyError with the place. A rule that is misspelt is one sentence.
    Whatever else goes wrong in the app's own modules is shown with their frames, since only their author can mend it.
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
    except PolicyError as error:
        place, _ = _place(error)
        raise PolicyError(*(f"{place}{text}" for text in error.refusals), code=error.code) from None
    except GarrisonError:
        raise
    except Exception as error:
        place, by = _place(error)
        if by.startswith("garrison.policy.") and isinstance(error, TypeError | ValueError):
            say(f"garrison: {place}{error}")
            raise typer.Exit(WRONG_USE) from None
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


def load_guarded(target: str) -> tuple[Any, Garrison, bool]:
    """Return the app, its guard, and whether it came protected; a bare app is protected here, and only here."""
    app = load_app(target)
    guard = guard_of(app)
    if isinstance(guard, Garrison):
        return app, guard, True
    guard = Garrison()
    return guard.protect(app), guard, False


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


def _place(error: Exception) -> tuple[str, str]:
    """Return `file:line: ` of the last frame in the app's own code, and the module that this frame called."""
    frames = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    last = max((number for number, (frame, _) in enumerate(frames) if _is_theirs(frame)), default=None)
    if last is None:
        return "", ""
    frame, line = frames[last]
    called = frames[last + 1][0].f_globals.get("__name__", "") if last + 1 < len(frames) else ""
    return f"{frame.f_code.co_filename.removeprefix(os.getcwd() + os.sep)}:{line}: ", called


_NOT_THEIRS = (str(Path(__file__).parents[1]) + os.sep, sysconfig.get_path("stdlib") + os.sep, "<")


def _is_theirs(frame: FrameType) -> bool:
    """Tell the app's own code from ours, Python's and what is installed."""
    file = frame.f_code.co_filename
    return not file.startswith(_NOT_THEIRS) and not {"site-packages", "dist-packages"}.intersection(Path(file).parts)


def _show_failure(module_name: str, error: Exception) -> None:
    """Print what failed while the app was imported, with the frames of its own code alone."""
    theirs = [one for one in traceback.walk_tb(error.__traceback__) if _is_theirs(one[0])]
    shown = [*traceback.StackSummary.extract(iter(theirs)).format(), *traceback.format_exception_only(error)]
    say("".join(shown).rstrip())
    say(f"garrison: importing {module_name} failed, as above; python -c 'import {module_name}' shows every frame")
