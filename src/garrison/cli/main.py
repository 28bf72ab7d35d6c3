"""The `garrison` command. One file for each group; here they are put together."""

from importlib.metadata import version
from typing import Annotated

import typer

from garrison.cli import account, client, issuer, key, keys
from garrison.cli.backup import backup_command, restore_command, restored_command
from garrison.cli.inspect import check_command, routes_command
from garrison.cli.migrate import migrate_command
from garrison.cli.move import move_command
from garrison.cli.serve import serve_command

app = typer.Typer(
    name="garrison",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich wraps examples, which are there to be copied
    help="Makes REST APIs secure: what each route demands is data, closed by default.",
)


@app.callback(invoke_without_command=True)
def root(show_version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if show_version:
        print(version("garrison"))
        raise typer.Exit


app.command("serve")(serve_command)
app.command("routes")(routes_command)
app.command("check")(check_command)
app.command("migrate")(migrate_command)
app.command("backup")(backup_command)
app.command("restore")(restore_command)
app.command("restored")(restored_command)
app.command("move")(move_command)
app.add_typer(account.app, name="account")
app.add_typer(client.app, name="client")
app.add_typer(issuer.app, name="issuer")
app.add_typer(key.app, name="key")
app.add_typer(keys.app, name="keys")


def main() -> None:
    """Run the command line."""
    app()
