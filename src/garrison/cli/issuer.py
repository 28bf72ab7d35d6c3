"""`garrison issuer …`: refuse subjects of foreign issuers, sign them out, allow them again. A running server sees it
within the revocation bound.
"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.cli.identity import with_identity
from garrison.cli.output import WRONG_USE, emit, say, show, table

if TYPE_CHECKING:
    from garrison.identity.issuers.refused import ForeignSubject

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Issuer = Annotated[str, typer.Argument(help="The issuer, exactly as it is configured.")]
Subject = Annotated[str, typer.Argument(help="Whom its tokens name in `sub`.")]

app = typer.Typer(no_args_is_help=True, help="Refuse and allow single subjects of foreign issuers.")


@app.command("refuse")
def refuse(issuer: Issuer, subject: Subject, json: Json = False) -> None:
    """Let nothing of a subject pass any more, whenever it was issued, until it is allowed.

    \b
    Examples:
      garrison issuer refuse https://login.example.com/ 'auth0|7'
    """
    _show(with_identity(lambda identity: identity.issuers.refuse(issuer, subject)), json)


@app.command("sign-out")
def sign_out(issuer: Issuer, subject: Subject, json: Json = False) -> None:
    """Refuse the tokens of a subject that were issued until now (give or take LEEWAY); later ones pass.

    \b
    Examples:
      garrison issuer sign-out https://login.example.com/ 'auth0|7'
    """
    _show(with_identity(lambda identity: identity.issuers.sign_out(issuer, subject)), json)


@app.command("allow")
def allow(issuer: Issuer, subject: Subject, json: Json = False) -> None:
    """Refuse a subject no longer; its tokens from before the refusal stay dead.

    \b
    Examples:
      garrison issuer allow https://login.example.com/ 'auth0|7'
    """
    if not with_identity(lambda identity: identity.issuers.allow(issuer, subject)):
        say("garrison: there is no such refused subject; garrison issuer list shows them")
        raise typer.Exit(WRONG_USE)
    if json:
        emit({"issuer": issuer, "subject": subject, "refused": False})
    else:
        show(f"{subject} is allowed")


@app.command("list")
def list_all(json: Json = False) -> None:
    """List the subjects that are refused, or were signed out.

    \b
    Examples:
      garrison issuer list --json
    """
    found = with_identity(lambda identity: identity.issuers.list())
    if json:
        emit({"items": [_document(one) for one in found]})
        return
    columns = ("issuer", "subject", "refused", "signed_out_at")
    table(columns, [tuple(str(value) for value in _document(one).values()) for one in found])


def _show(subject: "ForeignSubject", json: bool) -> None:
    if json:
        emit(_document(subject))
    else:
        show(f"{subject.subject} is {'refused' if subject.is_refused else 'signed out'}")


def _document(subject: "ForeignSubject") -> dict[str, Any]:
    from garrison.identity.timestamps import rfc3339  # beside the rest of identity, which --help does not need

    return {
        "issuer": subject.issuer,
        "subject": subject.subject,
        "refused": subject.is_refused,
        "signed_out_at": rfc3339(subject.signed_out_at),
    }
