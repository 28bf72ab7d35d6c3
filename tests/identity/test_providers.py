"""Sign in with another provider, against one that speaks OpenID Connect over TCP, honest or not."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from sqlalchemy import select

from garrison.core.clock import ManualClock
from garrison.identity.accounts.model import accounts
from garrison.identity.providers.configured import Provider, parse_providers
from garrison.identity.providers.flow import safe_return
from garrison.identity.signing.jose import VerifyingKey, generate_key, public_jwk, sign
from tests.identity.conftest import PASSWORD, Client, OpenProcess, Process, account_id

pytestmark = pytest.mark.anyio
EMAIL, SUBJECT = "ada@example.com", "248289761001"


@dataclass
class Acme:
    """A provider. `claims` change what its ID tokens say, `mode` what it does instead of answering."""

    key: VerifyingKey = field(default_factory=lambda: VerifyingKey("k1", "ES256", generate_key("ES256")))
    signs_with: VerifyingKey | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    access_token: Any = "x"
    mode: str = "up"
    sends_issuer: bool = False
    told: Any = None
    """What userinfo answers, a document or a body; None where there is no userinfo."""
    told_status: int = 200
    url: str = ""
    now: float = 0.0
    authorize: str = "/authorize"
    discoveries: int = 0
    asked: dict[str, dict[str, str]] = field(default_factory=dict)
    """Code → the parameters of the authorization request."""

    async def discovery(self, _request: web.Request) -> web.Response:
        self.discoveries += 1
        await asyncio.sleep(0.05)
        if self.mode == "down":
            return web.Response(status=503)
        document = {
            "issuer": self.url,
            "authorization_endpoint": self.url + self.authorize,
            "token_endpoint": self.url + "/token",
            "jwks_uri": self.url + "/jwks",
            "authorization_response_iss_parameter_supported": self.sends_issuer,
        }
        if self.told is not None:
            document["userinfo_endpoint"] = self.url + "/userinfo"
        return web.json_response(document)

    async def jwks(self, _request: web.Request) -> web.Response:
        return web.json_response({"keys": [{**public_jwk(self.key.key), "kid": "k1", "alg": "ES256"}]})

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        asked = self.asked.pop(str(form.get("code")), None)
        user = base64.b64encode(b"garrison:s%2Fecret").decode()
        hashed = hashlib.sha256(str(form.get("code_verifier")).encode()).digest()
        challenge = base64.urlsafe_b64encode(hashed).rstrip(b"=").decode()
        right = (
            asked is not None
            and request.headers.get("authorization") == f"Basic {user}"
            and form.get("redirect_uri") == asked["redirect_uri"]
            and challenge == asked["code_challenge"]
        )
        if asked is None or not right:
            return web.json_response({"error": "invalid_grant"}, status=400)
        claims = {
            "iss": self.url,
            "sub": SUBJECT,
            "aud": "garrison",
            "iat": int(self.now),
            "exp": int(self.now) + 300,
            "nonce": asked["nonce"],
            "email": EMAIL,
            "email_verified": True,
            **self.claims,
        }
        whole = {name: value for name, value in claims.items() if value is not None}
        token = sign({"typ": "JWT"}, whole, self.signs_with or self.key)
        tokens = {"access_token": self.access_token, "token_type": "Bearer", "id_token": token}
        return web.json_response({name: value for name, value in tokens.items() if value is not None})

    async def userinfo(self, request: web.Request) -> web.Response:
        assert request.headers["authorization"] == f"Bearer {self.access_token}"
        body = self.told if isinstance(self.told, bytes) else json.dumps(self.told).encode()
        return web.Response(body=body, status=self.told_status)

    def consent(self, location: str) -> str:
        """Do what a person does at the provider; return the query it sends the browser back with."""
        parts = urlsplit(location)
        assert location.startswith(self.url + "/authorize?")
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        assert (asked["response_type"], asked["client_id"]) == ("code", "garrison")
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.asked)}-{asked['nonce'][:6]}"
        self.asked[code] = asked
        return f"code={code}&state={asked['state']}"


@pytest.fixture
async def acme() -> AsyncIterator[Acme]:
    made = Acme()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", made.discovery)
    app.router.add_get("/jwks", made.jwks)
    app.router.add_post("/token", made.token)
    app.router.add_get("/userinfo", made.userinfo)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def process(open_process: OpenProcess, acme: Acme) -> AsyncIterator[Process]:
    provider = Provider("acme", acme.url, "garrison", "s/ecret")
    async with open_process(providers=(provider,)) as opened:
        acme.now = opened.clock.now()
        yield opened


async def start(browser: Client, query: str = "") -> str:
    reply = await browser.call("GET", "/auth/providers/acme/start", query=query)
    assert reply.status == 303, reply
    return reply.header(b"location")


async def back(browser: Client, query: str) -> Any:
    return await browser.call("GET", "/auth/providers/acme/callback", query=query)


async def arrive(browser: Client, acme: Acme) -> Any:
    return await back(browser, acme.consent(await start(browser)))


async def test_a_person_arrives_with_a_session_and_goes_where_they_came_from(process: Process, acme: Acme) -> None:
    browser = Client(process)
    location = await start(browser, "return_to=/reports%3Fyear=2026")
    reply = await back(browser, acme.consent(location))
    assert (reply.status, reply.header(b"location")) == (303, "/reports?year=2026")
    shown = (await browser.call("GET", "/auth/session")).body
    assert shown["account"]["email"] == EMAIL
    assert shown["session"]["factors"][0]["kind"] == "provider"
    assert set(browser.cookies) == {"garrison", "garrison-device"}
    again = Client(process)
    assert (await arrive(again, acme)).status == 303
    assert (await again.call("GET", "/auth/session")).body["account"]["id"] == shown["account"]["id"]


async def test_a_flow_that_was_begun_in_another_browser_is_refused(process: Process, acme: Acme) -> None:
    """fastapi-users CVE-2025-68481 and others: login CSRF by a `state` that is bound to nothing."""
    attacker, victim = Client(process), Client(process)
    query = acme.consent(await start(attacker))
    assert (await back(victim, query)).code == "provider_refused"
    await start(victim)
    assert (await back(victim, query)).code == "provider_refused"
    assert not await victim.is_signed_in()


async def test_nothing_of_the_flow_can_be_changed_and_it_ends(process: Process, acme: Acme) -> None:
    for change in ("cookie", "state", "none", "twice", "late", "error", "no code", "other provider"):
        browser = Client(process)
        query = acme.consent(await start(browser))
        if change == "cookie":
            flipped = "A" if browser.cookies["garrison-flow"][40] != "A" else "B"
            browser.cookies["garrison-flow"] = (
                browser.cookies["garrison-flow"][:40] + flipped + browser.cookies["garrison-flow"][41:]
            )
        elif change == "state":
            query = query[:-1]
        elif change == "none":
            query = query.partition("&")[0]
        elif change == "twice":
            query += "&" + query.rpartition("&")[2]
        elif change == "late":
            process.clock.advance(600)
        elif change == "error":
            query += "&error=access_denied"
        elif change == "no code":
            query = query.rpartition("&")[2]
        elif change == "other provider":
            query += "&iss=https://elsewhere.example.com"
        reply = await back(browser, query)
        assert reply.status in (400, 403), (change, reply)
        assert "garrison" not in reply.cookies, change
        acme.now = process.clock.now()


async def test_a_code_is_spent_once_and_the_callback_cannot_be_repeated(process: Process, acme: Acme) -> None:
    browser = Client(process)
    query = acme.consent(await start(browser))
    flow = browser.cookies["garrison-flow"]
    assert (await back(browser, query)).status == 303
    assert "garrison-flow" not in browser.cookies
    assert (await back(browser, query)).code == "provider_refused"
    replayed = Client(process, cookies={"garrison-flow": flow})
    assert (await back(replayed, query)).code == "provider_refused"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://elsewhere.example.com"},
        {"aud": "another client"},
        {"aud": ["garrison", "another"]},
        {"aud": ["garrison", "another"], "azp": "another"},
        {"nonce": "another"},
        {"nonce": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\x00"},
        {"sub": "a" * 256},
        {"exp": 0},
        {"exp": None},
        {"exp": True},
        {"iat": True},
        {"exp": 10**400},
        {"iat": None},
        {"iat": 1e12},
        {"email_verified": False},
        {"email_verified": "true"},
        {"email_verified": None},
        {"email": None},
        {"email": "ada@example.com,mallory@example.com"},
    ],
)
async def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    process: Process, acme: Acme, claims: dict[str, Any]
) -> None:
    acme.claims = claims
    browser = Client(process)
    assert (await arrive(browser, acme)).code == "provider_refused"
    assert not await browser.is_signed_in()


async def test_an_address_may_come_from_userinfo(process: Process, acme: Acme) -> None:
    """OpenID Connect Core 1.0 section 5.4: with the code flow it usually does."""
    acme.claims = {"email": None, "email_verified": None}
    acme.told = {"sub": SUBJECT, "email": EMAIL, "email_verified": True}
    browser = Client(process)
    assert (await arrive(browser, acme)).status == 303
    assert (await browser.call("GET", "/auth/session")).body["account"]["email"] == EMAIL
    acme.claims, acme.told = {"email_verified": False}, {"sub": SUBJECT, "email": EMAIL, "email_verified": True}
    acme.claims["sub"] = acme.told["sub"] = "another"
    assert (await arrive(Client(process), acme)).code == "provider_refused", "what the ID token says, it says alone"


@pytest.mark.parametrize(
    ("told", "status", "code"),
    [
        ({"sub": "another", "email": EMAIL, "email_verified": True}, 200, "provider_refused"),
        ({"email": EMAIL, "email_verified": True}, 200, "provider_refused"),
        ({"sub": SUBJECT, "email": EMAIL, "email_verified": False}, 200, "provider_refused"),
        ({"sub": SUBJECT, "email": EMAIL}, 200, "provider_refused"),
        ({"sub": SUBJECT, "email": "\ud800@example.com", "email_verified": True}, 200, "provider_refused"),
        ({"sub": SUBJECT, "email": ["ada@example.com"], "email_verified": True}, 200, "provider_refused"),
        ({"sub": SUBJECT, "email": EMAIL, "email_verified": True}, 401, "provider_refused"),
        ({"sub": SUBJECT, "email": EMAIL, "email_verified": True}, 302, "provider_refused"),
        ({"sub": SUBJECT, "email": EMAIL, "email_verified": True}, 500, "issuer_unavailable"),
        (
            f'{{"sub":"{SUBJECT}","email":"{EMAIL}","email_verified":false,"email_verified":true}}'.encode(),
            200,
            "issuer_unavailable",
        ),
        ([], 200, "issuer_unavailable"),
        (b"eyJhbGciOi", 200, "issuer_unavailable"),
        (b"[" * 100_000, 200, "issuer_unavailable"),
        (b" " * 1_000_000, 200, "issuer_unavailable"),
    ],
)
async def test_what_userinfo_says_counts_only_of_this_subject_and_verified(
    process: Process, acme: Acme, told: Any, status: int, code: str
) -> None:
    acme.claims = {"email": None, "email_verified": None}
    acme.told, acme.told_status = told, status
    browser = Client(process)
    assert (await arrive(browser, acme)).code == code
    assert not await browser.is_signed_in()


@pytest.mark.parametrize("access_token", [None, 7, "a\r\nx-evil: 1", "\ud800"])
async def test_without_an_access_token_nobody_is_asked(process: Process, acme: Acme, access_token: Any) -> None:
    acme.claims = {"email": None, "email_verified": None}
    acme.told, acme.access_token = {"sub": SUBJECT, "email": EMAIL, "email_verified": True}, access_token
    assert (await arrive(Client(process), acme)).code == "provider_refused"


async def test_an_id_token_of_another_key_is_refused(process: Process, acme: Acme) -> None:
    acme.signs_with = VerifyingKey("k1", "ES256", generate_key("ES256"))
    assert (await arrive(Client(process), acme)).code == "provider_refused"


async def test_a_provider_that_says_who_it_is_must_do_so(process: Process, acme: Acme) -> None:
    acme.sends_issuer = True
    browser = Client(process)
    assert (await back(browser, acme.consent(await start(browser)))).code == "provider_refused"
    query = acme.consent(await start(browser))
    assert (await back(browser, query + f"&iss={acme.url}")).status == 303


async def test_an_account_that_waited_for_its_victim_is_taken_over(process: Process, acme: Acme) -> None:
    """Pre-account hijacking: the attacker's password, sessions and tokens are dead once the owner arrives."""
    attacker, phone = Client(process), Client(process)
    await attacker.sign_up(EMAIL)
    await attacker.sign_in(EMAIL)
    await phone.sign_in(EMAIL, deliver="token")
    owner = Client(process)
    assert (await arrive(owner, acme)).status == 303
    assert await owner.is_signed_in()
    assert not await attacker.is_signed_in()
    assert not await phone.is_signed_in()
    assert (await Client(process).sign_in(EMAIL)).code == "invalid_credentials"
    assert "account.taken_over" in [event["kind"] for event in await process.events()]


async def test_an_identity_is_its_subject_and_not_its_address(process: Process, acme: Acme) -> None:
    first = Client(process)
    await arrive(first, acme)
    account = await account_id(first)
    acme.claims = {"email": "moved@example.com"}
    await arrive(first, acme)
    assert (await first.call("GET", "/auth/session")).body["account"]["id"] == account
    acme.claims = {"sub": "somebody else", "email": "moved@example.com"}
    second = Client(process)
    await arrive(second, acme)
    assert (await second.call("GET", "/auth/session")).body["account"]["id"] != account


async def test_a_disabled_account_stays_out(process: Process, acme: Acme) -> None:
    browser = Client(process)
    await arrive(browser, acme)
    await process.accounts.disable(EMAIL)
    assert (await arrive(browser, acme)).code == "invalid_credentials"
    assert not await browser.is_signed_in()


async def test_a_person_without_a_password_cannot_be_guessed_in(process: Process, acme: Acme) -> None:
    await arrive(Client(process), acme)
    for guess in ("", "None", PASSWORD):
        assert (await Client(process).sign_in(EMAIL, guess)).status in (400, 401)
    rows = await process.database.read(lambda connection: connection.execute(select(accounts.c.password_hash)).all())
    assert rows == [(None,)]


async def test_a_provider_that_is_down_is_503(process: Process, acme: Acme) -> None:
    acme.mode = "down"
    reply = await Client(process).call("GET", "/auth/providers/acme/start")
    assert (reply.status, reply.code) == (503, "issuer_unavailable")
    assert (await Client(process).call("GET", "/auth/providers/nobody/start")).status == 404


async def statuses(process: Process, count: int) -> set[int]:
    asked = (Client(process).call("GET", "/auth/providers/acme/start") for _ in range(count))
    return {reply.status for reply in await asyncio.gather(*asked)}


async def test_however_many_begin_at_once_a_provider_is_asked_once(
    process: Process, acme: Acme, clock: ManualClock
) -> None:
    """Anybody may begin: a stampede at a provider that is slow or down would be ours."""
    acme.mode = "down"
    assert await statuses(process, 50) == {503}
    assert acme.discoveries == 1
    assert await statuses(process, 50) == {503}
    assert acme.discoveries == 1, "nor again at once"
    clock.advance(2)
    acme.mode = "up"
    assert await statuses(process, 50) == {303}
    assert acme.discoveries == 2
    clock.advance(3599)
    assert await statuses(process, 1) == {303}
    assert acme.discoveries == 2
    clock.advance(1)
    acme.mode = "down"
    assert await statuses(process, 50) == {303}, "what it said last stays, while it is down"
    assert acme.discoveries == 3


async def test_one_who_goes_away_takes_the_answer_from_nobody(process: Process, acme: Acme) -> None:
    first = asyncio.ensure_future(Client(process).call("GET", "/auth/providers/acme/start"))
    second = asyncio.ensure_future(Client(process).call("GET", "/auth/providers/acme/start"))
    while not acme.discoveries:
        await asyncio.sleep(0.005)
    first.cancel()
    assert (await second).status == 303
    assert acme.discoveries == 1


@pytest.mark.parametrize("added", ["\r\nset-cookie: a=b", "\n", "\ud800", "é", " x", "\x00"])
async def test_an_address_that_is_none_is_not_put_into_an_answer(process: Process, acme: Acme, added: str) -> None:
    """A provider that was taken over writes no headers of ours."""
    acme.authorize = "/authorize" + added
    reply = await Client(process).call("GET", "/auth/providers/acme/start")
    assert (reply.status, reply.code) == (503, "issuer_unavailable")


@pytest.mark.parametrize(
    ("given", "goes_to"),
    [
        ("/reports?a=1#b", "/reports?a=1#b"),
        ("//evil.example.com", "/"),
        ("/\\evil.example.com", "/"),
        ("/a\\b", "/"),
        ("https://evil.example.com", "/"),
        ("javascript:alert(1)", "/"),
        ("", "/"),
        ("/a\r\nset-cookie: a=b", "/"),
        ("/" + "a" * 2000, "/"),
        ("/é", "/"),
    ],
)
def test_only_paths_of_this_host_are_gone_back_to(given: str, goes_to: str) -> None:
    assert safe_return(given) == goes_to


def test_what_is_configured_wrong_is_told_and_a_secret_is_not_shown() -> None:
    fine = {"name": "acme", "issuer": "https://acme.example.com", "client_id": "a", "client_secret": "hush"}
    (provider,) = parse_providers([fine])
    assert "hush" not in repr(provider)
    for wrong, says in [
        ({}, "list"),
        ([7], "provider 1 is no JSON object"),
        ([{**fine, "name": "A/b"}], "since it stands in the path"),
        ([{**fine, "client_secret": ""}], "needs client_secret"),
        ([{**fine, "issuer": "http://acme.example.com"}], "https://"),
        ([{**fine, "scopes": "email"}], "scopes hold openid"),
        ([{**fine, "scope": "x"}], "unknown members: scope"),
        ([fine, fine], "listed twice"),
    ]:
        with pytest.raises(ValueError, match=says) as caught:
            parse_providers(json.loads(json.dumps(wrong)))
        assert "hush" not in str(caught.value)
