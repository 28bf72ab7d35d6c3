"""`garrison client …`: make, list, rotate and delete OAuth clients. A running server sees it within the bound."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.cli.identity import with_identity
from garrison.cli.output import emit, say, table

if TYPE_CHECKING:
    from garrison.identity.clients.model import Client

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Which = Annotated[str, typer.Argument(metavar="ID", help="Id of the client, `cli_…`.")]

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate and delete OAuth clients.")


@app.command("create")
def create(
    name: Annotated[str, typer.Option(help="What people call it.")],
    grant: Annotated[list[str] | None, typer.Option(help="Grant it may use; repeat for several.")] = None,
    audience: Annotated[list[str] | None, typer.Option(help="What its tokens may be for; the first is usual.")] = None,
    scope: Annotated[list[str] | None, typer.Option(help="Scopes it may have, separated by spaces.")] = None,
    redirect_uri: Annotated[list[str] | None, typer.Option(help="Where people may be sent back to, exactly.")] = None,
    is_public: Annotated[bool, typer.Option("--public", help="It can keep no secret: an app, a page.")] = False,
    json: Json = False,
) -> None:
    """Make a client; its secret is shown once and stored nowhere.

    Examples:

      garrison client create --name reports --grant client_credentials --audience https://api.example.com \\
        --scope "tasks:read tasks:write"

      garrison client create --name reports --audience https://api.example.com --json
    """
    made = with_identity(
        lambda identity: identity.clients.create(
            name,
            grants=grant or ["client_credentials"],
            audiences=audience or [],
            scopes=scope or [],
            redirect_uris=redirect_uri or [],
            is_public=is_public,
        ),
        makes=True,
    )
    if json:
        secret = {} if is_public else {"client_secret": made.secret}
        emit({"client_id": made.client.id, **secret, **_document(made.client)})
        return
    say(f"client_id      {made.client.id}")
    if is_public:
        return
    say(f"client_secret  {made.secret}")
    say("The secret is shown this once.")


@app.command("list")
def list_all(json: Json = False) -> None:
    """List every client.

    Examples:

      garrison client list --json
    """
    found = with_identity(lambda identity: identity.clients.list())
    if json:
        emit({"items": [_document(client) for client in found]})
        return
    table(
        ("id", "name", "grants", "audiences", "scopes", "status"),
        [
            (one.id, one.name, " ".join(one.grants), " ".join(one.audiences), " ".join(one.scopes), one.status)
            for one in found
        ],
    )


@app.command("rotate")
def rotate(which: Which, json: Json = False) -> None:
    """Give a client another secret; the one before is good for a day.

    Examples:

      garrison client rotate cli_4t2m9q0v7y1x8r6s3n5p2k4w
    """
    secret = with_identity(lambda identity: identity.clients.rotate(which))
    if json:
        emit({"client_id": which, "client_secret": secret})
    else:
        say(f"client_secret  {secret}")


@app.command("delete")
def delete(which: Which, json: Json = False) -> None:
    """Forget a client and end every token it has.

    Examples:

      garrison client delete cli_4t2m9q0v7y1x8r6s3n5p2k4w
    """
    with_identity(lambda identity: identity.clients.delete(which))
    if json:
        emit({"client_id": which, "deleted": True})
    else:
        say(f"{which} is gone, and so are its tokens")


def _document(client: "Client") -> dict[str, Any]:
    from garrison.identity.timestamps import rfc3339  # beside the rest of identity, which --help does not need

    return {
        "id": client.id,
        "name": client.name,
        "grants": list(client.grants),
        "audiences": list(client.audiences),
        "scopes": list(client.scopes),
        "redirect_uris": list(client.redirect_uris),
        "status": client.status,
        "created_at": rfc3339(client.created_at),
    }
