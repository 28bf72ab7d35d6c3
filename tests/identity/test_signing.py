"""Keys that sign: made once, sealed, shown before they sign, rotated without a false 401, revoked at once."""

import asyncio
import base64
import json
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, cast

import pytest

from garrison.core.clock import ManualClock
from garrison.core.errors import GarrisonError
from garrison.core.sealing import Sealer
from garrison.identity.signing.jose import VerifyingKey, generate_key, load_private, private_bytes, sign, verify
from garrison.identity.signing.keyring import Keyring, place_of
from garrison.identity.signing.queries import LOAD, StoredKey
from garrison.identity.signing.service import SigningService
from garrison.store.database import Database, Rows
from tests.identity.conftest import CHEAP, Client, OpenProcess, Process

pytestmark = pytest.mark.anyio
EMAIL = "ada@example.com"
DAY_S = 86_400


async def states(process: Process) -> list[str]:
    return sorted(key.state for key in await process.signing.list())


async def signed_in(process: Process, email: str = EMAIL) -> Client:
    client = Client(process)
    await client.sign_up(email)
    assert (await client.sign_in(email, deliver="token")).status == 200
    return client


async def test_two_processes_that_start_at_once_make_one_pair(process: Process, open_process: OpenProcess) -> None:
    async with open_process() as other:
        await asyncio.gather(*(one.signing.keep() for one in (process, other, process, other)))
        assert await states(process) == ["active", "next"]
        await other.poll()
        assert other.keyring.signing.kid == process.keyring.signing.kid


async def test_the_private_half_is_nowhere_in_clear(process: Process, tmp_path: Path) -> None:
    await process.signing.keep()
    pem = private_bytes(process.keyring.signing.key)
    files = [file.read_bytes() for file in tmp_path.glob("garrison.db*")]  # noqa: ASYNC240 - the test's own
    stored = b"".join([await process.contents(), *files])
    assert process.keyring.signing.kid.encode() in stored
    assert b"PRIVATE KEY" not in stored
    assert b"".join(pem.splitlines()[1:-1])[:40] not in stored
    rows = [StoredKey(*row) for row in await process.cold(LOAD)]
    with pytest.raises(GarrisonError) as caught:
        Keyring(Sealer([b"x" * 32]), CHEAP).fill(rows)
    assert caught.value.code == "wrong_secret"
    swapped = [row._replace(sealed=rows[1 - number].sealed) for number, row in enumerate(rows)]
    with pytest.raises(GarrisonError):
        Keyring(Sealer([b"s" * 32]), CHEAP).fill(swapped)


async def test_keys_are_sealed_anew_under_the_newest_secret(process: Process) -> None:
    await process.signing.keep()
    kid = process.keyring.signing.kid
    rotated = Sealer([b"n" * 32, b"s" * 32])
    ring = Keyring(rotated, CHEAP)
    service = SigningService(process.changes, process.database, process.clock, rotated, ring, CHEAP)
    await service.load()
    assert ring.signing.kid == kid
    alone = Keyring(Sealer([b"n" * 32]), CHEAP)
    alone.fill([StoredKey(*row) for row in await process.cold(LOAD)])
    assert alone.signing.kid == kid, "the older secret can go"


async def test_the_jwks_shows_public_halves_for_as_long_as_they_may_be_kept(process: Process) -> None:
    reply = await process.call("GET", "/.well-known/jwks.json")
    assert reply.status == 200
    assert reply.header(b"cache-control") == "public, max-age=300"
    for key in reply.body["keys"]:
        assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert (key["use"], key["alg"]) == ("sig", "ES256")
    assert len(reply.body["keys"]) == 2


async def test_a_rotation_waits_until_everybody_knows_the_key(
    process: Process, open_process: OpenProcess, clock: ManualClock
) -> None:
    async with open_process() as other:
        before = await signed_in(process)
        old = process.keyring.signing.kid
        following = next(key.kid for key in await process.signing.list() if key.state == "next")
        signs_from = await process.signing.rotate()
        assert signs_from in [key.signs_from for key in await process.signing.list()]
        assert signs_from == clock.now() + 302, "the JWKS' max-age, after the bound within which all show it"
        assert await process.signing.rotate() == signs_from, "asked twice, it comes once"
        clock.advance(301)
        await process.signing.keep()
        assert process.keyring.signing.kid == old
        clock.advance(1)
        await process.signing.keep()
        assert process.keyring.signing.kid == following
        assert await states(process) == ["active", "next", "retired"]
        after = await signed_in(process, "bob@example.com")
        for one in (process, other):
            await one.poll()
            assert await Client(one, token=before.token).is_signed_in(), "what is signed is good until it ends"
            assert await Client(one, token=after.token).is_signed_in()
        clock.advance(DAY_S)
        await process.signing.rotate()
        await process.signing.keep()
        assert old not in [key.kid for key in await process.signing.list()], "what it signed has ended"


async def test_a_key_is_followed_by_age(process: Process, clock: ManualClock) -> None:
    await process.signing.keep()
    first = process.keyring.signing.kid
    assert clock.now() + 90 * DAY_S in [key.signs_from for key in await process.signing.list()]
    clock.advance(90 * DAY_S - 1)
    await process.signing.keep()
    assert process.keyring.signing.kid == first
    clock.advance(1)
    await process.signing.keep()
    assert process.keyring.signing.kid != first
    assert await states(process) == ["active", "next", "retired"]


async def test_age_does_not_let_a_key_sign_that_nobody_knows(open_process: OpenProcess, clock: ManualClock) -> None:
    async with open_process(key_lifetime_s=10) as hasty, open_process(key_lifetime_s=10) as deaf:
        await hasty.signing.keep()
        await deaf.signing.keep()
        first = hasty.keyring.signing.kid
        clock.advance(301)
        await hasty.signing.keep()
        assert hasty.keyring.signing.kid == first
        assert hasty.keyring.due_at == clock.now() + 1, "and nobody looks before"
        clock.advance(1)
        await hasty.signing.keep()
        second = hasty.keyring.signing.kid
        assert second != first
        clock.advance(11)
        await deaf.signing.keep()  # it believes that the first key is due: the transaction knows better
        assert deaf.keyring.signing.kid == second


async def test_a_jwks_of_a_process_that_had_not_heard_holds_every_key_that_signs_while_it_may_be_kept(
    process: Process, open_process: OpenProcess, clock: ManualClock
) -> None:
    await process.signing.keep()
    async with open_process() as other:
        await other.signing.keep()
        await process.signing.rotate()
        clock.advance(302)
        await process.signing.keep()  # another next key is made, of which the other process hears within the bound
        await process.signing.rotate()
        clock.advance(1.9)
        kept = [key["kid"] for key in (await other.call("GET", "/.well-known/jwks.json")).body["keys"]]
        for _ in range(300):
            clock.advance(1)
            await process.signing.keep()
            assert process.keyring.signing.kid in kept


async def test_a_key_that_has_just_begun_elsewhere_verifies_whatever_else_is_shown(
    process: Process, open_process: OpenProcess, clock: ManualClock
) -> None:
    async with open_process() as other:
        await Client(process).sign_up(EMAIL)
        await other.signing.keep()
        await process.signing.rotate()
        clock.advance(302)
        unknown = VerifyingKey("k", "ES256", generate_key("ES256"))
        random = sign({"typ": "at+jwt"}, {"iss": "x", "sub": "x"}, unknown)
        assert not await Client(other, token=random).is_signed_in()
        await process.signing.keep()
        client = Client(process)
        await client.sign_in(EMAIL, deliver="token")
        assert await Client(other, token=client.token).is_signed_in(), "it needs no look, which random kids use up"


async def test_the_very_first_key_verifies_at_a_process_that_has_none_whatever_else_is_shown(
    process: Process, open_process: OpenProcess
) -> None:
    """Two that start on a new database: one makes the keys and signs at once, the other has not heard of any."""
    unknown = VerifyingKey("nobody", "ES256", generate_key("ES256"))
    async with open_process() as other:
        random = sign({"typ": "at+jwt"}, {"iss": "x", "sub": "x"}, unknown)
        assert not await Client(other, token=random).is_signed_in()
        client = await signed_in(process)
        assert not other.keyring.verifying
        assert await Client(other, token=client.token).is_signed_in(), "no look is spared while there are no keys"


async def test_a_key_verifies_nothing_before_it_begins(process: Process) -> None:
    client = await signed_in(process)
    ring = process.keyring
    claims, _ = verify(client.token.encode(), ring.verifying.get, typ="at+jwt")
    key = VerifyingKey(ring.signing.kid, "ES256", ring.signing.key)
    assert await Client(process, token=sign({"typ": "at+jwt"}, {**claims, "jti": "x"}, key)).is_signed_in()
    row = next(row for row in map(StoredKey._make, await process.cold(LOAD)) if row.state == "next")
    private = load_private(Sealer([b"s" * 32]).open(row.sealed, place=place_of(row.kid)), "ES256")
    early = sign({"typ": "at+jwt"}, claims, VerifyingKey(row.kid, "ES256", private))
    assert not await Client(process, token=early).is_signed_in()


async def test_revoking_refuses_everything_a_key_signed_everywhere_at_once(
    process: Process, open_process: OpenProcess
) -> None:
    async with open_process() as other:
        client = await signed_in(process)
        assert await client.is_signed_in()
        elsewhere = Client(other, token=client.token)
        assert await elsewhere.is_signed_in()
        kid = process.keyring.signing.kid
        assert await process.signing.revoke(kid)
        assert not await client.is_signed_in()
        await other.poll()
        assert not await elsewhere.is_signed_in()
        assert await states(process) == ["active", "next", "revoked"]
        assert kid not in json.dumps(process.keyring.jwks)
        again = Client(process)
        await again.sign_in(EMAIL, deliver="token")
        assert await again.is_signed_in()
        assert await Client(other, token=again.token).is_signed_in()
        assert not await process.signing.revoke("another")


async def test_a_process_that_cannot_hear_does_not_go_on_believing_a_key(
    process: Process, open_process: OpenProcess, clock: ManualClock
) -> None:
    async with open_process() as deaf:
        client = await signed_in(process)
        elsewhere = Client(deaf, token=client.token)
        assert await elsewhere.is_signed_in()
        await process.signing.revoke(process.keyring.signing.kid)
        clock.advance(3)
        assert not await elsewhere.is_signed_in(fresh=False)


async def test_another_algorithm_moves_over_without_a_false_refusal(
    process: Process, open_process: OpenProcess, clock: ManualClock
) -> None:
    client = await signed_in(process)
    async with open_process(signing_algorithm="EdDSA") as later:
        await later.signing.keep()
        assert await Client(later, token=client.token).is_signed_in()
        assert sorted(key["alg"] for key in later.keyring.jwks["keys"]) == ["ES256", "EdDSA"]
        clock.advance(302)
        await later.signing.keep()
        assert later.keyring.signing.algorithm == "EdDSA"
        assert await Client(later, token=client.token).is_signed_in()
        fresh = await signed_in(later, "bob@example.com")
        await process.poll()
        assert await Client(process, token=fresh.token).is_signed_in()


async def test_a_shared_secret_stands_alone(process: Process, open_process: OpenProcess) -> None:
    asymmetric = await signed_in(process)
    async with open_process(signing_algorithm="HS256", signing_secret=b"x" * 32) as shared:
        client = await signed_in(shared, "bob@example.com")
        assert await client.is_signed_in()
        assert shared.keyring.jwks == {"keys": []}
        assert not await Client(shared, token=asymmetric.token).is_signed_in()
        assert not await Client(process, token=client.token).is_signed_in()
        with pytest.raises(GarrisonError) as caught:
            await shared.signing.rotate()
        assert caught.value.code == "shared_key"


async def test_random_kids_cost_two_looks_a_second_at_most(process: Process, clock: ManualClock) -> None:
    client = await signed_in(process)
    _, body, last = client.token.split(".")
    looks = 0
    load = process.signing.load

    async def counted() -> None:
        nonlocal looks
        looks += 1
        await load()

    process.signing.load = counted  # type: ignore[method-assign]
    for number in range(200):
        header = base64.urlsafe_b64encode(b'{"alg":"ES256","kid":"k%d","typ":"at+jwt"}' % number).rstrip(b"=").decode()
        assert not await Client(process, token=f"{header}.{body}.{last}").is_signed_in()
        clock.advance(0.01)
    assert looks <= 5
    assert await client.is_signed_in()


class Late:
    """A store from which cold reads come in the order in which the test lets them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.held: list[asyncio.Event] = []
        self.read = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    def cold(self, sql: str, parameters: tuple[Any, ...]) -> Rows | Awaitable[Rows]:
        free = asyncio.Event()
        self.held.append(free)

        async def late() -> Rows:
            rows = self._database.cold(sql, parameters)
            found = rows if isinstance(rows, list) else await rows
            self.read += 1
            await free.wait()
            return found

        return late()


async def test_an_answer_that_is_late_brings_back_no_revoked_key(process: Process) -> None:
    await process.signing.keep()
    kid, ring = process.keyring.signing.kid, Keyring(Sealer([b"s" * 32]), CHEAP)
    late = Late(process.database)
    service = SigningService(
        process.changes,
        cast("Database", late),
        process.clock,
        Sealer([b"s" * 32]),
        ring,
        CHEAP,
    )
    first = asyncio.create_task(service.load())
    while late.read < 1:
        await asyncio.sleep(0)
    await process.signing.revoke(kid)
    service.hear("signing", kid, 1)
    second = asyncio.create_task(service.load())
    while late.read < 2:
        await asyncio.sleep(0)
    late.held[1].set()
    await second
    assert kid not in ring.verifying
    late.held[0].set()
    await first
    assert kid not in ring.verifying, "it was read before"
    third = asyncio.create_task(service.load())
    while late.read < 3:
        await asyncio.sleep(0)
    service.hear("signing", kid, 2)
    late.held[2].set()
    await third
    assert service.is_stale, "what was told while it was read has to be read"
