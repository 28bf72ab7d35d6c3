"""Refresh families: an honest client is never signed out, whoever copied a token is found out (T7; failures 12, 13).

The state machine drives several processes over one real store with a clock of its own. *Honest* means: answers may be
lost, retried, asked for by several tabs at once, and the app may sleep for hours in between. The *thief* copies what
the client holds at some moment.

What is not promised, and is seen here as such: a thief who rotates before the owner does and keeps quiet is not told
from the owner while the family is bound to nothing. When the owner comes back with the token that the thief has used,
and the thief's token was used since, the family ends: the owner is signed out, too, and the event says why. A family
that is bound to its device gives a thief without the device nothing at all.
"""

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from garrison.core.clock import ManualClock
from garrison.identity.tokens.rotation import Verdict, judge
from tests.identity.conftest import CHEAP, Client, OpenProcess, Process
from tests.stores import STORE, drop_stores, open_store

pytestmark = pytest.mark.anyio
EMAIL = "ada@example.com"
GRACE_S, HOUR_S, DAY_S = 10, 3600, 86_400


async def signed_in(process: Process) -> tuple[Client, dict[str, Any]]:
    client = Client(process)
    await client.sign_up(EMAIL)
    return client, (await client.sign_in(EMAIL, deliver="token")).body


async def refresh(process: Process, token: str, device: str | None = None) -> Any:
    body = {"refresh_token": token, **({} if device is None else {"device_token": device})}
    return await process.call("POST", "/auth/refresh", body)


@pytest.mark.parametrize("acknowledged", [True, False])
@pytest.mark.parametrize("age_s", [0, 9.9, 10, 3600])
def test_the_rule_by_itself(age_s: float, acknowledged: bool) -> None:
    def verdict(used_at: float | None, *, is_bound: bool = False, shows: bool = False) -> Verdict:
        return judge(
            used_at=used_at,
            acknowledged=acknowledged,
            now=1000 + age_s,
            grace_s=GRACE_S,
            is_bound=is_bound,
            shows_binding=shows,
        )

    assert verdict(None) is Verdict.ROTATE
    repeated = Verdict.REPEAT if age_s < GRACE_S or not acknowledged else Verdict.THEFT
    assert verdict(1000) is repeated
    assert verdict(1000, is_bound=True, shows=True) is repeated
    assert verdict(1000, is_bound=True) is Verdict.THEFT
    assert verdict(None, is_bound=True) is Verdict.REFUSE


async def test_the_answer_is_the_contracts_and_the_new_token_works(process: Process) -> None:
    client, first = await signed_in(process)
    reply = await refresh(process, first["refresh_token"])
    assert reply.status == 200
    assert set(reply.body) == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert reply.body["refresh_token"] != first["refresh_token"]
    assert await Client(process, token=reply.body["access_token"]).is_signed_in()
    assert await client.is_signed_in(), "the access token before is good until it ends"
    bound = await refresh(process, reply.body["refresh_token"], first["device_token"])
    assert bound.body["device_token"] == first["device_token"]


async def test_sixty_four_at_once_get_one_successor(process: Process, open_process: OpenProcess) -> None:
    _, first = await signed_in(process)
    async with open_process() as other:
        replies = await asyncio.gather(
            *(refresh(process if number % 2 else other, first["refresh_token"]) for number in range(64))
        )
    assert {reply.status for reply in replies} == {200}
    assert len({reply.body["refresh_token"] for reply in replies}) == 1


async def test_a_replay_after_a_restart_ends_the_family(
    process: Process, open_process: OpenProcess, clock: ManualClock
) -> None:
    """Keycloak CVE-2026-9802: what was known of used tokens was lost with the process."""
    _, first = await signed_in(process)
    second = (await refresh(process, first["refresh_token"])).body
    assert await Client(process, token=second["access_token"]).is_signed_in()
    await process.tokens.flush()
    clock.advance(GRACE_S)
    async with open_process() as restarted:
        assert (await refresh(restarted, first["refresh_token"])).code == "invalid_grant"
        assert (await refresh(restarted, second["refresh_token"])).code == "invalid_grant"
        assert not await Client(restarted, token=second["access_token"]).is_signed_in()
        assert "refresh.reused" in [event["kind"] for event in await restarted.events()]
    await process.poll()
    assert not await Client(process, token=second["access_token"]).is_signed_in()


async def test_a_lost_answer_may_be_asked_for_again_days_later(process: Process, clock: ManualClock) -> None:
    _, first = await signed_in(process)
    lost = (await refresh(process, first["refresh_token"])).body
    clock.advance(5 * DAY_S)
    again = await refresh(process, first["refresh_token"])
    assert again.status == 200
    assert again.body["refresh_token"] == lost["refresh_token"]
    assert await Client(process, token=again.body["access_token"]).is_signed_in()


async def test_the_successor_used_acknowledges_too(process: Process, clock: ManualClock) -> None:
    _, first = await signed_in(process)
    second = (await refresh(process, first["refresh_token"])).body
    third = (await refresh(process, second["refresh_token"])).body
    assert (await refresh(process, first["refresh_token"])).body["refresh_token"] == second["refresh_token"]
    clock.advance(GRACE_S)
    assert (await refresh(process, first["refresh_token"])).code == "invalid_grant"
    assert (await refresh(process, third["refresh_token"])).code == "invalid_grant"


async def test_once_bound_every_refresh_needs_the_device(process: Process) -> None:
    _, first = await signed_in(process)
    other = (await Client(process).sign_in(EMAIL, deliver="token")).body
    second = (await refresh(process, first["refresh_token"], other["device_token"])).body
    assert second["refresh_token"], "another device of the account binds nothing, and an unbound family takes anybody"
    third = (await refresh(process, second["refresh_token"], first["device_token"])).body
    for device in (None, other["device_token"], "x"):
        assert (await refresh(process, third["refresh_token"], device)).code == "invalid_grant"
    fourth = await refresh(process, third["refresh_token"], first["device_token"])
    assert fourth.status == 200
    assert (await refresh(process, third["refresh_token"])).code == "invalid_grant", "again, from elsewhere: theft"
    assert (await refresh(process, fourth.body["refresh_token"], first["device_token"])).code == "invalid_grant"


async def test_a_family_ends_with_its_session_its_password_and_its_account(process: Process) -> None:
    for ending in ("sign out", "everywhere", "password", "disable"):
        email = f"{ending.replace(' ', '-')}@example.com"
        client = Client(process)
        await client.sign_up(email)
        first = (await client.sign_in(email, deliver="token")).body
        other = Client(process)
        await other.sign_in(email)
        match ending:
            case "sign out":
                await client.call("POST", "/auth/sign-out")
            case "everywhere":
                await other.call("POST", "/auth/sign-out-everywhere")
            case "password":
                body = {"current": "a long walk to the sea", "new": "quite another password"}
                assert (await other.call("POST", "/auth/password/change", body)).status == 204
            case "disable":
                await process.accounts.disable(email)
        assert (await refresh(process, first["refresh_token"])).code == "invalid_grant", ending
        assert not await Client(process, token=first["access_token"]).is_signed_in(), ending


async def test_a_family_slides_for_seven_days_and_ends_after_ninety(process: Process, clock: ManualClock) -> None:
    _, body = await signed_in(process)
    for _ in range(14):
        clock.advance(6 * DAY_S)
        reply = await refresh(process, body["refresh_token"])
        assert reply.status == 200
        body = reply.body
    clock.advance(6 * DAY_S)
    assert (await refresh(process, body["refresh_token"])).code == "invalid_grant"
    _, body = await signed_in(process)
    clock.advance(7 * DAY_S)
    assert (await refresh(process, body["refresh_token"])).code == "invalid_grant"


async def test_a_role_reaches_the_next_token_and_the_one_before(process: Process) -> None:
    client, first = await signed_in(process)
    await process.accounts.set_role(EMAIL, "editor")
    assert (await client.call("GET", "/auth/session")).body["account"]["scopes"] == ["tasks:read", "tasks:write"]
    assert (await refresh(process, first["refresh_token"])).body["scope"] == "tasks:read tasks:write"


async def test_nothing_in_the_store_is_a_token(process: Process, tmp_path: Path) -> None:
    _, first = await signed_in(process)
    second = (await refresh(process, first["refresh_token"])).body
    files = [file.read_bytes() for file in tmp_path.glob("garrison.db*")]  # noqa: ASYNC240 - the test's own
    stored = b"".join([await process.contents(), *files])
    assert b"ada@example.com" in stored
    for secret in (first["refresh_token"], second["refresh_token"], first["device_token"], second["access_token"]):
        assert secret.encode() not in stored
        assert secret[4:].encode() not in stored


# mixed


async def test_the_refresh_cookie_is_honoured_with_its_device_only(process: Process) -> None:
    page = Client(process)
    await page.sign_up(EMAIL)
    await page.sign_in(EMAIL, deliver="mixed")
    other = Client(process)
    await other.sign_in(EMAIL, deliver="mixed")
    held = dict(page.cookies)
    for wrong in (
        {"garrison-refresh": held["garrison-refresh"]},
        {"garrison-refresh": held["garrison-refresh"], "garrison-device": other.cookies["garrison-device"]},
        {"garrison-device": held["garrison-device"]},
        {},
    ):
        assert (await Client(process, cookies=wrong).call("POST", "/auth/refresh")).code == "invalid_grant"
    reply = await page.call("POST", "/auth/refresh")
    assert set(reply.body) == {"access_token", "token_type", "expires_in", "scope"}
    assert page.cookies["garrison-refresh"] != held["garrison-refresh"]
    assert await Client(process, token=reply.body["access_token"]).is_signed_in()
    again = Client(process, cookies=held)
    assert (await again.call("POST", "/auth/refresh", {})).status == 200
    assert again.cookies["garrison-refresh"] == page.cookies["garrison-refresh"], "a second tab gets the same"


async def test_another_site_cannot_refresh(process: Process) -> None:
    page = Client(process)
    await page.sign_up(EMAIL)
    await page.sign_in(EMAIL, deliver="mixed")
    for headers in ({"origin": "https://evil.example.com"}, {"sec-fetch-site": "cross-site"}):
        assert (await page.call("POST", "/auth/refresh", headers=headers)).code == "cross_site"
    assert (await page.call("POST", "/auth/refresh", headers={"sec-fetch-site": "same-origin"})).status == 200


# The model


class Families(RuleBasedStateMachine):
    """One owner, perhaps a thief, three processes that may be restarted."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "garrison.db"
        self.clock = ManualClock()
        self.processes = [self.open() for _ in range(2)]
        self.ended = False

    def open(self) -> Process:
        return Process(open_store(self.path), self.clock, CHEAP)

    def teardown(self) -> None:
        for process in self.processes:
            self.close(process)
        self.loop.close()
        drop_stores([self.path])
        self.directory.cleanup()

    def close(self, process: Process) -> None:
        process.close()
        self.loop.run_until_complete(process.database.close())

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def ask(self, number: int, token: str) -> Any:
        process = self.processes[number]
        self.run(process.poll())
        return self.run(refresh(process, token, self.device))

    @initialize(bound=st.booleans())
    def sign_in(self, bound: bool) -> None:
        _, body = self.run(signed_in(self.processes[0]))
        self.device = body["device_token"] if bound else None
        self.held, self.access = body["refresh_token"], body["access_token"]
        self.latest = self.held
        if bound:  # from here on
            self.refresh(0, lost=False, tabs=1)

    @precondition(lambda self: not self.ended)
    @rule(number=st.integers(0, 1), lost=st.booleans(), tabs=st.integers(1, 3))
    def refresh(self, number: int, lost: bool, tabs: int) -> None:
        replies = [self.ask((number + tab) % 2, self.held) for tab in range(tabs)]
        assert {reply.status for reply in replies} == {200}, "an honest client is never signed out"
        assert len({reply.body["refresh_token"] for reply in replies}) == 1
        self.latest = replies[0].body["refresh_token"]
        if not lost:
            self.held, self.access = self.latest, replies[-1].body["access_token"]

    @precondition(lambda self: not self.ended)
    @rule(number=st.integers(0, 1))
    def call(self, number: int) -> None:
        process = self.processes[number]
        self.run(process.poll())
        self.run(Client(process, token=self.access).is_signed_in())
        self.run(process.tokens.flush())

    @rule(seconds=st.sampled_from([1, 5, 9, 11, 60, HOUR_S, 5 * HOUR_S]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(number=st.integers(0, 1))
    def restart(self, number: int) -> None:
        self.close(self.processes[number])
        self.processes[number] = self.open()

    @precondition(lambda self: not self.ended)
    @rule(number=st.integers(0, 1))
    def a_thief_comes_after(self, number: int) -> None:
        """With a token that the owner has rotated, and whose successor is known to have arrived, after the grace."""
        if self.device is not None:
            assert self.run(refresh(self.processes[number], self.held)).code == "invalid_grant", "bound: nothing at all"
            if self.held != self.latest:  # a second presentation, from elsewhere: theft at once
                assert self.ask(number, self.latest).code == "invalid_grant"
                self.ended = True
                return
        copied = self.held
        first = self.ask(number, copied)
        assert first.status == 200
        second = self.ask(number, first.body["refresh_token"])
        assert second.status == 200
        self.clock.advance(GRACE_S)
        assert self.ask(1 - number, copied).code == "invalid_grant", "a replay after acknowledgement is found out"
        for process in self.processes:
            self.run(process.poll())
            assert not self.run(Client(process, token=second.body["access_token"]).is_signed_in())
        assert self.ask(number, second.body["refresh_token"]).code == "invalid_grant", "the family is dead"
        self.ended = True

    @invariant()
    def one_family(self) -> None:
        if hasattr(self, "held") and not self.ended:
            assert self.run(self.processes[0].cold("SELECT count(*) FROM sessions")) == [(1,)]


REFRESH_N = int(os.environ.get("REFRESH_N", "100" if STORE == "sqlite" else "10"))
"""How many stories; `make soak` runs 2,000."""

Families.TestCase.settings = settings(max_examples=REFRESH_N, stateful_step_count=15, deadline=None)
TestFamilies = Families.TestCase


def test_the_adaptive_thief_is_found_out_when_the_owner_returns(tmp_path: Path) -> None:
    """Written down: unbound, a thief who is first has what the owner had, until the owner comes back."""

    async def story(device: bool) -> tuple[int, int, int]:
        clock = ManualClock()
        process = Process(open_store(tmp_path / f"{device}.db"), clock, CHEAP)
        _, first = await signed_in(process)
        token = first["refresh_token"]
        if device:  # the owner's app sends its device token from the first refresh on
            token = (await refresh(process, token, first["device_token"])).body["refresh_token"]
        thief = await refresh(process, token)
        if thief.status == 200:
            await refresh(process, thief.body["refresh_token"])
        clock.advance(GRACE_S)
        owner = await refresh(process, token, first["device_token"] if device else None)
        later = await refresh(process, thief.body.get("refresh_token", "x"))
        process.close()
        await process.database.close()
        return thief.status, owner.status, later.status

    assert asyncio.run(story(device=False)) == (200, 400, 400), "the thief was first: found out when the owner returns"
    assert asyncio.run(story(device=True)) == (400, 200, 400), (
        "bound: the thief gets nothing, the owner notices nothing"
    )
