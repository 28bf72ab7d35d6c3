"""DPoP (RFC 9449): a token that was copied is nothing without the key it is bound to."""

import base64
import hashlib
import json
import secrets
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from garrison.core.clock import ManualClock
from garrison.identity.signing import jose
from garrison.identity.signing.jose import generate_key, public_jwk, thumbprint
from garrison.identity.tokens import dpop
from garrison.identity.tokens.dpop import Proof, Proofs
from tests.identity.conftest import Client, Process, Reply
from tests.identity.test_oauth_token import AUDIENCE, Api, claims

pytestmark = pytest.mark.anyio
EMAIL, PASSWORD = "ada@example.com", "a long walk to the sea"
HOST = "127.0.0.1:8000"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Key:
    """A client's key, and the proofs it makes."""

    def __init__(self, clock: ManualClock, algorithm: str = "ES256") -> None:
        self.clock = clock
        self.algorithm = algorithm
        self.key = generate_key(algorithm)

    @property
    def jkt(self) -> str:
        return thumbprint(self.key)

    def proof(self, method: str, path: str, *, token: str | None = None, **change: Any) -> str:
        header = {"typ": "dpop+jwt", "alg": self.algorithm, "jwk": public_jwk(self.key), **change.pop("header", {})}
        payload = {
            "htm": method,
            "htu": f"http://{HOST}{path}",
            "iat": int(self.clock.now()),
            "jti": secrets.token_urlsafe(16),
            **({} if token is None else {"ath": b64(hashlib.sha256(token.encode()).digest())}),
            **change,
        }
        kept = {name: value for name, value in payload.items() if value is not None}
        signed = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(kept).encode())}"
        return f"{signed}.{b64(jose._MODELS[self.algorithm].sign(signed.encode(), self.key))}"


async def session(process: Process, token: str, proof: str | None, scheme: str = "DPoP") -> Reply:
    headers = {"host": HOST, "authorization": f"{scheme} {token}", **({} if proof is None else {"dpop": proof})}
    return await process.call("GET", "/auth/session", headers=headers)


async def signed_in(process: Process, key: Key) -> dict[str, Any]:
    client = Client(process)
    await client.sign_up(EMAIL)
    body = {"email": EMAIL, "password": PASSWORD, "deliver": "token"}
    headers = {"host": HOST, "dpop": key.proof("POST", "/auth/sign-in")}
    reply = await process.call("POST", "/auth/sign-in", body, headers=headers)
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.body
    return found


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA", "RS256"])
async def test_a_bound_token_needs_a_proof_for_each_request(
    process: Process, clock: ManualClock, algorithm: str
) -> None:
    key = Key(clock, algorithm)
    body = await signed_in(process, key)
    token = body["access_token"]
    assert body["token_type"] == "DPoP"
    assert claims(token)["cnf"] == {"jkt": key.jkt}
    for _ in range(2):  # cold and warm
        assert (await session(process, token, key.proof("GET", "/auth/session", token=token))).status == 200
        assert (await session(process, token, None)).status == 401
        assert (await session(process, token, None, "Bearer")).status == 401, "no bearer token"
        proof = key.proof("GET", "/auth/session", token=token)
        assert (await session(process, token, proof, "Bearer")).status == 401


async def test_a_proof_is_for_one_request_once(process: Process, clock: ManualClock) -> None:
    key, thief = Key(clock), Key(clock)
    body = await signed_in(process, key)
    token = body["access_token"]
    good = key.proof("GET", "/auth/session", token=token)
    assert (await session(process, token, good)).status == 200
    replayed = await session(process, token, good)
    assert (replayed.status, replayed.code) == (401, "invalid_proof")
    assert replayed.header(b"www-authenticate").startswith("DPoP ")
    now = int(clock.now())
    wrong = [
        thief.proof("GET", "/auth/session", token=token),
        key.proof("POST", "/auth/session", token=token),
        key.proof("GET", "/auth/sessions", token=token),
        key.proof("GET", "/auth/session", token="another"),
        key.proof("GET", "/auth/session"),
        key.proof("GET", "/auth/session", token=token, htu="https://127.0.0.1:8000/auth/session"),
        key.proof("GET", "/auth/session", token=token, htu="http://evil.example.com/auth/session"),
        key.proof("GET", "/auth/session", token=token, htu=None),
        key.proof("GET", "/auth/session", token=token, htu="http://[::1"),
        key.proof("GET", "/auth/session", token=token, htm="get"),
        key.proof("GET", "/auth/session", token=token, iat=now - 61),
        key.proof("GET", "/auth/session", token=token, iat=now + 61),
        key.proof("GET", "/auth/session", token=token, iat="now"),
        key.proof("GET", "/auth/session", token=token, iat=10**400),
        key.proof("GET", "/auth/session", token=token, jti=""),
        key.proof("GET", "/auth/session", token=token, jti=None),
        key.proof("GET", "/auth/session", token=token, jti="x" * 257),
        key.proof("GET", "/auth/session", token=token, header={"typ": "JWT"}),
        key.proof("GET", "/auth/session", token=token, header={"typ": "at+jwt"}),
        key.proof("GET", "/auth/session", token=token, header={"alg": "none"}),
        key.proof("GET", "/auth/session", token=token, header={"alg": "HS256"}),
        key.proof("GET", "/auth/session", token=token, header={"kid": "x"}),
        key.proof("GET", "/auth/session", token=token, header={"jwk": public_jwk(thief.key)}),
        key.proof("GET", "/auth/session", token=token, header={"jwk": {**public_jwk(key.key), "d": "AAAA"}}),
        key.proof("GET", "/auth/session", token=token, header={"jwk": {"kty": "oct", "k": "AAAA"}}),
        key.proof("GET", "/auth/session", token=token, header={"jwk": "x"}),
        "",
        "x",
        "a.b.c",
        token,
    ]
    for number, proof in enumerate(wrong):
        reply = await session(process, token, proof)
        assert (reply.status, reply.code) == (401, "invalid_proof"), number
    for more in ({"htu": f"http://{HOST}/auth/session"}, {"iat": now - 60}, {"iat": now + 60}):
        assert (await session(process, token, key.proof("GET", "/auth/session", token=token, **more))).status == 200


async def test_a_replay_is_remembered_for_as_long_as_it_could_pass(process: Process, clock: ManualClock) -> None:
    key = Key(clock)
    token = (await signed_in(process, key))["access_token"]
    late = key.proof("GET", "/auth/session", token=token, iat=int(clock.now()) + 60)
    assert (await session(process, token, late)).status == 200
    for _ in range(12):
        clock.advance(10)
        assert (await session(process, token, key.proof("GET", "/auth/session", token=token))).status == 200
        assert (await session(process, token, late)).status == 401


async def test_strangers_do_not_use_up_what_can_be_remembered(
    process: Process, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can make keys and proofs: without a token or a password that is right they take nobody's place."""
    monkeypatch.setattr(dpop, "MOST_REMEMBERED", 8)
    key, stranger = Key(clock), Key(clock)
    token = (await signed_in(process, key))["access_token"]
    for number in range(20):
        made_up = f"a.b.{number}"
        proof = stranger.proof("GET", "/auth/session", token=made_up)
        assert (await session(process, made_up, proof)).status == 401
        proof = stranger.proof("GET", "/auth/session", token=token)
        assert (await session(process, token, proof)).status == 401, "another key"
        headers = {"host": HOST, "dpop": stranger.proof("POST", "/auth/sign-in")}
        body = {"email": EMAIL, "password": "wrong", "deliver": "token"}
        assert (await process.call("POST", "/auth/sign-in", body, headers=headers)).status in (401, 429)
    good = key.proof("GET", "/auth/session", token=token)
    assert (await session(process, token, good)).status == 200
    assert (await session(process, token, good)).status == 401, "and is remembered"
    for _ in range(7):
        assert (await session(process, token, key.proof("GET", "/auth/session", token=token))).status == 200
    assert (await session(process, token, key.proof("GET", "/auth/session", token=token))).status == 401, "no room"


def test_what_is_remembered_of_a_proof_is_small_whatever_its_id(clock: ManualClock) -> None:
    proofs, ids = Proofs(leeway_s=60), ["\U0001f511" * 250 + str(number) for number in range(2000)]
    tracemalloc.start()
    for jti in ids:
        proofs.spend(Proof("k" * 43, jti), clock.now())
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / len(ids) < 256


async def test_a_bound_family_refreshes_with_its_key_only(process: Process, clock: ManualClock) -> None:
    key, thief = Key(clock), Key(clock)
    body = await signed_in(process, key)

    async def refresh(token: str, who: Key | None) -> Reply:
        headers = {"host": HOST, **({} if who is None else {"dpop": who.proof("POST", "/auth/refresh")})}
        return await process.call("POST", "/auth/refresh", {"refresh_token": token}, headers=headers)

    for stranger in (None, thief):
        assert (await refresh(body["refresh_token"], stranger)).code == "invalid_grant"
    second = await refresh(body["refresh_token"], key)
    assert (second.status, second.body["token_type"]) == (200, "DPoP")
    assert (await refresh(body["refresh_token"], key)).body["refresh_token"] == second.body["refresh_token"]
    token = second.body["access_token"]
    assert (await session(process, token, key.proof("GET", "/auth/session", token=token))).status == 200
    assert (await refresh(body["refresh_token"], thief)).code == "invalid_grant", "again, by another key: theft"
    assert (await refresh(second.body["refresh_token"], key)).code == "invalid_grant"


async def test_a_token_that_is_bound_to_nothing_is_no_dpop_token(process: Process, clock: ManualClock) -> None:
    key, client = Key(clock), Client(process)
    await client.sign_up(EMAIL)
    await client.sign_in(EMAIL, deliver="token")
    proof = key.proof("GET", "/auth/session", token=client.token)
    assert (await session(process, client.token, proof)).status == 401
    assert (await session(process, client.token, None, "Bearer")).status == 200


async def test_a_wrong_proof_at_sign_in_costs_no_guess(process: Process, clock: ManualClock) -> None:
    client = Client(process)
    await client.sign_up(EMAIL)
    before = process.pool.runs
    for _ in range(10):
        headers = {"host": HOST, "dpop": Key(clock).proof("GET", "/auth/sign-in")}
        body = {"email": EMAIL, "password": "wrong", "deliver": "token"}
        assert (await process.call("POST", "/auth/sign-in", body, headers=headers)).code == "invalid_proof"
    assert process.pool.runs == before


def test_clients_may_bind_their_tokens_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Api(tmp_path) as api:
        clock = ManualClock()
        clock.set_wall(api.garrison._runtime._clock.now())  # type: ignore[union-attr]
        key = Key(clock)
        fields = {"grant_type": "client_credentials"}
        user = (api.made.client.id, api.made.secret)

        def proof(method: str, path: str, token: str | None = None) -> dict[str, str]:
            return {"dpop": key.proof(method, path, token=token, htu=f"http://testserver{path}")}

        answer = api.client.post("/oauth/token", data=fields, auth=user, headers=proof("POST", "/oauth/token"))
        assert answer.json()["token_type"] == "DPoP"
        token = answer.json()["access_token"]
        assert api.get("/tasks", token) == 401
        shown = {"authorization": f"DPoP {token}", **proof("GET", "/tasks", token)}
        assert api.client.get("/tasks", headers=shown).status_code == 200
        assert api.client.get("/tasks", headers=shown).status_code == 401
        requiring = api.portal(
            lambda: api.clients.create("bound", audiences=[AUDIENCE], scopes=["tasks:read"], requires_dpop=True)
        )
        its_user = (requiring.client.id, requiring.secret)
        without = api.client.post("/oauth/token", data=fields, auth=its_user)
        assert (without.status_code, without.json()["error"]) == (400, "invalid_dpop_proof")
        answer = api.client.post("/oauth/token", data=fields, auth=its_user, headers=proof("POST", "/oauth/token"))
        assert answer.json()["token_type"] == "DPoP"
        told = api.client.post("/oauth/introspect", data={"token": token}, auth=user).json()
        assert (told["active"], told["token_type"], told["cnf"]) == (True, "DPoP", {"jkt": key.jkt})
        wrong = api.client.post("/oauth/token", data=fields, auth=user, headers={"dpop": "x"})
        assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_dpop_proof")
        monkeypatch.setattr(dpop, "MOST_REMEMBERED", 2)
        for _ in range(2):
            full = api.client.post("/oauth/token", data=fields, auth=user, headers=proof("POST", "/oauth/token"))
        assert full.json()["error"] == "invalid_dpop_proof"
        bound = {"authorization": f"DPoP {token}"}
        assert api.client.get("/tasks", headers={**bound, **proof("GET", "/tasks", token)}).status_code == 200
