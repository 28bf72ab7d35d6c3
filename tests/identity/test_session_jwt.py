"""A JWT in the session's cookie: verified by anybody, renewed by the guard, ended by whatever ends the session."""

import pytest

from garrison.core.clock import ManualClock
from garrison.identity.signing.jose import verify
from garrison.wire.cookies import MAX_COOKIE_BYTES
from tests.identity.conftest import Client, OpenProcess, Process

pytestmark = pytest.mark.anyio
EMAIL = "ada@example.com"
DAY_S = 86_400


@pytest.fixture
def session_format() -> str:
    return "jwt"


@pytest.fixture
async def ada(client: Client) -> Client:
    await client.sign_up(EMAIL)
    await client.sign_in(EMAIL)
    return client


async def test_the_cookie_is_a_signed_statement_about_the_session(ada: Client) -> None:
    value = ada.cookies["garrison"]
    claims, kid = verify(value.encode(), ada.process.keyring.verifying.get, typ="session+jwt")
    shown = (await ada.call("GET", "/auth/session")).body
    assert claims["sid"] == shown["session"]["id"]
    assert claims["sub"] == shown["account"]["id"]
    assert claims["aud"] == "session"
    assert claims["exp"] - claims["iat"] == 14 * DAY_S
    assert kid in [key["kid"] for key in ada.process.keyring.jwks["keys"]]
    assert len(value) < MAX_COOKIE_BYTES


async def test_it_is_no_bearer_and_an_access_token_is_no_cookie(ada: Client) -> None:
    phone = Client(ada.process)
    await phone.sign_in(EMAIL, deliver="token")
    assert await phone.is_signed_in()
    assert not await Client(ada.process, token=ada.cookies["garrison"]).is_signed_in()
    assert not await Client(ada.process, cookies={"garrison": phone.token}).is_signed_in()


async def test_it_is_renewed_when_half_its_life_is_gone_and_not_with_every_answer(
    ada: Client, clock: ManualClock
) -> None:
    first = ada.cookies["garrison"]
    clock.advance(6 * DAY_S)
    assert await ada.is_signed_in()
    assert ada.cookies["garrison"] == first
    clock.advance(2 * DAY_S)
    before = Client(ada.process, cookies=dict(ada.cookies))
    assert await ada.is_signed_in()
    second = ada.cookies["garrison"]
    assert second != first
    assert await before.is_signed_in(), "the one before is good until it ends"
    assert before.cookies["garrison"] == first, "an answer a moment ago had another one with it"
    clock.advance(61)
    assert await before.is_signed_in()
    assert before.cookies["garrison"] != first, "that answer may have been lost"
    clock.advance(10 * DAY_S)
    assert await ada.is_signed_in()
    assert not await Client(ada.process, cookies={"garrison": first}).is_signed_in()


async def test_a_process_that_has_to_ask_first_renews_as_well(
    ada: Client, clock: ManualClock, open_process: OpenProcess
) -> None:
    """It has no keys yet, so it asks for them: the outcome is awaited, whatever the store."""
    first = ada.cookies["garrison"]
    clock.advance(8 * DAY_S)
    async with open_process() as started:
        elsewhere = Client(started, cookies=dict(ada.cookies))
        assert not started.keyring.verifying
        assert await elsewhere.is_signed_in()
        assert elsewhere.cookies["garrison"] != first


async def test_a_renewed_cookie_ends_with_the_session(ada: Client, clock: ManualClock) -> None:
    for _ in range(5):
        clock.advance(5 * DAY_S)
        assert await ada.is_signed_in()
    claims, _ = verify(ada.cookies["garrison"].encode(), ada.process.keyring.verifying.get, typ="session+jwt")
    assert claims["exp"] - claims["iat"] < 14 * DAY_S
    clock.advance(5 * DAY_S)
    assert not await ada.is_signed_in()


async def test_a_session_that_ended_renews_nothing(ada: Client, clock: ManualClock) -> None:
    clock.advance(8 * DAY_S)
    stolen = Client(ada.process, cookies=dict(ada.cookies))
    await ada.call("POST", "/auth/sign-out")
    reply = await stolen.call("GET", "/auth/session")
    assert reply.status == 401
    assert not reply.cookies


async def test_a_renewal_stands_back_where_the_answer_is_about_the_cookie_itself(
    ada: Client, clock: ManualClock
) -> None:
    clock.advance(8 * DAY_S)
    again = await ada.sign_in(EMAIL)
    assert again.header(b"set-cookie").count("garrison=") == 1, (
        "the last one counts, and it would be the ended session's"
    )
    assert await ada.is_signed_in()
    clock.advance(8 * DAY_S)
    out = await ada.call("POST", "/auth/sign-out")
    assert out.header(b"set-cookie").count("garrison=") == 1
    assert not ada.cookies.get("garrison")


async def test_an_ended_session_is_refused_by_a_process_that_has_just_started(
    ada: Client, open_process: OpenProcess
) -> None:
    stolen = dict(ada.cookies)
    await ada.call("POST", "/auth/sign-out-everywhere")
    async with open_process() as fresh:
        assert not await Client(fresh, cookies=stolen).is_signed_in()


async def test_another_process_knows_a_key_that_was_made_a_moment_ago(
    process: Process, open_process: OpenProcess
) -> None:
    async with open_process() as other:
        client = Client(process)
        await client.sign_up(EMAIL)
        await client.sign_in(EMAIL)
        assert await Client(other, cookies=dict(client.cookies)).is_signed_in()


async def test_a_revoked_key_ends_its_cookies_warm_ones_too(ada: Client) -> None:
    assert await ada.is_signed_in()
    assert await ada.process.signing.revoke(ada.process.keyring.signing.kid)
    assert not await ada.is_signed_in()
    await ada.sign_in(EMAIL)
    assert await ada.is_signed_in()
