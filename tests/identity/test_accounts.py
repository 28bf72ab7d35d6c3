"""The account service: what `Garrison.accounts` and the commands call."""

import pytest

from garrison.core.errors import Denied, GarrisonError
from tests.identity.conftest import PASSWORD, Client, Process

pytestmark = pytest.mark.anyio
EMAIL = "ada@example.com"


async def test_an_account_is_made_and_found_by_id_and_by_any_spelling_of_its_address(process: Process) -> None:
    account = await process.accounts.create("Ada@Example.com", PASSWORD)
    assert account.id.startswith("acc_")
    assert (account.email, account.roles, account.status) == ("Ada@Example.com", frozenset({"member"}), "active")
    for name in (account.id, "ada@example.com", "ADA@EXAMPLE.COM"):
        assert await process.accounts.find(name) == account
    for name in ("", "acc_", "ada", "@", "bob@example.com", "not an address@", "%"):
        assert await process.accounts.find(name) is None


async def test_an_account_may_be_made_with_a_role(process: Process) -> None:
    assert (await process.accounts.create(EMAIL, PASSWORD, "admin")).roles == {"member", "admin"}
    assert (await process.accounts.create("bob@example.com", PASSWORD, "member")).roles == {"member"}


@pytest.mark.parametrize(
    ("email", "password", "code"),
    [("no address", PASSWORD, "validation"), (EMAIL, "short", "validation"), (EMAIL, "password1", "common_password")],
)
async def test_the_service_holds_the_same_rules_as_the_route(
    process: Process, email: str, password: str, code: str
) -> None:
    with pytest.raises(Denied) as refused:
        await process.accounts.create(email, password)
    assert refused.value.code == code
    assert await process.accounts.list() == []


async def test_a_second_account_of_one_address_is_an_error_with_a_code(process: Process) -> None:
    await process.accounts.create(EMAIL, PASSWORD)
    with pytest.raises(GarrisonError) as refused:
        await process.accounts.create("ADA@example.com", PASSWORD)
    assert refused.value.code == "account_exists"


@pytest.mark.parametrize("role", ["", " ", "two words", 'quo"te', "back\\slash", "tab\t", "ü", "x" * 129, "line\n"])
async def test_a_role_that_is_no_word_is_refused(process: Process, role: str) -> None:
    await process.accounts.create(EMAIL, PASSWORD)
    with pytest.raises(ValueError, match="one word"):
        await process.accounts.set_role(EMAIL, role)


async def test_a_new_role_replaces_every_other_but_member(process: Process) -> None:
    account = await process.accounts.create(EMAIL, PASSWORD, "editor")
    assert (await process.accounts.set_role(account.id, "admin")).roles == {"member", "admin"}
    assert (await process.accounts.set_role(EMAIL, "member")).roles == {"member"}


@pytest.mark.parametrize("verb", ["set_role", "disable", "enable"])
async def test_an_account_that_is_not_there_is_an_error_with_a_code(process: Process, verb: str) -> None:
    arguments = ("admin",) if verb == "set_role" else ()
    for name in ("acc_unknown", "nobody@example.com", ""):
        with pytest.raises(GarrisonError) as refused:
            await getattr(process.accounts, verb)(name, *arguments)
        assert refused.value.code == "account_not_found"


async def test_a_disabled_account_is_out_at_once_and_comes_back_signed_out(client: Client) -> None:
    accounts = client.process.accounts
    await client.sign_up(EMAIL)
    await client.sign_in(EMAIL, deliver="token")
    assert await client.is_signed_in()
    disabled = await accounts.disable(EMAIL)
    assert disabled.status == "disabled"
    assert not await client.is_signed_in()
    client.token = ""
    assert (await client.sign_in(EMAIL)).status == 401
    enabled = await accounts.enable(EMAIL)
    assert enabled.status == "active"
    assert enabled.epoch == disabled.epoch
    assert not await client.is_signed_in()
    assert (await client.sign_in(EMAIL)).status == 200


async def test_every_change_that_matters_raises_the_version_and_only_ends_raise_the_epoch(process: Process) -> None:
    account = await process.accounts.create(EMAIL, PASSWORD)
    seen = [(account.epoch, account.version)]
    for change in (
        process.accounts.set_role(EMAIL, "admin"),
        process.accounts.disable(EMAIL),
        process.accounts.disable(EMAIL),
        process.accounts.enable(EMAIL),
    ):
        account = await change
        seen.append((account.epoch, account.version))
    assert seen == [(1, 1), (1, 2), (2, 3), (2, 3), (2, 4)]
    assert process.view.known_account[account.id] == 4


async def test_accounts_are_listed_in_pages(process: Process) -> None:
    made = [(await process.accounts.create(f"a{n}@example.com", PASSWORD)).id for n in range(7)]
    found: list[str] = []
    while page := await process.accounts.list(after=found[-1] if found else "", limit=3):
        found.extend(account.id for account in page)
    assert found == sorted(made)


async def test_every_change_leaves_an_event_without_address_or_secret(client: Client) -> None:
    process = client.process
    await client.sign_up(EMAIL)
    await client.sign_in(EMAIL)
    await process.accounts.set_role(EMAIL, "admin")
    body = {"current": PASSWORD, "new": "quite another password"}
    await client.call("POST", "/auth/password/change", body)
    await client.call("POST", "/auth/sign-out")
    await process.accounts.disable(EMAIL)
    await process.accounts.enable(EMAIL)
    rows = await process.events()
    assert [row["kind"] for row in rows] == [
        "account.created",
        "session.created",
        "account.role_changed",
        "password.changed",
        "session.revoked",
        "account.disabled",
        "account.enabled",
    ]
    account = await process.accounts.find(EMAIL)
    assert account is not None
    assert rows[3]["actor"] == rows[3]["subject"] == account.id
    for row in rows:
        assert EMAIL not in str(row)
        assert PASSWORD not in str(row)
