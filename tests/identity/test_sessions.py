"""Sessions: one's own to see and to end, ended at once, ended by time, and never anybody else's."""

import asyncio

import pytest

from garrison.core.clock import ManualClock
from tests.identity.conftest import PASSWORD, Client, OpenProcess, Process, account_id

pytestmark = pytest.mark.anyio
EMAIL = "ada@example.com"
DAY_S = 86_400


@pytest.fixture(params=["opaque", "jwt"])
def session_format(request: pytest.FixtureRequest) -> str:
    """R4: the same tests, one setting changed."""
    return str(request.param)


@pytest.fixture
async def ada(client: Client) -> Client:
    await client.sign_up(EMAIL)
    await client.sign_in(EMAIL)
    return client


async def another(process: Process, email: str = EMAIL, **more: str) -> Client:
    client = Client(process)
    await client.sign_up(email)
    assert (await client.sign_in(email, **more)).status == 200
    if more.get("deliver") != "token":
        assert client.cookies
    return client


async def session_id(client: Client) -> str:
    return str((await client.call("GET", "/auth/session")).body["session"]["id"])


async def test_the_session_shows_account_and_factors_in_rfc_3339(ada: Client, clock: ManualClock) -> None:
    document = (await ada.call("GET", "/auth/session")).body
    assert set(document) == {"account", "session"}
    assert set(document["account"]) == {"id", "email", "roles", "scopes"}
    assert document["account"]["id"].startswith("acc_")
    assert document["session"]["created_at"] == "2027-01-15T08:00:00Z"
    assert document["session"]["expires_at"] == "2027-02-14T08:00:00Z"
    assert document["session"]["factors"] == [{"kind": "password", "proved_at": "2027-01-15T08:00:00Z"}]


async def test_nobody_has_no_session(process: Process) -> None:
    for method, path in [
        ("GET", "/auth/session"),
        ("GET", "/auth/sessions"),
        ("DELETE", "/auth/sessions/ses_0"),
        ("POST", "/auth/sign-out-everywhere"),
    ]:
        assert (await Client(process).call(method, path)).status == 401


async def test_own_sessions_are_listed_newest_first_and_nobody_elses(ada: Client, clock: ManualClock) -> None:
    clock.advance(1)
    phone = await another(ada.process, deliver="token")
    await another(ada.process, "bob@example.com")
    items = (await ada.call("GET", "/auth/sessions")).body["items"]
    assert [item["id"] for item in items] == [await session_id(phone), await session_id(ada)]
    assert [item["current"] for item in items] == [False, True]
    assert [item["carrier"] for item in items] == ["token", "cookie"]
    assert {item["client"] for item in items} == {"Firefox on Linux"}
    assert {item["network"] for item in items} == {"127.0.0.0/24"}
    assert [item["created_at"] for item in items] == ["2027-01-15T08:00:01Z", "2027-01-15T08:00:00Z"]


async def test_one_may_end_ones_own_session_and_it_ends_at_once(ada: Client) -> None:
    phone = await another(ada.process, deliver="token")
    assert await phone.is_signed_in()
    assert (await ada.call("DELETE", f"/auth/sessions/{await session_id(phone)}")).status == 204
    assert not await phone.is_signed_in()
    assert await ada.is_signed_in()


async def test_a_foreign_an_unknown_and_a_malformed_id_are_one_and_the_same_404(ada: Client) -> None:
    bob = await another(ada.process, "bob@example.com")
    foreign = await session_id(bob)
    unknown = "ses_" + "0" * 24
    replies = [
        await ada.call("DELETE", f"/auth/sessions/{id}")
        for id in (foreign, unknown, "x", "ses_", "acc_1", "'; DROP TABLE sessions; --", "é", "9" * 999)
    ]
    assert {(reply.status, reply.code) for reply in replies} == {(404, "not_found")}
    assert all(reply.body == replies[0].body for reply in replies)
    assert await bob.is_signed_in()


async def test_sign_out_ends_this_session_clears_its_cookie_and_keeps_the_device(ada: Client) -> None:
    phone = await another(ada.process, deliver="token")
    before = dict(ada.cookies)
    reply = await ada.call("POST", "/auth/sign-out", {})
    assert reply.status == 204
    assert set(ada.cookies) == {"garrison-device"}
    assert not await Client(ada.process, cookies=before).is_signed_in()
    assert await phone.is_signed_in()
    assert (await phone.call("POST", "/auth/sign-out")).status == 204
    assert not await phone.is_signed_in()


async def test_sign_out_without_a_session_or_with_a_dead_cookie_is_204_and_clears(ada: Client) -> None:
    assert (await Client(ada.process).call("POST", "/auth/sign-out")).status == 204
    stale = Client(ada.process, cookies=dict(ada.cookies))
    await ada.call("POST", "/auth/sign-out")
    reply = await stale.call("POST", "/auth/sign-out")
    assert reply.status == 204
    assert "garrison" not in stale.cookies


async def test_a_dead_token_is_401_even_at_sign_out(ada: Client) -> None:
    phone = await another(ada.process, deliver="token")
    await phone.call("POST", "/auth/sign-out")
    reply = await phone.call("POST", "/auth/sign-out")
    assert (reply.status, reply.code) == (401, "invalid_token")
    assert "invalid_token" in reply.header(b"www-authenticate")


async def test_only_sign_out_clears_cookies(ada: Client) -> None:
    old = Client(ada.process, cookies=dict(ada.cookies))
    await ada.call("POST", "/auth/sign-out")
    for method, path in [("GET", "/auth/session"), ("GET", "/auth/sessions"), ("DELETE", "/auth/sessions/ses_0")]:
        assert not (await old.call(method, path)).cookies
    assert not (await old.sign_up("bob@example.com")).cookies


async def test_signing_out_everywhere_ends_all_of_ones_own_this_one_included(ada: Client) -> None:
    phone = await another(ada.process, deliver="token")
    bob = await another(ada.process, "bob@example.com")
    assert (await ada.call("POST", "/auth/sign-out-everywhere")).status == 204
    assert "garrison" not in ada.cookies
    assert not await ada.is_signed_in()
    assert not await phone.is_signed_in()
    assert await bob.is_signed_in()
    assert (await ada.sign_in(EMAIL)).status == 200
    assert await ada.is_signed_in()


async def test_fifty_people_with_three_devices_each_do_not_disturb_each_other(process: Process) -> None:
    people = {f"p{n}@example.com": [Client(process) for _ in range(3)] for n in range(50)}

    async def live(email: str, devices: list[Client]) -> None:
        await devices[0].sign_up(email)
        for device, deliver in zip(devices, ("cookie", "token", "cookie"), strict=True):
            await device.sign_in(email, deliver=deliver)
        await devices[2].call("POST", "/auth/sign-out")

    await asyncio.gather(*(live(email, devices) for email, devices in people.items()))
    for email, (browser, phone, gone) in people.items():
        for client in (browser, phone):
            assert (await client.call("GET", "/auth/session")).body["account"]["email"] == email
        assert not await gone.is_signed_in()
        assert len((await browser.call("GET", "/auth/sessions")).body["items"]) == 2


# Time


async def test_a_session_ends_absolutely_however_much_it_is_used(ada: Client, clock: ManualClock) -> None:
    for _ in range(29):
        clock.advance(DAY_S)
        assert await ada.is_signed_in()
    clock.advance(DAY_S - 1)
    assert await ada.is_signed_in()
    clock.advance(1)
    assert not await ada.is_signed_in()
    assert await ada.process.sessions.list(await account_id(ada)) == []


async def test_an_idle_session_ends(ada: Client, clock: ManualClock) -> None:
    clock.advance(14 * DAY_S - 1)
    assert await ada.is_signed_in()
    clock.advance(14 * DAY_S)
    assert not await ada.is_signed_in()


async def test_use_is_written_in_batches_and_outlives_the_process(
    open_process: OpenProcess, clock: ManualClock
) -> None:
    async with open_process() as first:
        client = await another(first)
        clock.advance(10 * DAY_S)
        assert await client.is_signed_in()
        assert await seen_at(first) == clock.now() - 10 * DAY_S, "nothing is written on the request's path"
        await first.cache.flush(clock.now())
        assert await seen_at(first) == clock.now()
        clock.advance(60)
        assert await client.is_signed_in()
        await first.cache.flush(clock.now())
        assert await seen_at(first) == clock.now() - 60, "not before a twentieth of the idle time has gone by"
        clock.advance(first.settings.touch_every_s)
        await first.cache.flush(clock.now())
        assert await seen_at(first) == clock.now() - first.settings.touch_every_s
        clock.advance(60)
        assert await client.is_signed_in()
        await first.cache.flush(clock.now(), force=True)
        assert await seen_at(first) == clock.now()
        cookies = dict(client.cookies)
    async with open_process() as second:
        clock.advance(13 * DAY_S)
        assert await Client(second, cookies=cookies).is_signed_in()


async def test_a_short_idle_time_is_held_within_a_process(open_process: OpenProcess, clock: ManualClock) -> None:
    async with open_process(session_idle_s=2.0) as process:
        client = await another(process)
        for _ in range(10):
            clock.advance(1.5)
            assert await client.is_signed_in()
        clock.advance(0.1)
        assert await client.is_signed_in(fresh=False), (
            "asking the store does not forget the use that is not written yet"
        )
        clock.advance(2.0)
        assert not await client.is_signed_in()


async def test_a_short_idle_time_is_held_by_several_processes(open_process: OpenProcess, clock: ManualClock) -> None:
    async with open_process(session_idle_s=40.0) as first, open_process(session_idle_s=40.0) as second:
        client = await another(first)
        for _ in range(10):
            clock.advance(11)
            assert await client.is_signed_in()
            await first.cache.flush(clock.now())
        assert await Client(second, cookies=client.cookies).is_signed_in(), "it was used all the time"


async def test_of_more_sessions_than_allowed_the_oldest_ends(open_process: OpenProcess, clock: ManualClock) -> None:
    async with open_process(max_sessions=3) as process:
        clients = []
        for _ in range(5):
            clients.append(await another(process, deliver="token"))
            assert await clients[-1].is_signed_in()
            clock.advance(1)
        assert [await client.is_signed_in() for client in clients] == [False, False, True, True, True]


async def seen_at(process: Process) -> float:
    from sqlalchemy import text

    row = await process.database.read(lambda connection: connection.execute(text("SELECT seen_at FROM sessions")).one())
    return float(row.seen_at)


# Services


async def test_the_services_do_what_the_routes_do(ada: Client) -> None:
    process = ada.process
    account = await process.accounts.find(EMAIL)
    assert account is not None
    [session] = await process.sessions.list(account.id)
    assert await process.sessions.revoke(session.id)
    assert not await process.sessions.revoke(session.id)
    assert not await ada.is_signed_in()
    await ada.sign_in(EMAIL)
    assert await process.sessions.revoke_all(account.id)
    assert not await ada.is_signed_in()
    assert not await process.sessions.revoke_all("acc_unknown")


# Password change


async def change(client: Client, current: str = PASSWORD, new: str = "quite another password") -> tuple[int, str]:
    reply = await client.call("POST", "/auth/password/change", {"current": current, "new": new})
    return reply.status, reply.code


@pytest.mark.parametrize("deliver", ["cookie", "token"])
async def test_a_password_change_ends_every_other_session_at_once_and_keeps_this_one(
    process: Process, deliver: str
) -> None:
    client = await another(process, deliver=deliver)
    others = [await another(process), await another(process, deliver="token")]
    bob = await another(process, "bob@example.com")
    for other in (*others, client):
        assert await other.is_signed_in()
    assert await change(client) == (204, "")
    assert [await other.is_signed_in() for other in others] == [False, False]
    assert await client.is_signed_in()
    assert await bob.is_signed_in()
    assert (await Client(process).sign_in(EMAIL)).status == 401
    assert (await Client(process).sign_in(EMAIL, "quite another password")).status == 200
    assert (await client.call("POST", "/auth/sign-out-everywhere")).status == 204
    assert not await client.is_signed_in()


async def test_a_wrong_current_password_changes_nothing_and_counts_as_a_guess(ada: Client) -> None:
    assert [await change(ada, "wrong password") for _ in range(6)] == [(401, "invalid_credentials")] * 5 + [
        (429, "rate_limited")
    ]
    assert await change(ada) == (429, "rate_limited")
    assert await ada.is_signed_in()
    assert (await Client(ada.process, peer="192.0.2.1").sign_in(EMAIL, deliver="token")).status == 200


@pytest.mark.parametrize(
    ("new", "code"), [("Password123", "common_password"), ("short", "validation"), ("x" * 257, "validation")]
)
async def test_the_new_password_is_held_to_the_same_rules(ada: Client, new: str, code: str) -> None:
    assert await change(ada, new=new) == (400, code)
    assert (await Client(ada.process).sign_in(EMAIL)).status == 200


async def test_two_changes_at_once_have_one_winner(ada: Client) -> None:
    phone = await another(ada.process, deliver="token")
    results = await asyncio.gather(
        change(ada, new="the password of ada"), change(phone, new="the password of the phone")
    )
    assert sorted(status for status, _ in results) == [204, 401]
    assert [await ada.is_signed_in(), await phone.is_signed_in()].count(True) == 1


async def test_a_session_ended_during_the_hash_changes_nothing(ada: Client) -> None:
    process = ada.process
    phone = await another(process, deliver="token")
    changing = asyncio.create_task(change(phone))
    while process.pool.runs == 2:
        await asyncio.sleep(0)
    await ada.call("POST", "/auth/sign-out-everywhere")
    status, code = await changing
    assert (status, code) in {(401, "invalid_token"), (204, "")}
    signs_in = (await Client(process).sign_in(EMAIL)).status
    assert (signs_in == 200) == (status == 401)
    assert not await phone.is_signed_in()
