"""Single foreign subjects: refused, signed out, allowed again, in every process, warm and cold."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette

from garrison import Garrison
from garrison.core.clock import ManualClock
from garrison.core.errors import StoreError
from garrison.core.ids import new_id
from garrison.guard.authenticate import REFUSED
from garrison.guard.streams import Streams
from garrison.identity.changes import Changes
from garrison.identity.clients.service import ClientService
from garrison.identity.issuers.refused import subject_id
from garrison.identity.issuers.verifier import ForeignEntry
from garrison.identity.keys.service import KeyService
from garrison.identity.settings import PasswordCost
from garrison.serve.settings import Settings
from garrison.wire.call import Call
from tests.identity.conftest import PASSWORD, OpenProcess, Process, scopes_of
from tests.identity.foreign import SUBJECT, Issuer, configured, issuing, show
from tests.stores import store_url

pytestmark = pytest.mark.anyio
LEEWAY_S = 60


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    async with issuing() as issuer:
        yield issuer


@pytest.fixture
async def process(issuer: Issuer, open_process: OpenProcess) -> AsyncIterator[Process]:
    async with open_process(foreign_issuers=(configured(issuer),)) as process:
        yield process


async def passes(process: Process, token: bytes, clock: ManualClock, *, fresh: bool = True) -> bool:
    found = await show(process.foreign, token, clock, fresh=fresh)
    assert found is REFUSED or isinstance(found, ForeignEntry), found
    return found is not REFUSED


async def test_refused_is_refused_warm_and_cold_old_and_new_until_allowed(
    issuer: Issuer, process: Process, clock: ManualClock
) -> None:
    key = issuer.keys[0]
    seen, unseen = (issuer.token(key, clock.now(), jti=n) for n in range(2))
    other = issuer.token(key, clock.now(), sub="auth0|8", exp=int(clock.now()) + 900)
    for token in (seen, other):
        assert await passes(process, token, clock)
    refused = await process.issuers.refuse(issuer.url, SUBJECT)
    assert refused == (issuer.url, SUBJECT, True, clock.now())
    assert not await passes(process, seen, clock)
    assert not await passes(process, unseen, clock)
    assert not await passes(process, seen, clock, fresh=False)
    assert await passes(process, other, clock), "and nobody else"
    clock.advance(LEEWAY_S + 2)
    later = issuer.token(key, clock.now())
    assert not await passes(process, later, clock), "issued since: refused altogether"
    assert await process.issuers.allow(issuer.url, SUBJECT)
    assert await passes(process, later, clock)
    assert not await passes(process, seen, clock), "what was dead stays dead"
    assert not await process.issuers.allow(issuer.url, SUBJECT), "not refused any more"


@pytest.mark.parametrize("signed_out", [False, True])
async def test_no_subject_of_theirs_is_called_like_somebody_of_ours(
    issuer: Issuer, process: Process, clock: ManualClock, signed_out: bool
) -> None:
    """Apps know people by `me.id`, so an issuer that says `acc_…` would say whose tasks are shown."""
    changes = Changes(process.database, clock, process.view)
    account = await process.accounts.create("ada@example.com", PASSWORD)
    key = await KeyService(changes, process.database, scopes_of).create(account.id, "mine")
    client = await ClientService(changes, process.database, clock).create("theirs", grants=["client_credentials"])
    elsewhere = new_id("acc")  # an issuer may well be another Garrison
    for subject, is_fine in ((account.id, False), (key.key.id, False), (client.client.id, False), (elsewhere, True)):
        if signed_out:
            await process.issuers.sign_out(issuer.url, subject)
        later = clock.now() + (LEEWAY_S + 1 if signed_out else 0)
        token = issuer.token(issuer.keys[0], later, sub=subject, exp=int(later) + 900)
        clock.advance(LEEWAY_S + 2)
        assert await passes(process, token, clock) == is_fine, subject


async def test_signed_out_is_every_token_issued_until_then_by_a_clock_that_may_be_ahead(
    issuer: Issuer, process: Process, clock: ManualClock
) -> None:
    key, now = issuer.keys[0], clock.now()
    assert now == int(now)
    by_iat = {ahead: issuer.token(key, now + ahead, exp=int(now) + 900) for ahead in (-300, 0, 59, 60)}
    without = issuer.token(key, now, iat=None)
    for token in (*by_iat.values(), without):
        assert await passes(process, token, clock)
    await process.issuers.sign_out(issuer.url, SUBJECT)
    for ahead, token in by_iat.items():
        assert not await passes(process, token, clock), ahead
    assert not await passes(process, without, clock), "nobody can tell when it was issued"
    clock.advance(1)
    new = issuer.token(key, now + LEEWAY_S + 1)
    assert await passes(process, new, clock)
    assert not await passes(process, by_iat[60], clock)


async def test_who_came_back_is_kept_like_anybody_and_can_be_signed_out_again(
    issuer: Issuer, process: Process, clock: ManualClock, open_process: OpenProcess
) -> None:
    async with open_process(foreign_issuers=(configured(issuer),)) as other:
        token = issuer.token(issuer.keys[0], clock.now(), exp=int(clock.now()) + 900)
        assert await passes(other, token, clock)
        for _ in range(3):
            await process.issuers.sign_out(issuer.url, SUBJECT)
            await other.poll()
            assert not await passes(other, token, clock)
            clock.advance(LEEWAY_S + 1)
            token = issuer.token(issuer.keys[0], clock.now(), exp=int(clock.now()) + 900)
            kept = await show(other.foreign, token, clock)
            assert isinstance(kept, ForeignEntry)
            assert await show(other.foreign, token, clock) is kept


async def test_neither_verb_takes_back_the_other(issuer: Issuer, process: Process, clock: ManualClock) -> None:
    key, began = issuer.keys[0], clock.now()
    await process.issuers.refuse(issuer.url, SUBJECT)
    clock.advance(100)
    token = issuer.token(key, clock.now())
    assert (await process.issuers.sign_out(issuer.url, SUBJECT)).is_refused
    clock.advance(-100)  # the store's clock steps back
    assert await process.issuers.sign_out(issuer.url, SUBJECT) == (issuer.url, SUBJECT, True, began + 100)
    clock.advance(100)
    assert await process.issuers.allow(issuer.url, SUBJECT)
    assert not await passes(process, token, clock)
    assert await process.issuers.list() == [(issuer.url, SUBJECT, False, began + 100)]


async def test_allowing_one_allows_nobody_else(issuer: Issuer, process: Process, clock: ManualClock) -> None:
    for subject in ("a", "b"):
        await process.issuers.refuse(issuer.url, subject)
    assert not await process.issuers.allow("https://else.example.com/", "b")
    assert await process.issuers.allow(issuer.url, "a")
    assert [(one.subject, one.is_refused) for one in await process.issuers.list()] == [("a", False), ("b", True)]
    clock.advance(LEEWAY_S + 1)
    for subject, is_fine in (("a", True), ("b", False)):
        assert await passes(process, issuer.token(issuer.keys[0], clock.now(), sub=subject), clock) == is_fine


@pytest.mark.parametrize("verb", ["refuse", "sign_out"])
async def test_every_process_hears_it_and_one_that_has_just_started_reads_it(
    issuer: Issuer, process: Process, clock: ManualClock, open_process: OpenProcess, verb: str
) -> None:
    token = issuer.token(issuer.keys[0], clock.now())
    async with open_process(foreign_issuers=(configured(issuer),)) as other:
        assert await passes(other, token, clock)
        await getattr(process.issuers, verb)(issuer.url, SUBJECT)
        assert await passes(other, token, clock), "warm, and the news is on its way"
        await other.poll()
        assert not await passes(other, token, clock)
    async with open_process(foreign_issuers=(configured(issuer),)) as started:
        assert not await passes(started, token, clock)
        assert await passes(started, issuer.token(issuer.keys[0], clock.now(), sub="auth0|8"), clock)


async def test_who_cannot_hear_the_news_asks_and_without_a_store_nobody_passes(
    issuer: Issuer, process: Process, clock: ManualClock, open_process: OpenProcess
) -> None:
    token = issuer.token(issuer.keys[0], clock.now())
    async with open_process(foreign_issuers=(configured(issuer),)) as deaf:
        assert await passes(deaf, token, clock)
        clock.advance(2)
        assert await passes(deaf, token, clock, fresh=False)
        await process.issuers.refuse(issuer.url, SUBJECT)
        assert not await passes(deaf, token, clock, fresh=False)
        await process.issuers.allow(issuer.url, SUBJECT)
        other = issuer.token(issuer.keys[0], clock.now(), sub="auth0|8")
        assert await passes(deaf, other, clock)
    with pytest.raises(StoreError):  # the store is closed
        await show(deaf.foreign, issuer.token(issuer.keys[0], clock.now(), jti="new"), clock)
    assert await passes(deaf, other, clock), "warm, and the news was heard"
    clock.advance(2)
    with pytest.raises(StoreError):
        await show(deaf.foreign, other, clock, fresh=False)


async def test_a_refusal_that_overtakes_the_stores_answer_counts(
    issuer: Issuer, process: Process, clock: ManualClock
) -> None:
    """The answer is on its way while the subject is refused."""
    arrived, may_answer = asyncio.Event(), asyncio.Event()
    is_first = True

    def cold(sql: str, parameters: tuple[Any, ...]) -> Any:
        async def answer() -> Any:
            nonlocal is_first
            rows = await process.cold(sql, parameters)
            if is_first:
                is_first = False
                arrived.set()
                await may_answer.wait()
            return rows

        return answer()

    process.foreign._cold = cold
    asking = asyncio.ensure_future(show(process.foreign, issuer.token(issuer.keys[0], clock.now()), clock))
    await arrived.wait()
    await process.issuers.refuse(issuer.url, SUBJECT)
    may_answer.set()
    assert await asking is REFUSED
    other = issuer.token(issuer.keys[0], clock.now(), sub="auth0|8")
    kept = await show(process.foreign, other, clock)
    assert await show(process.foreign, other, clock) is kept


async def test_a_store_that_answers_with_an_older_state_lets_nobody_through(
    issuer: Issuer, process: Process, clock: ManualClock
) -> None:
    process.view.applied("foreign", subject_id(issuer.url, SUBJECT), 1)
    with pytest.raises(StoreError):
        await show(process.foreign, issuer.token(issuer.keys[0], clock.now()), clock)


async def test_its_streams_are_cut(issuer: Issuer, process: Process, clock: ManualClock) -> None:
    streams = Streams(process.view)
    calls = {}
    for subject in (SUBJECT, "auth0|8"):
        call = calls[subject] = Call({"type": "http"})
        call.credential = await show(process.foreign, issuer.token(issuer.keys[0], clock.now(), sub=subject), clock)
        streams.open(call)
    await process.issuers.sign_out(issuer.url, SUBJECT)
    assert [call.cut for call in calls.values()] == [True, False]
    for call in calls.values():
        streams.close(call)  # before the loop cancels this test


async def test_what_could_refuse_nobody_is_told(issuer: Issuer, process: Process) -> None:
    for wrong in (issuer.url.rstrip("/"), "https://else.example.com/", ""):
        with pytest.raises(ValueError, match="no such issuer is configured"):
            await process.issuers.refuse(wrong, SUBJECT)
    for wrong in ("", "a\x00", "\udcff"):
        with pytest.raises(ValueError, match="printable"):
            await process.issuers.sign_out(issuer.url, wrong)
        assert not await process.issuers.allow(issuer.url, wrong)
    assert await process.issuers.list() == []


async def test_users_own_code_calls_the_same(tmp_path: Path) -> None:
    settings = Settings(
        database_url=store_url(tmp_path / "g.db"),
        secret="s" * 40,
        password_cost=PasswordCost(8, 1, 1),
        foreign_issuers=SecretStr('[{"issuer": "https://login.example.com/", "audience": "api"}]'),
    )
    garrison = Garrison(settings=settings)
    garrison.protect(Starlette())
    try:
        refused = await garrison.issuers.refuse("https://login.example.com/", SUBJECT)
        assert await garrison.issuers.list() == [refused]
        assert await garrison.issuers.allow("https://login.example.com/", SUBJECT)
    finally:
        await garrison.close()


async def test_each_is_an_event_that_names_no_subject(issuer: Issuer, process: Process) -> None:
    await process.issuers.sign_out(issuer.url, "ada@example.com")
    await process.issuers.refuse(issuer.url, "ada@example.com")
    await process.issuers.allow(issuer.url, "ada@example.com")
    events = await process.events()
    assert [event["kind"] for event in events] == ["subject.signed_out", "subject.refused", "subject.allowed"]
    assert {event["subject"] for event in events} == {subject_id(issuer.url, "ada@example.com")}
    assert "ada@" not in str(events)
