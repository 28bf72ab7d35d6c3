"""Token exchange: the same name, never more than before, and nothing outlives what it rests on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from garrison.identity.clients.model import SHORT_NAMES
from garrison.identity.clients.service import Made
from garrison.identity.oauth.exchange import ACCESS_TOKEN, JWT
from garrison.identity.signing.jose import sign
from tests.identity.test_dpop import Key
from tests.identity.test_oauth_authorize import EMAIL, PASSWORD, Flow, make
from tests.identity.test_oauth_token import AUDIENCE, OTHER, Api, claims

GRANT = SHORT_NAMES["token_exchange"]


class Service:
    """A service behind the API that asks the next one."""

    def __init__(self, api: Api, name: str = "service", **more: Any) -> None:
        self.api = api
        arguments: dict[str, Any] = {
            "grants": ["token_exchange", "client_credentials"],
            "audiences": [AUDIENCE, OTHER],
            "scopes": ["tasks:read tasks:write"],
            **more,
        }
        self.made: Made = api.portal(lambda: api.clients.create(name, **arguments))

    def ask(self, token: str, headers: Any = None, **fields: str) -> Any:
        data = {
            "grant_type": GRANT,
            "client_id": self.made.client.id,
            "client_secret": self.made.secret,
            "subject_token": token,
            "subject_token_type": ACCESS_TOKEN,
            **fields,
        }
        return self.api.client.post("/oauth/token", data=data, headers=headers)

    def exchange(self, token: str, **fields: str) -> str:
        answer = self.ask(token, **fields)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["access_token"])

    def error(self, token: str, **fields: str) -> str:
        answer = self.ask(token, **fields)
        assert answer.status_code == 400, answer.text
        return str(answer.json()["error"])


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path) as opened:
        opened.client.post("/auth/sign-up", json={"email": EMAIL, "password": PASSWORD})
        yield opened


@pytest.fixture
def service(api: Api) -> Service:
    return Service(api)


def person(api: Api) -> str:
    """Sign in and return an access token of the account's own."""
    answer = api.client.post("/auth/sign-in", json={"email": EMAIL, "password": PASSWORD, "deliver": "token"})
    return str(answer.json()["access_token"])


def shown(api: Api, token: str) -> Any:
    answer = api.client.get("/tasks", headers={"authorization": f"Bearer {token}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_persons_token_becomes_a_narrower_one_in_the_same_name(api: Api, service: Service) -> None:
    token = person(api)
    api.wait(60)
    answer = service.ask(token, scope="tasks:read")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    body = answer.json()
    assert (body["issued_token_type"], body["token_type"], body["scope"]) == (ACCESS_TOKEN, "Bearer", "tasks:read")
    assert "refresh_token" not in body
    said, before = claims(body["access_token"]), claims(token)
    assert (said["sub"], said["client_id"]) == (before["sub"], service.made.client.id)
    assert said["act"] == {"sub": service.made.client.id}
    assert said["exp"] == before["exp"]
    assert 800 < body["expires_in"] <= 840
    assert shown(api, body["access_token"])["scopes"] == ["tasks:read"]
    assert shown(api, body["access_token"])["id"] == before["sub"]
    for path in ("/signed-in", "/admin", "/auth/session", "/clients"):
        assert api.get(path, body["access_token"]) == 403, "a role or a sign-in is not what a service has"


def test_who_acts_is_kept_through_several_services_and_not_without_end(api: Api) -> None:
    services = [Service(api, f"service {n}") for n in range(5)]
    token = person(api)
    for one in services[:4]:
        token = one.exchange(token)
    assert shown(api, token)["id"] == claims(person(api))["sub"]
    act = claims(token)["act"]
    chain = []
    while act:
        chain.append(act["sub"])
        act = act.get("act")
    assert chain == [one.made.client.id for one in reversed(services[:4])]
    assert services[4].error(token) == "invalid_request"


def test_scopes_only_shrink(api: Api, service: Service) -> None:
    token = person(api)
    assert service.error(token, scope="tasks:read admin") == "invalid_scope"
    narrow = service.exchange(token, scope="tasks:read")
    assert service.error(narrow, scope="tasks:write") == "invalid_scope"
    assert claims(service.exchange(narrow))["scope"] == "tasks:read"
    reader = Service(api, "reader", scopes=["tasks:read other"])
    assert claims(reader.exchange(api.token()))["scope"] == "tasks:read"
    assert Service(api, "none", scopes=[]).error(token) == "invalid_scope"


def test_what_the_person_or_a_client_lost_the_token_lost(api: Api) -> None:
    flow = Flow(api, make(api))
    token = flow.exchange(flow.consent()["code"]).json()["access_token"]
    service = Service(api)
    exchanged = service.exchange(token)
    assert claims(exchanged)["scope"] == "tasks:read"
    assert shown(api, exchanged)["scopes"] == ["tasks:read"], "openid is not the service's to have"


def test_a_clients_token_is_exchanged_too(api: Api, service: Service) -> None:
    token = service.exchange(api.token())
    found = shown(api, token)
    assert (found["id"], found["kind"]) == (api.made.client.id, "client")
    assert claims(token)["act"] == {"sub": service.made.client.id}
    again = Service(api, "another").exchange(token)
    assert shown(api, again)["id"] == api.made.client.id


@pytest.mark.parametrize("what", ["session", "account", "everywhere", "service", "subject client", "subject token"])
@pytest.mark.parametrize("warm", [True, False], ids=["warm", "first seen"])
def test_nothing_outlives_what_it_rests_on(api: Api, service: Service, what: str, warm: bool) -> None:
    is_client = what.startswith("subject")
    token = api.token() if is_client else person(api)
    middle = service.exchange(token)
    last = Service(api, "last").exchange(middle)
    if warm:
        assert [api.get("/tasks", one) for one in (middle, last)] == [200, 200]
    before, sessions = claims(token), api.garrison.sessions
    if what == "session":
        api.portal(lambda: sessions.revoke(before["sid"]))
    elif what == "account":
        api.portal(lambda: api.garrison.accounts.disable(before["sub"]))
    elif what == "everywhere":
        api.portal(lambda: sessions.revoke_all(before["sub"]))
    elif what == "service":
        api.portal(lambda: api.clients.set_status(service.made.client.id, "disabled"))
        api.portal(lambda: api.clients.set_status(service.made.client.id, "active"))
    elif what == "subject client":
        api.portal(lambda: api.clients.set_status(api.made.client.id, "disabled"))
    else:
        data = {"token": token, "client_id": api.made.client.id, "client_secret": api.made.secret}
        assert api.client.post("/oauth/revoke", data=data).status_code == 200
    assert [api.get("/tasks", one) for one in (middle, last)] == [401, 401]
    assert Service(api, "late").error(middle) == "invalid_request"


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "first seen"])
def test_who_exchanged_revokes_its_own_token_and_what_came_of_it(api: Api, service: Service, warm: bool) -> None:
    token = person(api)
    middle = service.exchange(token)
    last = Service(api, "last").exchange(middle)
    if warm:
        assert [api.get("/tasks", one) for one in (middle, last)] == [200, 200]
    credentials = {"client_id": service.made.client.id, "client_secret": service.made.secret}
    assert api.client.post("/oauth/revoke", data={"token": middle, **credentials}).status_code == 200
    assert [api.get("/tasks", one) for one in (token, middle, last)] == [200, 401, 401], "the person stays signed in"
    told = api.client.post("/oauth/introspect", data={"token": last, **credentials}).json()
    assert told == {"active": False}


def test_introspection_tells_who_acts(api: Api, service: Service) -> None:
    token = service.exchange(person(api))
    data = {"token": token, "client_id": service.made.client.id, "client_secret": service.made.secret}
    told = api.client.post("/oauth/introspect", data=data).json()
    assert (told["active"], told["act"]) == (True, {"sub": service.made.client.id})
    assert "via" not in told


def test_a_clients_scopes_count_when_the_token_is_used(api: Api, service: Service) -> None:
    token = service.exchange(person(api))
    database = api.garrison._runtime._database  # type: ignore[union-attr]
    statement = f"UPDATE clients SET scopes = 'tasks:write' WHERE id = '{service.made.client.id}'"
    api.portal(lambda: database.write(lambda connection: connection.exec_driver_sql(statement).rowcount))
    assert api.get("/tasks", token) == 403


def test_only_whom_a_token_is_for_may_exchange_it(api: Api) -> None:
    elsewhere = Service(api, "elsewhere", audiences=[OTHER])
    assert elsewhere.error(person(api)) == "invalid_request"
    assert elsewhere.error(api.token()) == "invalid_request"
    assert claims(elsewhere.exchange(api.token(audience=OTHER)))["aud"] == OTHER


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"subject_token": ""}, "invalid_request"),
        ({"subject_token": "x.y.z"}, "invalid_request"),
        ({"subject_token_type": ""}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:id_token"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"actor_token": "x", "actor_token_type": ACCESS_TOKEN}, "invalid_request"),
        ({"audience": "https://elsewhere.example.com"}, "invalid_target"),
        ({"resource": "https://elsewhere.example.com"}, "invalid_target"),
        ({"audience": AUDIENCE, "resource": OTHER}, "invalid_target"),
        ({"scope": "unknown"}, "invalid_scope"),
    ],
)
def test_every_error_has_the_rfcs_name(api: Api, service: Service, fields: dict[str, str], error: str) -> None:
    assert service.error(person(api), **fields) == error


def test_what_is_no_access_token_in_force_is_not_exchanged(api: Api, service: Service) -> None:
    flow = Flow(api, make(api))
    body = flow.exchange(flow.consent()["code"]).json()
    for token in (body["id_token"], body["refresh_token"], body["access_token"][:-8] + "AAAAAAAA"):
        assert service.error(token) == "invalid_request"
    token = person(api)
    assert claims(service.exchange(token, subject_token_type=JWT, requested_token_type=JWT))["act"]
    api.wait(901)
    assert service.error(token) == "invalid_request"


def test_it_is_off_unless_granted_and_never_for_who_cannot_authenticate(api: Api) -> None:
    without = Service(api, "without", grants=["client_credentials"])
    assert without.error(person(api)) == "unauthorized_client"
    with pytest.raises(ValueError, match="public client"):
        Service(api, "public", grants=["token_exchange"], is_public=True)
    answer = without.ask(person(api), client_secret="wrong")
    assert answer.status_code == 401


def test_a_token_is_bound_to_the_key_that_the_service_proves(api: Api, service: Service) -> None:
    key = Key(api.garrison._runtime._clock)  # type: ignore[union-attr,arg-type]
    proof = key.proof("POST", "/oauth/token", htu="http://testserver/oauth/token")
    answer = service.ask(person(api), {"dpop": proof})
    assert answer.json()["token_type"] == "DPoP"
    token = answer.json()["access_token"]
    assert claims(token)["cnf"] == {"jkt": key.jkt}
    assert api.get("/tasks", token) == 401, "no bearer token"

    def asked() -> int:
        proof = key.proof("GET", "/tasks", token=token, htu="http://testserver/tasks")
        headers = {"authorization": f"DPoP {token}", "dpop": proof}
        return int(api.client.get("/tasks", headers=headers).status_code)

    assert asked() == 200
    api.portal(lambda: api.clients.set_status(service.made.client.id, "disabled"))
    assert asked() == 401, "warm, too"


@pytest.mark.parametrize(
    "change",
    [
        {"via": "x"},
        {"via": [["cli_1", 1]]},
        {"via": [["cli_1", True, "j"]]},
        {"via": [["cli_1", 1, 7]]},
        {"via": [7]},
        {"via": [["cli_1", 1, "j"]] * 5},
        {"client_id": "cli_1"},
        {"scope": None},
        {"root": 7, "sid": None},
    ],
)
def test_claims_that_we_do_not_write_are_refused(api: Api, service: Service, change: dict[str, Any]) -> None:
    said = claims(service.exchange(person(api)))
    ring = api.garrison._runtime._identity.keyring  # type: ignore[union-attr]
    made = sign({"typ": "at+jwt"}, {k: v for k, v in {**said, **change}.items() if v is not None}, ring.signing)
    assert api.get("/tasks", made) == 401
    assert api.get("/tasks", sign({"typ": "at+jwt"}, said, ring.signing)) == 200
