"""How commands speak: results on stdout (with --json one document), remarks on stderr, exit codes 0, 1 and 2."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import typer

from garrison.core.errors import Denied, GarrisonError, PolicyError, SettingsError

T = TypeVar("T")
FOUND, WRONG_USE = 1, 2


def emit(document: Any) -> None:
    """Print the one JSON document of a `--json` run."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def show(text: str) -> None:
    """Print a result for people, on stdout: `> file` keeps it."""
    print(text)


def say(text: str) -> None:
    """Remark on something, on stderr."""
    print(text, file=sys.stderr)


@contextmanager
def progress(label: str) -> Iterator[Callable[[float], None]]:
    """Show a bar on stderr, the label alone where nobody looks; give a function that is told the share done, 0 to 1."""
    steps = 1000
    with typer.progressbar(length=steps, label=label, file=sys.stderr) as bar:
        yield lambda share: bar.update(int(share * steps) - bar.pos)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows for people, on stdout, without colours where nobody looks."""
    from rich.console import Console  # rich costs 60 ms, --help does not need it
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False).print(shown)


def guarded(work: Callable[[], T]) -> T:
    """Run `work`; errors of ours become a list on stderr and an exit code, never a traceback."""
    try:
        return work()
    except SettingsError as error:
        say("Settings that have to be mended:")
        for name, text in error.problems:
            say(f"  {name}: {text}")
    except PolicyError as error:
        say("Not started; routes and policy that have to be mended:")
        for refusal in error.refusals:
            say(f"  {refusal}")
    except Denied as error:
        say(f"garrison: {error.detail or error.problem.title}")
    except GarrisonError as error:
        say(f"garrison: {error.detail or error.code}")
    except ValueError as error:
        say(f"garrison: {error}")
        raise typer.Exit(WRONG_USE) from None
    raise typer.Exit(FOUND)
