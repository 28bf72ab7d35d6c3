"""`garrison migrate`: bring the database to this version's schema. Production never does that by itself."""

from typing import Annotated

import typer

from garrison.cli.output import emit, guarded, show


def migrate_command(json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False) -> None:
    """Bring the database to this version's schema. Safe while the previous version runs.

    \b
    Examples:
      GARRISON_ENV=production garrison migrate
    """

    def run() -> tuple[str | None, str]:
        from garrison.serve.settings import load_settings  # keeps --help quick
        from garrison.store.migrate import HEAD, current, upgrade

        address = load_settings().store_address
        before = current(address)
        upgrade(address)
        return before, HEAD

    before, after = guarded(run)
    if json:
        emit({"before": before, "after": after})
    else:
        show(f"The schema is {after}" + (", as it was." if before == after else f"; it was {before or 'not there'}."))
