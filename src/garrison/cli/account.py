"""`garrison account …`: make, change and list accounts. A running server sees it within the revocation bound."""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from garrison.cli.identity import with_identity
from garrison.cli.output import emit, say, show, table

if TYPE_CHECKING:
    from garrison.identity.accounts.model import Account
    from garrison.identity.accounts.service import AccountService

T = TypeVar("T")
Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Who = Annotated[str, typer.Argument(metavar="EMAIL|ID", help="Address or id of the account.")]

app = typer.Typer(no_args_is_help=True, help="Make, change and list accounts.")


@app.command("create")
def create(
    email: Annotated[str, typer.Argument(help="Address of the new account.")],
    role: Annotated[str | None, typer.Option(help="A role beside `member`.")] = None,
    password_stdin: Annotated[bool, typer.Option("--password-stdin", help="Read the password from stdin.")] = False,
    json: Json = False,
) -> None:
    """Make an account; the password is asked for, or read from stdin, never an argument.

    \b
    Examples:
      garrison account create ada@example.com --role admin
      printf '%s' "$PASSWORD" | \\
        garrison account create ada@example.com --password-stdin
    """
    password = (
        sys.stdin.readline().rstrip("\r\n")
        if password_stdin
        else typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    )
    _show(_with(lambda accounts: accounts.create(email, password, role), makes=True), json)


@app.command("set-role")
def set_role(
    who: Who, role: Annotated[str, typer.Argument(help="The role; `member` takes others away.")], json: Json = False
) -> None:
    """Give an account this role in place of every other but `member`.

    \b
    Examples:
      garrison account set-role ada@example.com admin
    """
    _show(_with(lambda accounts: accounts.set_role(who, role)), json)
    say("Roles are names from the app's policy.")


@app.command("disable")
def disable(who: Who, json: Json = False) -> None:
    """End every session of an account and let it sign in no more.

    \b
    Examples:
      garrison account disable ada@example.com
    """
    _show(_with(lambda accounts: accounts.disable(who)), json)


@app.command("enable")
def enable(who: Who, json: Json = False) -> None:
    """Let a disabled account sign in again.

    \b
    Examples:
      garrison account enable ada@example.com
    """
    _show(_with(lambda accounts: accounts.enable(who)), json)


@app.command("list")
def list_all(json: Json = False) -> None:
    """List every account.

    \b
    Examples:
      garrison account list --json
    """

    async def all_pages(accounts: "AccountService") -> "list[Account]":
        found: list[Account] = []
        while page := await accounts.list(after=found[-1].id if found else ""):
            found.extend(page)
        return found

    found = _with(all_pages)
    if json:
        emit({"items": [_document(account) for account in found]})
        return
    table(
        ("id", "email", "roles", "status"),
        [(one.id, one.email, " ".join(sorted(one.roles)), one.status) for one in found],
    )


def _with(work: "Callable[[AccountService], Awaitable[T]]", *, makes: bool = False) -> T:
    return with_identity(lambda identity: work(identity.accounts), makes=makes)


def _show(account: "Account", json: bool) -> None:
    if json:
        emit(_document(account))
    else:
        show(f"{account.email}  {account.id}  {' '.join(sorted(account.roles))}  {account.status}")


def _document(account: "Account") -> dict[str, Any]:
    from garrison.identity.timestamps import rfc3339  # beside the rest of identity, which --help does not need

    return {
        "id": account.id,
        "email": account.email,
        "roles": sorted(account.roles),
        "status": account.status,
        "created_at": rfc3339(account.created_at),
    }
