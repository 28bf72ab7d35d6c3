"""Sign-up: always the same answer, one account per address, nothing a client may not set."""

import asyncio
from typing import Any

import pytest

from tests.identity.conftest import PASSWORD, Client, Process

pytestmark = pytest.mark.anyio


async def test_a_new_account_is_a_member_and_may_sign_in(client: Client) -> None:
    reply = await client.sign_up("Ada@Example.com")
    assert (reply.status, reply.body) == (202, {"status": "accepted"})
    assert (await client.sign_in("ada@example.COM")).status == 200
    account = (await client.call("GET", "/auth/session")).body["account"]
    assert account["email"] == "Ada@Example.com"
    assert account["roles"] == ["member"]
    assert account["scopes"] == ["tasks:read"]


async def test_an_address_that_is_taken_gets_the_same_answer_and_changes_nothing(client: Client) -> None:
    first = await client.sign_up("ada@example.com")
    second = await client.sign_up("ADA@example.com", "another long password")
    assert (second.status, second.headers, second.body) == (first.status, first.headers, first.body)
    assert (await client.sign_in("ada@example.com", "another long password")).status == 401
    assert (await client.sign_in("ada@example.com")).status == 200
    assert len(await client.process.accounts.list()) == 1


async def test_both_branches_hash_once_and_commit_one_event(client: Client) -> None:
    costs = []
    for password in (PASSWORD, "another long password"):
        runs, events = client.process.pool.runs, len(await event_kinds(client.process))
        await client.sign_up("ada@example.com", password)
        costs.append((client.process.pool.runs - runs, len(await event_kinds(client.process)) - events))
    assert costs == [(1, 1), (1, 1)]
    assert set(await event_kinds(client.process)) == {"account.created", "account.sign_up_repeated"}


async def test_many_sign_ups_of_one_address_at_once_make_one_account(process: Process) -> None:
    spellings = ["ada@example.com", "ADA@example.com", "Ada@EXAMPLE.com", "aDA@Example.Com"] * 8
    replies = await asyncio.gather(
        *(Client(process).sign_up(email, f"password of {n}") for n, email in enumerate(spellings))
    )
    assert {reply.status for reply in replies} == {202}
    assert len(await process.accounts.list()) == 1
    assert (await event_kinds(process)).count("account.created") == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"email": "ada@example.com"},
        {"password": PASSWORD},
        {"email": "ada@example.com", "password": "short"},
        {"email": "ada@example.com", "password": "x" * 257},
        {"email": "ada@example.com", "password": 12345678},
        {"email": "ada@example.com", "password": ["a"] * 8},
        {"email": "ada@example.com", "password": None},
        {"email": ["ada@example.com"], "password": PASSWORD},
        {"email": "not an address", "password": PASSWORD},
        {"email": "ada@example.com,eve@example.com", "password": PASSWORD},
        {"email": "ada@example.com\r\nBcc: eve@example.com", "password": PASSWORD},
        {"email": "a" * 250 + "@example.com", "password": PASSWORD},
    ],
)
async def test_a_form_error_is_400_and_names_the_field_without_its_value(client: Client, body: dict[str, Any]) -> None:
    reply = await client.call("POST", "/auth/sign-up", body)
    assert (reply.status, reply.code) == (400, "validation")
    for error in reply.body["errors"]:
        assert error["in"] == "body"
        assert error["pointer"] in ("/email", "/password")
        for value in body.values():
            assert str(value) not in str(error) or str(value) == "short"
    assert await client.process.accounts.list() == []


@pytest.mark.parametrize(
    "extra",
    [
        "role",
        "roles",
        "id",
        "account_id",
        "user_id",
        "userId",
        "sub",
        "org_id",
        "status",
        "epoch",
        "email_key",
        "is_admin",
    ],
)
async def test_what_a_client_may_not_set_is_refused(client: Client, extra: str) -> None:
    reply = await client.call(
        "POST", "/auth/sign-up", {"email": "ada@example.com", "password": PASSWORD, extra: "admin"}
    )
    assert (reply.status, reply.code) == (400, "validation")
    assert [error["pointer"] for error in reply.body["errors"]] == [f"/{extra}"]
    assert await client.process.accounts.list() == []


async def test_a_common_password_is_refused_the_same_whether_or_not_the_address_is_taken(client: Client) -> None:
    new = await client.sign_up("ada@example.com", "Password123")
    await client.sign_up("ada@example.com")
    taken = await client.sign_up("ada@example.com", "Password123")
    assert (new.status, new.code) == (400, "common_password")
    assert (taken.status, taken.body) == (new.status, new.body)


async def test_a_password_is_kept_as_it_is_and_none_of_it_is_cut_off(client: Client) -> None:
    password = "\N{SNOWMAN} e\u0301 " + "x" * 251
    assert len(password) == 256
    await client.sign_up("ada@example.com", password)
    assert (await client.sign_in("ada@example.com", password[:-1])).status == 401
    assert (await client.sign_in("ada@example.com", password.replace("e\u0301", "\u00e9"))).status == 401
    assert (await client.sign_in("ada@example.com", password)).status == 200


async def test_sign_up_signs_nobody_in(client: Client) -> None:
    reply = await client.sign_up("ada@example.com")
    assert not reply.cookies
    assert not await client.is_signed_in()


async def event_kinds(process: Process) -> list[str]:
    from sqlalchemy import text

    rows = await process.database.read(lambda connection: connection.execute(text("SELECT kind FROM events")).all())
    return [row.kind for row in rows]
