"""Background work ends when it is told to, whatever arrives at that moment, and tells outages as they are."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from bench.asking import scope_of, signed_in
from garrison import Garrison, Policy, allow, public
from garrison.core.errors import StoreError
from garrison.identity.settings import PasswordCost
from garrison.serve.settings import Settings
from garrison.wire.call import Call
from tests.store.postgresql import database
from tests.stores import open_store, store_url

pytestmark = pytest.mark.anyio
CHEAP: Any = {"password_cost": PasswordCost(8, 1, 1), "signing_algorithm": "ES256"}


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


EVENTS = Policy(("GET /events", allow(signed_in=True)), ("POST /upload", allow(signed_in=True)))


async def events_and_uploads(scope: Any, receive: Any, send: Any) -> None:
    """Tell ten things, a tenth of a second apart, once whatever comes has come."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(10):
        await asyncio.sleep(0.1)
        await send({"type": "http.response.body", "body": b".", "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def told(
    app: Any, method: str, path: str, headers: list[tuple[bytes, bytes]], upload_s: float = 0.0
) -> list[Any]:
    """Return the messages of the answer; the body's end comes `upload_s` after its beginning."""
    sent: list[Any] = []
    pieces = [{"type": "http.request", "body": b"a", "more_body": True}, {"type": "http.request", "body": b"b"}]

    async def receive() -> Any:
        if method == "GET" or not pieces:
            return {"type": "http.request", "body": b"", "more_body": False}
        if len(pieces) == 1:
            await asyncio.sleep(upload_s)
        return pieces.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope_of(path, *headers, method=method), receive, send)
    return sent


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with database() if request.param == "postgresql" else nullcontext(f"sqlite:///{tmp_path / 'h.db'}") as url:
        yield url


@pytest.mark.parametrize("has_background", [True, False])
async def test_streams_and_uploads_of_a_healthy_process_go_on(url: str, has_background: bool) -> None:
    """Also where the app holds the loop up, and where no lifespan was told and nobody polls."""
    bound_s = 0.5
    settings = Settings(database_url=url, secret="s" * 40, revocation_bound=bound_s, **CHEAP)
    garrison = Garrison(EVENTS, settings=settings)
    app = garrison.protect(events_and_uploads)
    runtime = garrison._start()
    async with runtime.background() if has_background else nullcontext():
        cookie, _ = await signed_in(app)
        plain = [cookie, (b"content-type", b"text/plain"), (b"transfer-encoding", b"chunked")]
        streaming = [asyncio.create_task(told(app, "GET", "/events", [cookie])) for _ in range(2)]
        await asyncio.sleep(0.15)
        time.sleep(bound_s * 0.9)  # noqa: ASYNC251 - that is what an app does
        uploaded = await told(app, "POST", "/upload", plain, upload_s=bound_s * 2)
        assert uploaded[0]["status"] == 200
        for stream in streaming:
            assert len(await stream) == 12
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
