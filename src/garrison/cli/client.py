"""`garrison client …`: make, list, rotate, disable, delete OAuth clients. A running server sees it within the bound."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.cli.identity import with_identity
from garrison.cli.output import emit, guarded, say, show, table

if TYPE_CHECKING:
    from garrison.identity.clients.model import Client, Status
    from garrison.identity.clients.service import Made
    from garrison.serve.wiring import Identity

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Jwks = Annotated[Path | None, typer.Option(help="File with its public keys (a JWK set): it signs, and has no secret.")]
Which = Annotated[str, typer.Argument(metavar="ID", help="Id of the client, `cli_…`.")]

_GRANT_HELP = (
    "Grant it may use; repeat for several: authorization_code, client_credentials, device_code, refresh_token, "
    "token_exchange. Without: client_credentials."
)
_AUDIENCE_HELP = (
    "What its tokens may be for; the first is usual. Without: the app's own, GARRISON_AUDIENCE or else the issuer."
)
_REDIRECT_URI_HELP = (
    "Where people may be sent back to, compared exactly; only the port of http://127.0.0.1 or http://[::1] is free."
)

app = typer.Typer(no_args_is_help=True, help="Make, list, rotate, disable and delete OAuth clients.")


@app.command("create")
def create(
    name: Annotated[str, typer.Option(help="What people call it.")],
    grant: Annotated[list[str] | None, typer.Option(help=_GRANT_HELP)] = None,
    audience: Annotated[list[str] | None, typer.Option(help=_AUDIENCE_HELP)] = None,
    scope: Annotated[list[str] | None, typer.Option(help="Scopes it may have, separated by spaces.")] = None,
    redirect_uri: Annotated[list[str] | None, typer.Option(help=_REDIRECT_URI_HELP)] = None,
    is_public: Annotated[bool, typer.Option("--public", help="It can keep no secret: an app, a page.")] = False,
    jwks: Jwks = None,
    requires_dpop: Annotated[bool, typer.Option("--dpop", help="Only tokens bound to a key it proves.")] = False,
    json: Json = False,
) -> None:
    """Make a client; its secret is shown once and stored nowhere.

    \b
    Examples:
      garrison client create --name reports --scope "tasks:read tasks:write"
      garrison client create --name mirror --json \\
        --grant client_credentials --audience https://api.example.com
      garrison client create --name television --public --scope tasks:read \\
        --grant device_code --grant refresh_token
      garrison client create --name billing --jwks billing.jwks.json
    """
    key_set = guarded(lambda: _key_set(jwks))

    async def work(identity: "Identity") -> "tuple[Made, str]":
        made = await identity.clients.create(
            name,
            grants=grant or ["client_credentials"],
            audiences=audience or [identity.audience],
            scopes=scope or [],
            redirect_uris=redirect_uri or [],
            is_public=is_public,
            jwks=key_set,
            requires_dpop=requires_dpop,
        )
        return made, identity.audience

    made, own_audience = with_identity(work, makes=True)
    if not audience:
        say(f"Its tokens are for {own_audience}, as GARRISON_AUDIENCE or else the issuer has it here.")
    elif own_audience not in made.client.audiences:
        say(f"Its tokens are not for the app here, which takes those for {own_audience} (GARRISON_AUDIENCE).")
    if json:
        secret = {"client_secret": made.secret} if made.secret else {}
        emit({**_document(made.client), **secret})
        return
    show(f"client_id      {made.client.id}")
    if not made.secret:
        return
    show(f"client_secret  {made.secret}")
    say("The secret is shown this once.")


@app.command("list")
def list_all(json: Json = False) -> None:
    """List every client.

    \b
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
def rotate(which: Which, jwks: Jwks = None, json: Json = False) -> None:
    """Give a client another secret; the one before is good for a day. One that signs gets other keys, at once.

    \b
    Examples:
      garrison client rotate cli_4t2m9q0v7y1x8r6s3n5p2k4w
      garrison client rotate cli_4t2m9q0v7y1x8r6s3n5p2k4w \\
        --jwks billing.jwks.json
    """
    if jwks is not None:
        key_set = guarded(lambda: _key_set(jwks))
        with_identity(lambda identity: identity.clients.set_keys(which, key_set))
        if json:
            emit({"client_id": which, "rotated": True})
        else:
            show(f"{which} signs with its new keys from now on")
        return
    secret = with_identity(lambda identity: identity.clients.rotate(which))
    if json:
        emit({"client_id": which, "client_secret": secret})
    else:
        show(f"client_secret  {secret}")
        say("The secret is shown this once; the one before is good for a day.")


@app.command("disable")
def disable(which: Which, json: Json = False) -> None:
    """Let a client authenticate no more and end every token it has.

    \b
    Examples:
      garrison client disable cli_4t2m9q0v7y1x8r6s3n5p2k4w
    """
    _set_status(which, "disabled", json)


@app.command("enable")
def enable(which: Which, json: Json = False) -> None:
    """Let a disabled client authenticate again; the tokens it had stay dead.

    \b
    Examples:
      garrison client enable cli_4t2m9q0v7y1x8r6s3n5p2k4w
    """
    _set_status(which, "active", json)


@app.command("delete")
def delete(which: Which, json: Json = False) -> None:
    """Forget a client and end every token it has.

    \b
    Examples:
      garrison client delete cli_4t2m9q0v7y1x8r6s3n5p2k4w
    """
    with_identity(lambda identity: identity.clients.delete(which))
    if json:
        emit({"client_id": which, "deleted": True})
    else:
        show(f"{which} is gone, and so are its tokens")


def _set_status(which: str, status: "Status", json: bool) -> None:
    with_identity(lambda identity: identity.clients.set_status(which, status))
    if json:
        emit({"client_id": which, "status": status})
    else:
        show(f"{which} is {status}")


def _document(client: "Client") -> dict[str, Any]:
    from garrison.identity.clients.routes import client_document  # beside the rest of identity, which --help needs not

    return client_document(client)


def _key_set(path: Path | None) -> str:
    """Return what the file holds. Raises ValueError."""
    if path is None:
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ValueError(f"{path} cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
