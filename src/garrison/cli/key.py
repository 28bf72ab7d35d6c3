"""`garrison key …`: make, list and revoke API keys. A running server sees it within the revocation bound."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.cli.identity import with_identity
from garrison.cli.output import WRONG_USE, emit, guarded, say, show, table

if TYPE_CHECKING:
    from garrison.identity.keys.model import Key
    from garrison.identity.keys.service import Made
    from garrison.serve.wiring import Identity

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Whose = Annotated[str, typer.Option("--account", metavar="EMAIL|ID", help="Whose key: it never may more than they.")]

Which = Annotated[str, typer.Argument(metavar="ID", help="Id of the key, `key_…`.")]

app = typer.Typer(
    no_args_is_help=True, help="Make, list, rotate and revoke API keys. `garrison keys` has those that sign."
)

_NO_KEY = "garrison: there is no such key; garrison key list shows them"


@app.command("create")
def create(
    account: Whose,
    name: Annotated[str, typer.Option(help="What it is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="Scopes, separated by spaces.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="CIDR it may be used from; repeat for several.")] = None,
    expires: Annotated[str | None, typer.Option(help="For how long it is good, for example 90d or 12h.")] = None,
    limit: Annotated[str, typer.Option(help="Its own limit, for example 100/minute.")] = "",
    is_app: Annotated[
        bool, typer.Option("--app", help="A key for an app that signs people up, and nothing else.")
    ] = False,
    json: Json = False,
) -> None:
    """Make a key; it is shown once and stored nowhere.

    \b
    Examples:
      garrison key create --account ada@example.com --name ci \\
        --scope tasks:read --expires 90d
      garrison key create --account ada@example.com --name ios --app --json
    """
    expires_in_s = None if expires is None else guarded(lambda: _lifetime_s(expires))

    async def work(identity: "Identity") -> "Made":
        found = await identity.accounts.find(account)
        return await identity.keys.create(
            account if found is None else found.id,
            name,
            scopes=scope or [],
            networks=network or [],
            rate=limit,
            expires_in_s=expires_in_s,
            kind="app" if is_app else "api",
            bounded=False,  # which scopes a role gives, the app's policy says; it is compared when the key is used
        )

    made = with_identity(work)
    if json:
        emit({**_document(made.key), "key": made.secret})
        return
    show(f"id       {made.key.id}")
    show(f"key      {made.secret}")
    show(f"expires  {_shown(made.key.expires_at) or 'never'}")
    if made.key.rate:
        show(f"limit    {made.key.rate}")
    say("The key is shown this once.")
    if made.key.kind == "api":
        say("Of its scopes it may use those that its account has then, as the app's policy says.")


@app.command("list")
def list_all(
    account: Annotated[str | None, typer.Option("--account", metavar="EMAIL|ID", help="Only theirs.")] = None,
    json: Json = False,
) -> None:
    """List keys.

    \b
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
        ("id", "account", "kind", "name", "scopes", "networks", "limit", "expires", "last used"),
        [
            (
                one.id,
                one.account_id,
                one.kind,
                one.name,
                " ".join(one.scopes),
                " ".join(one.networks),
                one.rate,
                _shown(one.expires_at) or "never",
                _shown(one.used_at) or "never",
            )
            for one in found
        ],
    )


@app.command("rotate")
def rotate(which: Which, json: Json = False) -> None:
    """Give a key another secret; the one before is good for a day.

    \b
    Examples:
      garrison key rotate key_4t2m9q0v7y1x8r6s3n5p2k4w
    """
    secret = with_identity(lambda identity: identity.keys.rotate(which))
    if secret is None:
        say(_NO_KEY)
        raise typer.Exit(WRONG_USE)
    if json:
        emit({"id": which, "key": secret})
    else:
        show(f"key  {secret}")
        say("The key is shown this once; the one before is good for a day.")


@app.command("revoke")
def revoke(which: Which, json: Json = False) -> None:
    """End a key at once.

    \b
    Examples:
      garrison key revoke key_4t2m9q0v7y1x8r6s3n5p2k4w
    """
    if not with_identity(lambda identity: identity.keys.revoke(which)):
        say(_NO_KEY)
        raise typer.Exit(WRONG_USE)
    if json:
        emit({"id": which, "revoked": True})
    else:
        show(f"{which} is revoked")


def _lifetime_s(text: str) -> float:
    """Return seconds. Raises ValueError, for a number alone, too: who writes 90 may well mean days."""
    from garrison.core.durations import parse_duration

    if text.strip()[-1:].isalpha():
        return parse_duration(text)
    raise ValueError("--expires needs a unit: write 90d, 12h, 30m or 90s")


def _shown(moment: float | None) -> str | None:
    from garrison.identity.timestamps import rfc3339  # beside the rest of identity, which --help does not need

    return None if moment is None else rfc3339(moment)


def _document(key: "Key") -> dict[str, Any]:
    return {
        "id": key.id,
        "account_id": key.account_id,
        "kind": key.kind,
        "name": key.name,
        "scopes": list(key.scopes),
        "networks": list(key.networks),
        "limit": key.rate or None,
        "created_at": _shown(key.created_at),
        "expires_at": _shown(key.expires_at),
        "last_used_at": _shown(key.used_at),
    }
