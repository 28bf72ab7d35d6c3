"""The identity part for one command: opened over the current directory's settings, used, closed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from garrison.cli.output import WRONG_USE, guarded, say

if TYPE_CHECKING:
    from garrison.serve.settings import Settings
    from garrison.serve.wiring import Identity

T = TypeVar("T")


def with_identity(work: "Callable[[Identity], Awaitable[T]]", *, makes: bool = False) -> T:
    """Run `work`; `makes` says that it may begin a database."""

    async def run() -> T:
        from garrison.serve.settings import load_settings  # keeps --help quick
        from garrison.store.opening import is_there, shown

        settings = load_settings()
        if not makes and not is_there(settings.store_address):
            say(
                f"garrison: there is no database {shown(settings.store_address)}; run this in the server's "
                "directory, or name its database in GARRISON_DATABASE_URL"
            )
            raise typer.Exit(WRONG_USE)
        return await use_identity(settings, work)

    return guarded(lambda: asyncio.run(run()))


async def use_identity(settings: "Settings", work: "Callable[[Identity], Awaitable[T]]", *, moved: bool = False) -> T:
    """Open the store of these settings, run `work`, close the store; `moved` as for `Store`."""
    from garrison.guard.limit_table import LimitTable  # --help needs no database library
    from garrison.serve.runtime import Store
    from garrison.serve.wiring import wire_identity

    store = Store(settings, moved=moved)
    identity = wire_identity(
        store.database,
        store.clock,
        store.view,
        store.sealer,
        settings.identity(),
        lambda _roles: frozenset(),
        LimitTable(),
    )
    try:
        return await work(identity)
    finally:
        identity.passwords.close()
        await store.database.close()
