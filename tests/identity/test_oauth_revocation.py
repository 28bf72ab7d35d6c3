"""Revocation (RFC 7009) and introspection (RFC 7662): a client's own tokens end, and nobody learns by asking."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from garrison.identity.clients.service import Made
from tests.identity.test_oauth_authorize import Flow, make
from tests.identity.test_oauth_exchange import Service
from tests.identity.test_oauth_token import AUDIENCE, OTHER, Api, claims

EMAIL, PASSWORD = "ada@example.com", "a long walk to the sea"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path) as opened:
        yield opened


def ask(api: Api, path: str, token: str, made: Made | None = None, **more: str) -> Any:
    who = made or api.made
    return api.client.post(path, data={"token": token, **more}, auth=(who.client.id, who.secret))


def active(api: Api, token: str, made: Made | None = None) -> bool:
    answer = ask(api, "/oauth/introspect", token, made)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    if not answer.json()["active"]:
        assert answer.json() == {"active": False}, "nothing else is told"
    return bool(answer.json()["active"])


def test_a_revoked_token_is_refused_at_once_and_no_other(api: Api) -> None:
    token, other = api.token(), api.token()
    assert (api.get("/tasks", token), api.get("/tasks", other)) == (200, 200)
    for _ in range(2):
        assert ask(api, "/oauth/revoke", token, token_type_hint="access_token").status_code == 200
    assert (api.get("/tasks", token), api.get("/tasks", other)) == (401, 200)
    api.garrison._runtime._identity.cache._entries.clear()  # type: ignore[union-attr]
    assert api.get("/tasks", token) == 401, "cold, too"


def test_a_client_cannot_revoke_what_is_not_its_own(api: Api) -> None:
    stranger = api.make("stranger", [AUDIENCE], ["tasks:read"])
    api.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
    shown = {"email": EMAIL, "password": PASSWORD, "deliver": "token"}
    person = api.client.post("/auth/sign-in", json=shown).json()["access_token"]
    token = api.token()
    for one in (token, person, "x", "a.b.c", token[:-4] + "AAAA"):
        answer = ask(api, "/oauth/revoke", one, stranger)
        assert (answer.status_code, answer.json()) == (200, {}), "the same, whatever it was"
    assert api.get("/tasks", token) == 200
    assert api.get("/auth/session", person) == 200


def test_introspection_tells_whoever_the_token_is_for(api: Api) -> None:
    token = api.token()
    resource, elsewhere = api.make("api", [AUDIENCE], []), api.make("other", [OTHER], [])
    told = ask(api, "/oauth/introspect", token, resource).json()
    assert told["active"] is True
    assert (told["sub"], told["client_id"], told["aud"]) == (api.made.client.id, api.made.client.id, AUDIENCE)
    assert told["scope"] == "tasks:read tasks:write"
    assert (told["token_type"], "cnf" in told) == ("Bearer", False)
    assert not active(api, token, elsewhere)
    assert active(api, api.token(audience=OTHER), elsewhere)
    for wrong in (token[:-4] + "AAAA", "x", "a.b.c", "ä", token + "." + token):
        assert not active(api, wrong, resource)


def test_what_has_ended_is_not_active(api: Api) -> None:
    revoked, deleted = api.token(), api.token()
    assert active(api, revoked)
    ask(api, "/oauth/revoke", revoked)
    assert not active(api, revoked)
    resource = api.make("api", [AUDIENCE], [])
    api.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
    shown = {"email": EMAIL, "password": PASSWORD, "deliver": "token"}
    person = api.client.post("/auth/sign-in", json=shown).json()["access_token"]
    assert active(api, person, resource)
    api.client.post("/auth/sign-out", headers={"authorization": f"Bearer {person}"})
    assert not active(api, person, resource)
    assert active(api, deleted, resource)
    api.portal(lambda: api.clients.delete(api.made.client.id))
    assert not active(api, deleted, resource)


def narrow(api: Api, client_id: str, scopes: str) -> None:
    assert api.execute("UPDATE clients SET scopes = :scopes WHERE id = :id", scopes=scopes, id=client_id) == 1


def test_introspection_tells_what_a_token_may_now_and_not_what_it_says(api: Api) -> None:
    """A role that was taken away, or a scope of a client's, is gone for who verifies by asking, too."""
    resource = api.make("api", [AUDIENCE], [])

    def scope(token: str) -> str:
        return str(ask(api, "/oauth/introspect", token, resource).json()["scope"])

    api.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
    api.portal(lambda: api.garrison.accounts.set_role(EMAIL, "editor"))
    flow = Flow(api, make(api))
    given = flow.exchange(flow.consent(scope="openid tasks:write tasks:read")["code"]).json()["access_token"]
    shown = {"email": EMAIL, "password": PASSWORD, "deliver": "token"}
    own = api.client.post("/auth/sign-in", json=shown).json()["access_token"]
    machine, service = api.token(), Service(api)
    exchanged = service.exchange(own)
    assert scope(given) == "openid tasks:read tasks:write"
    assert [scope(token) for token in (own, exchanged, machine)] == ["tasks:read tasks:write"] * 3
    api.portal(lambda: api.garrison.accounts.set_role(EMAIL, "member"))
    assert scope(given) == "openid tasks:read"
    assert [scope(token) for token in (own, exchanged)] == ["tasks:read"] * 2
    assert claims(service.exchange(own))["scope"] == "tasks:read"
    assert service.error(own, scope="tasks:write") == "invalid_scope"
    narrow(api, api.made.client.id, "tasks:write")
    assert scope(machine) == "tasks:write"
    narrow(api, service.made.client.id, "tasks:write")
    assert scope(exchanged) == ""


def test_a_token_is_not_active_beyond_its_session(api: Api) -> None:
    resource = api.make("api", [AUDIENCE], [])
    api.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
    shown = {"email": EMAIL, "password": PASSWORD, "deliver": "token"}
    token = api.client.post("/auth/sign-in", json=shown).json()["access_token"]
    assert api.execute("UPDATE sessions SET expires_at = 1 WHERE id = :id", id=claims(token)["sid"]) == 1
    assert not active(api, token, resource)


def test_a_revoked_signing_key_makes_its_tokens_inactive(api: Api) -> None:
    token, resource = api.token(), api.make("api", [AUDIENCE], [])
    identity = api.garrison._runtime._identity  # type: ignore[union-attr]
    api.portal(lambda: identity.signing.revoke(identity.keyring.signing.kid))
    assert not active(api, token, resource)
    assert active(api, api.token(), resource)


@pytest.mark.parametrize("path", ["/oauth/revoke", "/oauth/introspect"])
def test_only_clients_may_ask(api: Api, path: str) -> None:
    token = api.token()
    assert api.client.post(path, data={"token": token}).status_code == 401
    assert api.client.post(path, data={"token": token}, auth=(api.made.client.id, "wrong")).status_code == 401
    assert api.client.post(path, data={"token": token}, headers={"authorization": f"Bearer {token}"}).status_code == 401
    missing = api.client.post(path, data={}, auth=(api.made.client.id, api.made.secret))
    assert (missing.status_code, missing.json()["error"]) == (400, "invalid_request")
    assert api.client.get(path).status_code == 405
