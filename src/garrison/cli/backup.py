"""`garrison backup`, `restore` and `restored`: copies of the database, and what a copy brings back."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.cli.identity import use_identity, with_identity
from garrison.cli.output import emit, guarded, progress, say, show

if TYPE_CHECKING:
    from garrison.identity.restored import Ended
    from garrison.serve.settings import Settings
    from garrison.serve.wiring import Identity

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
KeepKeys = Annotated[
    bool, typer.Option("--keep-keys", help="API keys go on: none was revoked or leaked since the copy was taken.")
]
KeepClients = Annotated[
    bool, typer.Option("--keep-clients", help="OAuth clients stay enabled: none was deleted or rotated since.")
]


def backup_command(
    file: Annotated[Path, typer.Argument(help="File to make; none is overwritten.")], json: Json = False
) -> None:
    """Copy a SQLite database into a file while servers go on. Checked, and on the disk when this ends.

    The secret is not in it: keep GARRISON_SECRET as well, in another place. With PostgreSQL it is pg_dump that copies;
    docs/backup.md says how.

    \b
    Examples:
      garrison backup /backups/garrison-1.db
      garrison backup "/backups/garrison-$(date +%F).db" --json
    """

    def run() -> dict[str, Any]:
        from garrison.serve.settings import load_settings  # keeps --help quick
        from garrison.store.backup import back_up

        database = file_of(load_settings(), "pg_dump copies it; docs/backup.md says how")
        with progress("Copying") as tell:
            copy = back_up(database, file.absolute(), tell)
        return {"file": str(file), "bytes": copy.size_bytes, "schema": copy.schema, "as_of": _shown(copy.as_of)}

    made = guarded(run)
    if json:
        emit(made)
    else:
        show(f"{made['file']}: {made['bytes']} bytes at schema {made['schema']}, checked")
    say("The secret is not in it: without GARRISON_SECRET (in development var/secret) nobody can use it.")


def restore_command(
    file: Annotated[Path, typer.Argument(help="A file that `garrison backup` made.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put it in the place of the database that is there, which is kept beside.")
    ] = False,
    keep_keys: KeepKeys = False,
    keep_clients: KeepClients = False,
    json: Json = False,
) -> None:
    """Put a copy in the SQLite database's place.

    The server must be stopped. Nothing in the copy opens anything afterwards: whatever was revoked after it was taken
    stays dead, because all sessions, tokens, keys that sign, API keys and OAuth clients end. People sign in again, API
    keys are made anew, clients are enabled one by one. Passwords, roles and disabled accounts are as they were in it.

    \b
    Examples:
      garrison restore /backups/garrison-1.db
      garrison restore /backups/garrison-1.db --replace --keep-keys --json
    """

    def run() -> "tuple[Ended, Path, Path | None]":
        from garrison.serve.settings import load_settings  # keeps --help quick
        from garrison.store.migrate import upgrade
        from garrison.store.restore import restoring

        settings = load_settings()
        database = file_of(settings, "pg_restore brings a copy back, garrison restored ends what is in it")
        if not settings.has_secret():
            raise ValueError("there is no secret here, and a copy opens under its own alone: put that into var/secret")
        with restoring(file.absolute(), database, replace=replace) as under_way:
            upgrade(under_way.staged)
            staged = settings.model_copy(update={"database_url": f"sqlite:///{under_way.staged}"})

            async def end(identity: "Identity") -> "Ended":
                return await identity.restored.end_credentials(keep_keys=keep_keys, keep_clients=keep_clients)

            ended = asyncio.run(use_identity(staged, end))
            return ended, under_way.database, under_way.put_in_place()

    ended, database, aside = guarded(run)
    document = {"database": str(database), "replaced": None if aside is None else str(aside), **ended_document(ended)}
    if json:
        emit(document)
    else:
        show(f"{database} is what the copy was")
        if aside is not None:
            show(f"The database before is {aside}; it holds secrets, so delete it once it is not needed")
        show_ended(ended, keep_keys=keep_keys, keep_clients=keep_clients)
    say_what_is_not_known(ended)


def restored_command(
    keep_keys: KeepKeys = False,
    keep_clients: KeepClients = False,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete", help="End nothing: the servers were stopped before the copy was taken, so it lacks nothing."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """End what pg_restore or a snapshot brought back.

    Run it with the servers stopped, before the first of them starts. It does to the database that is configured what
    `garrison restore` does to a copy. Until it has run, servers on PostgreSQL log `database_copied` at each start.

    \b
    Examples:
      garrison migrate && garrison restored    # after pg_restore
      garrison restored --keep-clients --json
      garrison restored --complete
    """
    if complete:
        with_identity(lambda identity: identity.restored.take_as_complete())
        if json:
            emit({"complete": True})
        else:
            show("The database is taken as complete: nothing was ended")
        return
    ended = with_identity(
        lambda identity: identity.restored.end_credentials(keep_keys=keep_keys, keep_clients=keep_clients)
    )
    if json:
        emit(ended_document(ended))
    else:
        show_ended(ended, keep_keys=keep_keys, keep_clients=keep_clients)
    say_what_is_not_known(ended)


def file_of(settings: "Settings", otherwise: str) -> Path:
    """Return the SQLite file of these settings. Raises ValueError where it is PostgreSQL, saying what to do there."""
    address = settings.store_address
    if isinstance(address, Path):
        return address.absolute()
    raise ValueError(f"GARRISON_DATABASE_URL names PostgreSQL: {otherwise}")


def show_ended(ended: "Ended", *, keep_keys: bool, keep_clients: bool) -> None:
    show(f"{ended.sessions} sessions and {ended.codes} codes of {ended.accounts} accounts ended: people sign in again")
    show(f"{len(ended.signing_keys)} keys that sign are revoked, new ones made")
    show(
        "API keys go on, as you said; garrison key list shows them"
        if keep_keys
        else f"{len(ended.api_keys)} API keys ended; garrison key create makes new ones"
    )
    show(
        "OAuth clients go on, as you said, and their tokens ended; garrison client list shows them"
        if keep_clients
        else f"{len(ended.clients)} OAuth clients are disabled; garrison client enable ID lets one go on"
    )
    show(f"{ended.foreign_subjects} subjects of other issuers are signed out")


def say_what_is_not_known(ended: "Ended") -> None:
    since = _shown(ended.as_of) or "the copy was taken"
    say(
        "Not known to it, and to be done again: accounts disabled, roles taken away, passwords changed and foreign"
        f" subjects refused after {since}."
    )


def ended_document(ended: "Ended") -> dict[str, Any]:
    return {
        "as_of": _shown(ended.as_of),
        "accounts": ended.accounts,
        "sessions_ended": ended.sessions,
        "codes_ended": ended.codes,
        "signing_keys_revoked": list(ended.signing_keys),
        "api_keys_ended": list(ended.api_keys),
        "clients_disabled": list(ended.clients),
        "foreign_subjects_signed_out": ended.foreign_subjects,
    }


def _shown(moment: float | None) -> str | None:
    from garrison.identity.timestamps import rfc3339  # beside the rest of identity, which --help does not need

    return None if moment is None else rfc3339(moment)
