"""Background work ends when it is told to, whatever arrives at that moment, and tells outages as they are."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from garrison import Garrison, Policy, public
from garrison.core.errors import StoreError
from garrison.serve.settings import Settings
from garrison.wire.call import Call
from tests.stores import open_store, store_url

pytestmark = pytest.mark.anyio


def started(tmp_path: Path) -> Any:
    """Return the runtime of a guarded app."""
    settings = Settings(database_url=store_url(tmp_path / "g.db"), secret="s" * 40, signing_algorithm="ES256")
    garrison = Garrison(Policy(("GET /", public)), settings=settings)

    async def app(*_: Any) -> None: ...

    garrison.protect(app)
    return garrison._start()


async def test_an_end_in_the_middle_of_a_write_counts_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = started(tmp_path)
    call = Call({"type": "http"})
    call.network, call.now = "192.0.2.1", 0.0
    for _ in range(5):
        runtime._refusals.note(call, "bad_path", 400)
    original, begun = type(runtime._database).write, asyncio.Event()

    async def write(self: Any, work: Any) -> Any:
        begun.set()
        await asyncio.sleep(0.1)
        return await original(self, work)

    monkeypatch.setattr(type(runtime._database), "write", write)
    writing = asyncio.create_task(runtime._write_refusals())
    await begun.wait()
    writing.cancel()
    await asyncio.wait({writing})
    runtime._refusals.note(call, "bad_path", 400)
    with capture_logs() as logs:
        await runtime.close()
    assert [entry for entry in logs if entry["event"] == "refusals_lost"] == []
    store = open_store(tmp_path / "g.db")
    stored = await store.read(lambda connection: connection.execute(text("SELECT sum(count) FROM refusals")).scalar())
    assert stored == 6
    await store.close()


async def test_an_outage_is_over_when_the_store_is_back_and_not_when_nothing_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("garrison.serve.runtime._RETRY_S", 0.05)
    runtime = started(tmp_path)
    is_away = False
    original = type(runtime._database).write

    async def write(self: Any, work: Any) -> Any:
        if is_away:
            raise StoreError("store_unavailable", "it is away")
        return await original(self, work)

    monkeypatch.setattr(type(runtime._database), "write", write)
    with capture_logs() as logs:
        async with runtime.background():
            await runtime._identity.signing.keep()  # or that would be due all the time
            is_away, runtime._swept_at = True, float("-inf")
            await asyncio.sleep(1.0)
            told = [(entry["event"], entry["code"]) for entry in logs if entry["event"] == "background"]
            assert told == [("background", "store_unavailable")]
            is_away = False
            for _ in range(200):
                if len(logs) > len(told):
                    break
                await asyncio.sleep(0.02)
    told = [(entry["event"], entry["code"]) for entry in logs if entry["event"] == "background"]
    assert told == [("background", "store_unavailable"), ("background", "recovered")]
    await runtime.close()


@pytest.mark.parametrize("turns", range(8))
async def test_news_that_comes_as_it_ends_does_not_keep_it(
    turns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waking: list[Callable[[], None]] = []
    monkeypatch.setattr(type(open_store(tmp_path / "g.db")), "listen", lambda _, wake: waking.append(wake))
    background = started(tmp_path).background()
    await background.__aenter__()
    await asyncio.sleep(0.03)  # the poll waits for news
    waking[0]()
    for _ in range(turns):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await background.__aexit__(None, None, None)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "garrison news"]
