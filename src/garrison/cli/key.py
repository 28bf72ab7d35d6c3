"""`garrison key …`: make, list and revoke API keys. A running server sees it within the revocation bound."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.cli.identity import with_identity
from garrison.cli.output import WRONG_USE, emit, say, table

if TYPE_CHECKING:
    from garrison.identity.keys.model import Key
    from garrison.identity.keys.service import Made
    from garrison.serve.wiring import Identity

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Whose = Annotated[str, typer.Option("--account", metavar="EMAIL|ID", help="Whose key: it never may more than they.")]

app = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")


@app.command("create")
def create(
    account: Whose,
    name: Annotated[str, typer.Option(help="What it is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="Scopes, separated by spaces.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="CIDR it may be used from; repeat for several.")] = None,
    expires: Annotated[str | None, typer.Option(help="For how long it is good, for example 90d.")] = None,
    limit: Annotated[str, typer.Option(help="Its own limit, for example 100/minute.")] = "",
    is_app: Annotated[
        bool, typer.Option("--app", help="A key for an app that signs people up, and nothing else.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a key; it is shown once and stored nowhere.

    Examples:

      garrison key create --account ada@example.com --name ci --scope tasks:read --expires 90d

      garrison key create --account ada@example.com --name ios --app --json
    """
    from garrison.core.durations import parse_duration

    async def work(identity: "Identity") -> "Made":
        found = await identity.accounts.find(account)
        return await identity.keys.create(
            account if found is None else found.id,
            name,
            scopes=scope or [],
            networks=network or [],
            rate=limit,
            expires_in_s=None if expires is None else parse_duration(expires),
            kind="app" if is_app else "api",
            bounded=False,  # which scopes a role gives, the app's policy says; it is compared when the key is used
        )

    made = with_identity(work)
    if json:
        emit({**_document(made.key), "key": made.secret})
        return
    say(f"id   {made.key.id}")
    say(f"key  {made.secret}")
    say("The key is shown this once.")


@app.command("list")
def list_all(
    account: Annotated[str | None, typer.Option("--account", metavar="EMAIL|ID", help="Only theirs.")] = None,
    json: Json = False,
) -> None:
    """List keys.

    Examples:

      garrison key list --account ada@example.com
    """

    async def work(identity: "Identity") -> "list[Key]":
        if account is None:
            return list(await identity.keys.list())
        found = await identity.accounts.find(account)
        return list(await identity.keys.list(account if found is None else found.id))

    found = with_identity(work)
    if json:
        emit({"items": [_document(key) for key in found]})
        return
    table(
        ("id", "account", "kind", "name", "scopes", "networks"),
        [(one.id, one.account_id, one.kind, one.name, " ".join(one.scopes), " ".join(one.networks)) for one in found],
    )


@app.command("revoke")
def revoke(
    which: Annotated[str, typer.Argument(metavar="ID", help="Id of the key, `key_…`.")], json: Json = False
) -> None:
    """End a key at once.

    Examples:

      garrison key revoke key_4t2m9q0v7y1x8r6s3n5p2k4w
    """
    if not with_identity(lambda identity: identity.keys.revoke(which)):
        say("garrison: there is no such key; garrison key list shows them")
        raise typer.Exit(WRONG_USE)
    if json:
        emit({"id": which, "revoked": True})
    else:
        say(f"{which} is revoked")


def _document(key: "Key") -> dict[str, Any]:
    from garrison.identity.timestamps import rfc3339  # beside the rest of identity, which --help does not need

    return {
        "id": key.id,
        "account_id": key.account_id,
        "kind": key.kind,
        "name": key.name,
        "scopes": list(key.scopes),
        "networks": list(key.networks),
        "limit": key.rate or None,
        "created_at": rfc3339(key.created_at),
        "expires_at": None if key.expires_at is None else rfc3339(key.expires_at),
    }
