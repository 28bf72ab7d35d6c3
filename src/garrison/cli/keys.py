"""`garrison keys …`: the keys that sign tokens. A running server sees it within the revocation bound."""

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from garrison.cli.identity import with_identity
from garrison.cli.output import WRONG_USE, emit, say, show, table

if TYPE_CHECKING:
    from garrison.identity.signing.model import SigningKey
    from garrison.serve.wiring import Identity

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]

app = typer.Typer(no_args_is_help=True, help="List, rotate and revoke the keys that sign tokens.")


@app.command("list")
def list_all(json: Json = False) -> None:
    """List the keys: the next one, the active one, retired and revoked ones.

    \b
    Examples:
      garrison keys list
    """
    documents = [_document(key) for key in with_identity(lambda identity: identity.signing.list())]
    if json:
        emit({"items": documents})
        return
    columns = ("kid", "algorithm", "state", "signs from", "good until")
    rows = [(one["kid"], one["algorithm"], one["state"], one["signs_from"], one["ends_at"]) for one in documents]
    table(columns, [tuple(value or "" for value in row) for row in rows])


@app.command("rotate")
def rotate(json: Json = False) -> None:
    """Let the next key sign as soon as everybody who keeps the JWKS has seen it. Nothing that is signed ends.

    \b
    Examples:
      garrison keys rotate
    """

    async def work(identity: "Identity") -> float:
        await identity.signing.keep()
        return await identity.signing.rotate()

    signs_from = with_identity(work)
    if json:
        from garrison.identity.timestamps import rfc3339

        emit({"signs_from": rfc3339(signs_from)})
        return
    wait_s = max(0, round(signs_from - time.time()))
    show(f"The next key signs in {wait_s} s, when nobody keeps an older JWKS." if wait_s else "The next key signs now.")


@app.command("revoke", context_settings={"ignore_unknown_options": True})  # an id may begin with -
def revoke(
    kid: Annotated[str, typer.Argument(help="Id of the key, as `garrison keys list` shows it.")], json: Json = False
) -> None:
    """Refuse everything a key ever signed, at once. For a key that is out; people have to sign in again.

    \b
    Examples:
      garrison keys revoke kVqWJHgf2hjDl0_O6g0u0lSNTx4abWpy1ShoBbwcmkw
    """
    if not with_identity(lambda identity: identity.signing.revoke(kid)):
        say("garrison: there is no such key; garrison keys list shows them")
        raise typer.Exit(WRONG_USE)
    if json:
        emit({"kid": kid, "state": "revoked"})
    else:
        show(f"{kid} is revoked")


@app.command("create", hidden=True, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def create() -> None:
    """Nobody makes a key that signs; who types this wants an API key."""
    say("garrison: keys that sign are made by themselves; an API key is made by `garrison key create`")
    raise typer.Exit(WRONG_USE)


def _document(key: "SigningKey") -> dict[str, Any]:
    from garrison.identity.timestamps import rfc3339  # beside the rest of identity, which --help does not need

    def shown(moment: float | None) -> str | None:
        return None if moment is None else rfc3339(moment)

    return {
        "kid": key.kid,
        "algorithm": key.algorithm,
        "state": key.state,
        "shown_at": shown(key.shown_at),
        "signs_from": shown(key.signs_from),
        "ends_at": shown(key.ends_at),
    }
