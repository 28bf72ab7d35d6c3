"""Sign-in: what it answers, what it never tells, and what happens to it while it is under way."""

import asyncio
import threading
from typing import Any

import pytest

from garrison.core.ids import new_secret
from garrison.identity.settings import PasswordCost
from tests.identity.conftest import PASSWORD, Client, OpenProcess, Process, account_id

pytestmark = pytest.mark.anyio
EMAIL = "ada@example.com"


@pytest.fixture
async def ada(client: Client) -> Client:
    await client.sign_up(EMAIL)
    return client


# Answers


async def test_by_cookie_on_loopback_the_names_have_no_prefix_and_the_cookies_are_not_secure(ada: Client) -> None:
    reply = await ada.sign_in(EMAIL)
    assert (reply.status, reply.body) == (200, {"status": "complete"})
    assert set(reply.cookies) == {"garrison", "garrison-device"}
    for morsel in reply.cookies.values():
        assert (morsel["httponly"], morsel["samesite"], morsel["path"], morsel["secure"]) == (True, "Lax", "/", "")
        assert not morsel["domain"]
    assert await ada.is_signed_in()


async def test_by_cookie_over_tls_the_names_are_host_bound_and_secure(process: Process) -> None:
    client = Client(process, secure=True, peer="192.0.2.1")
    await client.sign_up(EMAIL)
    reply = await client.sign_in(EMAIL)
    assert set(reply.cookies) == {"__Host-garrison", "__Host-garrison-device"}
    for morsel in reply.cookies.values():
        assert (morsel["httponly"], morsel["samesite"], morsel["path"], morsel["secure"]) == (True, "Lax", "/", True)
    assert await client.is_signed_in()


async def test_by_token_the_answer_is_the_contracts(ada: Client) -> None:
    reply = await ada.sign_in(EMAIL, deliver="token")
    assert reply.status == 200
    assert set(reply.body) == {
        "status",
        "access_token",
        "token_type",
        "expires_in",
        "refresh_token",
        "scope",
        "device_token",
    }
    assert reply.body["status"] == "complete"
    assert reply.body["access_token"].count(".") == 2
    assert reply.body["refresh_token"].startswith("grr_")
    assert reply.body["token_type"] == "Bearer"
    assert reply.body["expires_in"] == 15 * 60
    assert reply.body["scope"] == "tasks:read"
    assert not reply.cookies
    assert await ada.is_signed_in()


async def test_mixed_keeps_the_refresh_token_and_the_device_in_cookies(ada: Client) -> None:
    reply = await ada.sign_in(EMAIL, deliver="mixed")
    assert reply.status == 200
    assert set(reply.body) == {"status", "access_token", "token_type", "expires_in", "scope"}
    assert set(reply.cookies) == {"garrison-refresh", "garrison-device"}
    refresh = reply.cookies["garrison-refresh"]
    assert (refresh["httponly"], refresh["samesite"], refresh["path"]) == (True, "Strict", "/auth/refresh")
    assert await ada.is_signed_in()


async def test_a_cookie_is_not_given_where_it_would_travel_in_clear(process: Process) -> None:
    client = Client(process, peer="192.0.2.1")
    await client.sign_up(EMAIL)
    reply = await client.sign_in(EMAIL)
    assert (reply.status, reply.code) == (400, "https_required")
    assert not reply.cookies
    assert (await client.sign_in(EMAIL, deliver="token")).status == 200


@pytest.mark.parametrize(
    ("password", "status"),
    [
        ("", 400),
        ("x", 401),
        ("x" * 1024, 401),
        ("\N{SNOWMAN}" * 341, 401),
        ("x" * 1025, 400),
        ("\N{SNOWMAN}" * 342, 400),
    ],
)
async def test_any_password_up_to_1024_bytes_costs_one_hash(ada: Client, password: str, status: int) -> None:
    before = ada.process.pool.runs
    assert (await ada.sign_in(EMAIL, password)).status == status
    assert ada.process.pool.runs - before == (status == 401)


@pytest.mark.parametrize("extra", ["role", "user_id", "userId", "sub", "account_id", "session_id", "refresh_token"])
async def test_unknown_fields_are_refused(ada: Client, extra: str) -> None:
    reply = await ada.sign_in(EMAIL, **{extra: "acc_0"})
    assert (reply.status, reply.code) == (400, "validation")


# What it never tells


async def test_unknown_wrong_and_disabled_get_one_and_the_same_answer_for_the_same_work(ada: Client) -> None:
    process = ada.process
    await Client(process).sign_up("bob@example.com")
    await process.accounts.disable("bob@example.com")
    answers: list[tuple[Any, ...]] = []
    for email, password in [
        (EMAIL, "wrong password"),
        ("nobody@example.com", "wrong password"),
        ("bob@example.com", PASSWORD),
        ("bob@example.com", "wrong password"),
        ("not an address", "wrong password"),
        ("@", "x"),
    ]:
        before = process.pool.runs
        reply = await Client(process).sign_in(email, password)
        answers.append((reply.status, reply.headers, reply.body, process.pool.runs - before))
    assert all(answer == answers[0] for answer in answers)
    assert answers[0][0] == 401
    assert answers[0][2]["code"] == "invalid_credentials"
    assert answers[0][3] == 1


# Identifiers


async def test_a_presented_identifier_is_never_adopted(ada: Client) -> None:
    planted = new_secret()
    ada.cookies["garrison"] = planted
    ada.cookies["garrison-device"] = planted
    reply = await ada.sign_in(EMAIL)
    assert reply.cookies["garrison"].value != planted
    assert reply.cookies["garrison-device"].value != planted
    assert not await Client(ada.process, cookies={"garrison": planted}).is_signed_in()


async def test_signing_in_again_replaces_the_session_that_was_shown(ada: Client) -> None:
    await ada.sign_in(EMAIL)
    other = Client(ada.process)
    await other.sign_in(EMAIL)
    old = dict(ada.cookies)
    await ada.sign_in(EMAIL)
    assert not await Client(ada.process, cookies=old).is_signed_in()
    assert await ada.is_signed_in()
    assert await other.is_signed_in()


async def test_a_sign_in_by_token_leaves_the_browsers_session_alone(ada: Client) -> None:
    await ada.sign_in(EMAIL)
    browser = Client(ada.process, cookies=dict(ada.cookies))
    await browser.sign_in(EMAIL, deliver="token")
    assert await ada.is_signed_in()


async def test_session_ids_do_not_follow_from_secrets(ada: Client) -> None:
    reply = await ada.sign_in(EMAIL, deliver="token")
    session = (await ada.call("GET", "/auth/session")).body["session"]
    assert session["id"].startswith("ses_")
    assert session["id"][4:] not in reply.body["access_token"]


async def test_a_stale_cookie_does_not_stand_in_the_way(ada: Client) -> None:
    ada.cookies["garrison"] = new_secret()
    assert (await ada.sign_in(EMAIL)).status == 200


async def test_a_known_device_is_kept_and_a_foreign_one_is_not_adopted(ada: Client) -> None:
    first = await ada.sign_in(EMAIL, deliver="token")
    again = await ada.sign_in(EMAIL, deliver="token", device_token=first.body["device_token"])
    assert again.body["device_token"] == first.body["device_token"]
    bob = Client(ada.process)
    await bob.sign_up("bob@example.com")
    his = await bob.sign_in("bob@example.com", deliver="token", device_token=first.body["device_token"])
    assert his.body["device_token"] != first.body["device_token"]


async def test_of_more_devices_than_allowed_the_one_unused_longest_is_forgotten(open_process: OpenProcess) -> None:
    async with open_process(max_devices=2) as process:
        client = Client(process)
        await client.sign_up(EMAIL)
        tokens = []
        for _ in range(3):
            tokens.append((await client.sign_in(EMAIL, deliver="token")).body["device_token"])
            process.clock.advance(1)
        for token, known in zip(tokens[::-1], (True, True, False), strict=True):
            reply = await client.sign_in(EMAIL, deliver="token", device_token=token)
            assert (reply.body["device_token"] == token) is known


# While it is under way


async def hold(process: Process) -> threading.Event:
    """Keep every hashing thread busy until the returned event is set."""
    release = threading.Event()
    for _ in range(process.pool.threads):
        begun = threading.Event()

        def work(begun: threading.Event = begun) -> bool:
            begun.set()
            return release.wait(10)

        holding.add(asyncio.create_task(HOLD(process, work)))
        while not begun.is_set():
            await asyncio.sleep(0.001)
    return release


holding: set["asyncio.Task[bool]"] = set()


async def HOLD(process: Process, work: Any) -> bool:
    return bool(await super(type(process.pool), process.pool).run(work))


async def test_an_account_disabled_during_the_hash_is_not_signed_in(ada: Client) -> None:
    release = await hold(ada.process)
    signing_in = asyncio.create_task(ada.sign_in(EMAIL))
    while not ada.process.pool._waiting:
        await asyncio.sleep(0.001)
    await ada.process.accounts.disable(EMAIL)
    release.set()
    reply = await signing_in
    assert (reply.status, reply.code) == (401, "invalid_credentials")
    assert await ada.process.sessions.list(await account_id(ada)) == []


async def test_a_password_changed_during_the_hash_no_longer_signs_in(ada: Client) -> None:
    other = Client(ada.process)
    await other.sign_in(EMAIL)
    release = await hold(ada.process)
    changing = asyncio.create_task(
        other.call("POST", "/auth/password/change", {"current": PASSWORD, "new": "quite another password"})
    )
    while len(ada.process.pool._waiting) < 1:
        await asyncio.sleep(0.001)
    signing_in = [asyncio.create_task(Client(ada.process).sign_in(EMAIL)) for _ in range(3)]
    while len(ada.process.pool._waiting) < 4:
        await asyncio.sleep(0.001)
    release.set()
    assert (await changing).status == 204
    statuses = {(await one).status for one in signing_in}
    sessions = await ada.process.sessions.list(await account_id(ada))
    assert len(sessions) == 1, "whoever signed in before the change was ended by it, nobody after"
    assert statuses <= {200, 401}


async def test_sign_ins_and_a_disable_at_once_leave_nobody_signed_in(ada: Client) -> None:
    clients = [Client(ada.process) for _ in range(8)]
    tasks = [asyncio.create_task(client.sign_in(EMAIL, deliver="token")) for client in clients]
    await asyncio.sleep(0.002)
    account = await ada.process.accounts.disable(EMAIL)
    await asyncio.gather(*tasks)
    assert await ada.process.sessions.list(account.id) == []
    assert not any([await client.is_signed_in() for client in clients])


async def test_a_hash_with_old_parameters_is_renewed_even_by_two_sign_ins_at_once(open_process: OpenProcess) -> None:
    async with open_process() as old:
        await Client(old).sign_up(EMAIL)
    async with open_process(password_cost=PasswordCost(16, 1, 1)) as new:
        replies = await asyncio.gather(*(Client(new).sign_in(EMAIL) for _ in range(4)))
        assert [reply.status for reply in replies] == [200] * 4
        assert "m=16," in await stored_hash(new)


async def test_a_full_pool_sheds_before_the_store_is_touched(open_process: OpenProcess) -> None:
    async with open_process(hash_queue=1, hash_threads=1) as process:
        client = Client(process)
        await client.sign_up(EMAIL)
        release = await hold(process)
        waiting = asyncio.create_task(Client(process).sign_in(EMAIL))
        while not process.pool.is_full():
            await asyncio.sleep(0.001)
        for _ in range(20):
            reply = await client.sign_in(EMAIL, "wrong password")
            assert (reply.status, reply.code) == (503, "overloaded")
            assert reply.header(b"retry-after")
        release.set()
        assert (await waiting).status == 200
        assert (await client.sign_in(EMAIL)).status == 200, "what was shed counted as no failure"


async def test_a_sign_in_shed_while_waiting_gives_its_reservation_back(open_process: OpenProcess) -> None:
    async with open_process(hash_threads=1, hash_queue_timeout_s=0.02) as process:
        client = Client(process)
        await client.sign_up(EMAIL)
        release = await hold(process)
        for _ in range(8):
            assert (await client.sign_in(EMAIL, "wrong password")).code == "overloaded"
        release.set()
        while (reply := await client.sign_in(EMAIL)).code == "overloaded":  # 20 ms may be little on a busy machine
            await asyncio.sleep(0.01)
        assert reply.status == 200, "and nothing else stands in the way"


async def stored_hash(process: Process) -> str:
    from sqlalchemy import text

    row = await process.database.read(
        lambda connection: connection.execute(text("SELECT password_hash FROM accounts")).one()
    )
    return str(row.password_hash)
