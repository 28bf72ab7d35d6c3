"""Background work ends when it is told to, whatever arrives at that moment."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from garrison import Garrison, Policy, public
from garrison.serve.settings import Settings
from tests.stores import open_store, store_url

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("turns", range(8))
async def test_news_that_comes_as_it_ends_does_not_keep_it(
    turns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waking: list[Callable[[], None]] = []
    monkeypatch.setattr(type(open_store(tmp_path / "g.db")), "listen", lambda _, wake: waking.append(wake))
    settings = Settings(database_url=store_url(tmp_path / "g.db"), secret="s" * 40, signing_algorithm="ES256")
    garrison = Garrison(Policy(("GET /", public)), settings=settings)

    async def app(*_: Any) -> None: ...

    garrison.protect(app)
    background = garrison._start().background()
    await background.__aenter__()
    await asyncio.sleep(0.03)  # the poll waits for news
    waking[0]()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await background.__aexit__(None, None, None)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "garrison news"]
