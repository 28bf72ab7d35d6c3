"""A renewed session cookie goes out with answers that nobody else gets, and with no other."""

from typing import Any

import pytest

from garrison.policy.rules import allow, public
from garrison.wire.answer import Header, Receive, Scope, Send
from garrison.wire.call import Call
from garrison.wire.header_lines import block
from tests.guard.chained import Reply, Rig

pytestmark = pytest.mark.anyio
COOKIE = b"__Host-garrison=anew; Secure"


def half_gone(call: Call) -> None:
    """Do what an authenticator does with a cookie half of whose life is gone."""
    call.renewed = block((b"set-cookie", COOKIE))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def answered(rule: Any, *said: Header) -> Reply:
    async def app(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0"), *said]})
        await send({"type": "http.response.body", "body": b""})

    rig = Rig([("GET", "/", rule)], app, before=[half_gone])
    rig.person("ada")
    return await rig.ask("GET", "/", {"cookie": "session=ada"})


def cookies(reply: Reply) -> list[bytes]:
    return [value for name, value in reply.messages[0]["headers"] if name.lower() == b"set-cookie"]


@pytest.mark.parametrize("rule", [public, allow(signed_in=True)])
@pytest.mark.parametrize(
    "said",
    [
        [],
        [(b"cache-control", b"no-store")],
        [(b"Cache-Control", b"max-age=60, Private")],
        [(b"set-cookie", b"theme=dark")],
        [(b"set-cookie", b"__Host-garrison-device=1")],
    ],
)
async def test_a_persons_own_answer_takes_it_along(rule: Any, said: list[Header]) -> None:
    assert COOKIE in cookies(await answered(rule, *said))


@pytest.mark.parametrize("rule", [public, allow(signed_in=True)])
@pytest.mark.parametrize(
    "said",
    [
        [(b"cache-control", b"public, max-age=3600")],
        [(b"Cache-Control", b"max-age=3600")],
        [(b"cache-control", b"no-cache")],
        [(b"cache-control", b"max-age=60, x-private")],
        [(b"cache-control", b"private"), (b"cdn-cache-control", b"max-age=60")],
        [(b"set-cookie", b"__Host-garrison=; Max-Age=0")],
    ],
)
async def test_an_answer_that_a_cache_may_give_to_others_does_not(rule: Any, said: list[Header]) -> None:
    assert COOKIE not in cookies(await answered(rule, *said))


async def test_a_rule_that_lets_caches_keep_answers_lets_none_go_along() -> None:
    assert cookies(await answered(allow(signed_in=True, cache=True))) == []
    assert cookies(await answered(allow(signed_in=True, cache=True), (b"cache-control", b"private"))) == [COOKIE]


async def test_a_refusal_takes_it_along() -> None:
    reply = await answered(allow(role="admin"))
    assert (reply.status, cookies(reply)) == (403, [COOKIE])


async def test_what_is_said_to_one_cache_says_nothing_to_the_others() -> None:
    assert cookies(await answered(allow(signed_in=True, cache=True), (b"cdn-cache-control", b"private"))) == []
