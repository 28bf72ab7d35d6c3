"""Streams of clients, keys and single tokens are cut by the news that ends them, and with the key that signed."""

import asyncio
from types import SimpleNamespace

import pytest

from garrison.core.clock import ManualClock
from garrison.guard.revocation import RevocationView
from garrison.guard.streams import Streams
from garrison.wire.call import Call

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def running(
    streams: Streams, account_id: str, session_id: str, kid: str = "", rests_on: tuple[tuple[str, int], ...] = ()
) -> tuple[Call, "asyncio.Task[None]"]:
    call = Call({"type": "http"})
    call.credential = SimpleNamespace(
        account_id=account_id,
        session_id=session_id,
        account_version=1,
        session_version=1,
        expires_at=float("inf"),
        kid=kid,
        rests_on=rests_on,
    )

    async def stream() -> None:
        streams.open(call)
        await asyncio.sleep(30)

    task = asyncio.create_task(stream())
    await asyncio.sleep(0)
    return call, task


@pytest.mark.parametrize(
    ("kind", "subject"),
    [("client", "cli_1"), ("token", "tok_1"), ("account", "acc_1"), ("key", "key_1"), ("session", "ses_1")],
)
async def test_news_of_each_kind_cuts_what_rests_on_it(kind: str, subject: str) -> None:
    view = RevocationView(ManualClock())
    streams = Streams(view)
    cases = [("cli_1", "tok_1"), ("acc_1", "key_1"), ("acc_1", "ses_1"), ("cli_2", "tok_2")]
    opened = [await running(streams, *case) for case in cases]
    view.applied(kind, subject, 2)
    await asyncio.sleep(0.01)
    assert [call.cut for call, _ in opened] == [subject in case for case in cases]
    for _, task in opened:
        task.cancel()


EXCHANGED = (("cli_1", 1), ("tok_1", 0), ("cli_2", 1), ("tok_2", 0))


@pytest.mark.parametrize(("kind", "subject"), [("client", "cli_1"), ("token", "tok_1"), ("client", "cli_2")])
async def test_what_came_by_exchange_is_cut_with_every_client_and_token_behind_it(kind: str, subject: str) -> None:
    """Its session is a person's and goes on: the service that exchanged was disabled, or gave its token back."""
    view = RevocationView(ManualClock())
    streams = Streams(view)
    exchanged, first = await running(streams, "acc_1", "ses_1", rests_on=EXCHANGED)
    persons, second = await running(streams, "acc_1", "ses_1")
    newer, third = await running(streams, "acc_1", "ses_1", rests_on=((subject, 2),))
    view.applied(kind, "cli_3" if kind == "client" else "tok_3", 2)
    await asyncio.sleep(0.01)
    assert not exchanged.cut
    view.applied(kind, subject, 2)
    await asyncio.sleep(0.01)
    assert (exchanged.cut, persons.cut, newer.cut) == (True, False, False)
    late, fourth = await running(streams, "acc_1", "ses_1", rests_on=EXCHANGED)
    await asyncio.sleep(0.01)
    assert late.cut, "the news came between the check and the first byte"
    tasks = ((exchanged, first), (persons, second), (newer, third), (late, fourth))
    for call, task in tasks:
        task.cancel()
        streams.close(call)
    assert not any((streams._by_account, streams._by_session, streams._by_rest))


async def test_a_revoked_key_cuts_what_it_signed() -> None:
    streams = Streams(RevocationView(ManualClock()))
    one, first = await running(streams, "acc_1", "ses_1", "k1")
    two, second = await running(streams, "acc_1", "ses_2", "k2")
    streams.end_keys({"k1"})
    await asyncio.sleep(0.01)
    assert (one.cut, two.cut) == (True, False)
    first.cancel()
    second.cancel()
