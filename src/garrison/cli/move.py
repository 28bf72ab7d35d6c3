"""`garrison move`: from SQLite to PostgreSQL, everything or nothing."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from garrison.cli.backup import ended_document, file_of, say_what_is_not_known, show_ended
from garrison.cli.identity import use_identity
from garrison.cli.output import FOUND, WRONG_USE, emit, guarded, progress, say, show, table

if TYPE_CHECKING:
    from garrison.identity.restored import Ended
    from garrison.store.move import Moved


def move_command(
    to: Annotated[
        str | None, typer.Argument(metavar="URL", help="An empty database: postgresql://user@host:5432/name.")
    ] = None,
    undo: Annotated[
        bool,
        typer.Option("--undo", help="Use the SQLite file again as it was, with nothing in it that opens anything."),
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
) -> None:
    """Move everything from SQLite to an empty PostgreSQL database. The server must be stopped.

    Rows and contents of each table are compared before anything is committed; if it fails, the target is as empty as
    before. Afterwards the SQLite file is kept, and no server starts on it any more. A password is better in PGPASSWORD
    or ~/.pgpass than in the address, which others on this machine can see. --undo ends what the file knows, as
    `garrison restore` does: the other place may have ended it since.

    \b
    Examples:
      garrison move postgresql://garrison@db.example.com/garrison
      garrison move --undo --json
    """
    if (to is None) is not undo:
        say("garrison: name the database to move to, or --undo")
        raise typer.Exit(WRONG_USE)
    if to is None:
        _undo(json)
    else:
        _move(to, json)


def _undo(json: bool) -> None:
    def run() -> "Ended":
        from garrison.serve.settings import load_settings  # keeps --help quick
        from garrison.store.move import is_moved, undo

        settings = load_settings()
        path = file_of(settings, "--undo is for the SQLite file; let it name that again")
        if not is_moved(path):
            say("garrison: this database was not moved")
            raise typer.Exit(FOUND)
        # Before any server can start on it: what was ended at the other place since is alive in this one.
        ended = asyncio.run(use_identity(settings, lambda identity: identity.restored.end_credentials(), moved=True))
        undo(path)
        return ended

    ended = guarded(run)
    if json:
        emit({"undone": True, **ended_document(ended)})
    else:
        show("The SQLite database is used again, as it was when it was moved; stop every server on the other one")
        show_ended(ended, keep_keys=False, keep_clients=False)
    say_what_is_not_known(ended)


def _move(to: str, json: bool) -> None:
    def run() -> "tuple[Moved, str]":
        import garrison.serve.start  # noqa: F401 - every table is declared by something in it
        from garrison.serve.settings import load_settings
        from garrison.store.move import move
        from garrison.store.opening import check_address, has_driver, is_postgresql, shown

        if not is_postgresql(to):
            raise ValueError("write postgresql://user@host:5432/database")
        if not has_driver(to):
            raise ValueError("PostgreSQL needs a driver: install Garrison with its extra, garrison[postgres]")
        check_address(to)
        path = file_of(load_settings(), "the data is there already")
        with progress("Moving") as tell:
            return move(path, to, tell), shown(to)

    moved, shown = guarded(run)
    if json:
        tables = [{"table": one.name, "rows": one.target.rows, "digest": one.target.digest} for one in moved.tables]
        emit({"to": shown, "tables": tables, "left": list(moved.left)})
    else:
        rows = [
            (one.name, str(one.source.rows), str(one.target.rows), one.source.digest[:12], one.target.digest[:12])
            for one in moved.tables
        ]
        table(("table", "rows here", "rows there", "contents here", "contents there"), rows)
    if moved.left:
        say(f"Not Garrison's, and left where they are: {', '.join(moved.left)}")
    say(
        f"Now set GARRISON_DATABASE_URL to the address of {shown}, leave GARRISON_SECRET as it is,"
        " and start the server."
    )
