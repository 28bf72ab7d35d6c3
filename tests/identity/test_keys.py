"""API keys: scoped, expiring, from known networks, never more than their maker, ended at once (R17)."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from garrison import Garrison, Policy, allow, public
from garrison.core.durations import Limit
from garrison.core.errors import GarrisonError
from garrison.core.principal import Factor
from garrison.identity.keys.secret import is_well_formed, new_key
from garrison.identity.keys.service import KeyService, Made
from garrison.identity.sessions.model import factors_to_text, sessions
from garrison.identity.settings import PasswordCost
from garrison.serve.settings import Settings
from tests.stores import store_url

PLENTY = Limit(10**6, 60)
EMAIL, PASSWORD = "ada@example.com", "a long walk to the sea"


async def answer(request: Request) -> JSONResponse:
    user = request.user
    return JSONResponse({"id": user.id, "kind": user.kind, "scopes": sorted(user.scopes), "via": user.via})


class Api:
    """A guarded app with one account, asked in process."""

    def __init__(self, path: Path, **more: Any) -> None:
        paths = ("/open", "/tasks", "/write", "/signed-in", "/admin", "/machines")
        app = Starlette(routes=[Route(name, answer) for name in paths])
        settings = Settings(
            database_url=store_url(path / "g.db"),
            secret="s" * 40,
            password_cost=PasswordCost(8, 1, 1),
            signing_algorithm="ES256",
            limit_address=PLENTY,
            limit_api=PLENTY,
            limit_sign_up=PLENTY,
            trusted_proxies="127.0.0.1/32",
            **more,
        )
        policy = Policy(
            ("GET /open", public),
            ("GET /tasks", allow(scope="tasks:read")),
            ("GET /write", allow(scope="tasks:write", role="editor")),
            ("GET /signed-in", allow(signed_in=True)),
            ("GET /admin", allow(role="admin")),
            ("GET /machines", allow(credentials="key")),
            roles={"editor": ["tasks:read", "tasks:write"]},
        )
        self.garrison = Garrison(policy, settings=settings)
        self.client = TestClient(self.garrison.protect(app), client=("127.0.0.1", 1))

    def __enter__(self) -> "Api":
        self.client.__enter__()
        self.account = self.portal(lambda: self.garrison.accounts.create(EMAIL, PASSWORD)).id
        return self

    def __exit__(self, *error: Any) -> None:
        self.client.__exit__(*error)

    @property
    def keys(self) -> KeyService:
        return self.garrison.keys

    def portal(self, work: Any) -> Any:
        assert self.client.portal is not None
        return self.client.portal.call(work)

    def make(self, **more: Any) -> Made:
        made: Made = self.portal(
            lambda: self.keys.create(self.account, "reports", **{"scopes": ["tasks:read"], **more})
        )
        return made

    def get(self, path: str, key: str, *, peer: str = "", bearer: bool = False) -> Any:
        headers = {"authorization": f"Bearer {key}"} if bearer else {"x-api-key": key}
        if peer:
            headers["x-forwarded-for"] = peer
        return self.client.get(path, headers=headers)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path) as opened:
        yield opened


def misspelt(key: str) -> str:
    return key[:-1] + ("x" if key[-1] != "x" else "y")


def test_a_key_has_a_form_that_scanners_find() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    for key in keys:
        assert key.startswith("grn_")
        assert len(key) == 4 + 43 + 6
        assert is_well_formed(key.encode())
        swapped = key[:10] + ("a" if key[10] != "a" else "b") + key[11:]
        for wrong in (swapped, key[:-1], key + "a", key.upper(), "grn_", "", " " + key):
            assert not is_well_formed(wrong.encode())


def test_a_key_passes_rules_that_name_a_scope_it_has(api: Api) -> None:
    made = api.make()
    for bearer in (False, True):
        assert api.get("/tasks", made.secret, bearer=bearer).json() == {
            "id": made.key.id,
            "kind": "key",
            "scopes": ["tasks:read"],
            "via": "key",
        }
    statuses = [
        api.get(path, made.secret).status_code
        for path in ("/open", "/machines", "/signed-in", "/admin", "/auth/session")
    ]
    assert statuses == [200, 200, 403, 403, 403]
    both = api.client.get("/tasks", headers={"x-api-key": made.secret, "authorization": f"Bearer {made.secret}"})
    assert (both.status_code, both.json()["code"]) == (400, "two_credentials")
    for wrong in (new_key(), misspelt(made.secret), "", "x" * 9000):
        assert api.get("/tasks", wrong).status_code == 401
        assert api.get("/open", wrong).status_code == 401, "a dead explicit credential is 401 everywhere"


@pytest.mark.parametrize("bearer", [False, True])
def test_the_store_is_asked_once_for_a_key_and_never_for_what_has_not_its_form(api: Api, bearer: bool) -> None:
    made = api.make()
    cache = api.garrison._runtime._identity.cache  # type: ignore[union-attr]
    asked: list[str] = []
    cold = cache._cold

    def counting(sql: str, parameters: tuple[Any, ...]) -> Any:
        asked.append(sql)
        return cold(sql, parameters)

    cache._cold = counting
    for wrong in (misspelt(made.secret), made.secret + "a", "grn_", "grn_" * 99):
        assert api.get("/tasks", wrong, bearer=bearer).status_code == 401
    assert not asked
    for _ in range(3):
        assert api.get("/tasks", made.secret, bearer=bearer).status_code == 200
    assert len(asked) == 1


def test_a_key_never_exceeds_its_maker_at_use(api: Api) -> None:
    with pytest.raises(ValueError, match="beyond the account's own: tasks:write"):
        api.make(scopes=["tasks:write"])
    api.portal(lambda: api.garrison.accounts.set_role(EMAIL, "editor"))
    made = api.make(scopes=["tasks:read tasks:write"])
    assert api.get("/tasks", made.secret).json()["scopes"] == ["tasks:read", "tasks:write"]
    assert api.get("/write", made.secret).status_code == 403, "a role is a person's"
    api.portal(lambda: api.garrison.accounts.set_role(EMAIL, "member"))
    assert api.get("/tasks", made.secret).json()["scopes"] == ["tasks:read"], "warm, too"
    api.portal(lambda: api.garrison.accounts.disable(EMAIL))
    assert api.get("/tasks", made.secret).status_code == 401
    api.portal(lambda: api.garrison.accounts.enable(EMAIL))
    assert api.get("/tasks", made.secret).status_code == 200, "a key is its maker's until it is revoked"


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        ("203.0.113.0/24", "203.0.113.9", "203.0.114.9"),
        ("203.0.113.7/32", "203.0.113.7", "203.0.113.8"),
        ("2001:db8:1::/48", "2001:db8:1:2::3", "2001:db8:2::1"),
        ("203.0.113.0/24", "::ffff:203.0.113.9", "2001:db8::1"),
    ],
)
def test_from_outside_its_network_a_key_is_403_and_an_event(api: Api, network: str, inside: str, outside: str) -> None:
    made = api.make(networks=[network])
    for _ in range(2):  # cold and warm
        assert api.get("/tasks", made.secret, peer=inside).status_code == 200
        refused = api.get("/tasks", made.secret, peer=outside)
        assert (refused.status_code, refused.json()["code"]) == (403, "wrong_network")
        assert api.get("/open", made.secret, peer=outside).status_code == 403
    counted = {(key.code, key.who) for key in api.garrison._runtime._refusals._counts}  # type: ignore[union-attr]
    assert ("wrong_network", made.key.id) in counted
    for wrong in ("203.0.113.1/24", "x", "::ffff:203.0.113.0/120"):
        with pytest.raises(ValueError, match="a network is written as CIDR"):
            api.make(networks=[wrong])


def test_a_key_ends_at_once_when_revoked_and_in_time_when_it_expires(api: Api) -> None:
    made = api.make()
    assert api.get("/tasks", made.secret).status_code == 200
    assert not api.portal(lambda: api.keys.revoke(made.key.id, account_id="acc_other"))
    assert api.portal(lambda: api.keys.revoke(made.key.id, account_id=api.account))
    assert api.get("/tasks", made.secret).status_code == 401
    short = api.make(expires_in_s=1.0)
    assert api.get("/tasks", short.secret).status_code == 200
    time.sleep(1.1)
    assert api.get("/tasks", short.secret).status_code == 401


def test_rotation_leaves_the_secret_before_for_a_while(api: Api) -> None:
    made = api.make()
    second = api.portal(lambda: api.keys.rotate(made.key.id))
    assert [api.get("/tasks", one).status_code for one in (made.secret, second)] == [200, 200]
    third = api.portal(lambda: api.keys.rotate(made.key.id, overlap_s=0.0))
    assert [api.get("/tasks", one).status_code for one in (made.secret, second, third)] == [401, 401, 200]
    assert api.portal(lambda: api.keys.rotate("key_none")) is None


def test_a_keys_own_limit(api: Api) -> None:
    made, other = api.make(rate="3/minute"), api.make(rate="3/minute")
    assert [api.get("/tasks", made.secret).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert int(api.get("/tasks", made.secret).headers["retry-after"]) > 0
    assert api.get("/tasks", other.secret).status_code == 200
    with pytest.raises(ValueError, match="limit"):
        api.make(rate="often")


def test_when_it_was_used_last_is_written_in_batches(api: Api) -> None:
    made = api.make()
    assert api.get("/tasks", made.secret).status_code == 200
    cache = api.garrison._runtime._identity.cache  # type: ignore[union-attr]
    api.portal(lambda: cache.flush(0.0, force=True))
    (listed,) = api.portal(lambda: api.keys.list(api.account))
    assert listed.used_at is not None


# HTTP


def signed_in(api: Api) -> TestClient:
    api.client.post("/auth/sign-in", json={"email": EMAIL, "password": PASSWORD})
    return api.client


def test_ones_own_keys_over_http(api: Api) -> None:
    browser = signed_in(api)
    made = browser.post(
        "/auth/keys", json={"name": "ci", "scopes": ["tasks:read"], "expires_in": 3600, "limit": "5/minute"}
    )
    assert made.status_code == 201, made.text
    assert made.json()["key"].startswith("grn_")
    assert made.json()["expires_at"]
    listed = browser.get("/auth/keys").json()["items"]
    assert [one["id"] for one in listed] == [made.json()["id"]]
    assert "key" not in listed[0]
    rotated = browser.post(f"/auth/keys/{made.json()['id']}/rotate")
    assert rotated.json()["key"].startswith("grn_")
    assert browser.delete(f"/auth/keys/{made.json()['id']}").status_code == 204
    assert browser.delete(f"/auth/keys/{made.json()['id']}").status_code == 404
    assert browser.delete("/auth/keys/key_none").status_code == 404
    for wrong in (
        {"name": "x", "scopes": ["admin"]},
        {"name": "x", "networks": ["x"]},
        {"name": "x", "limit": "often"},
        {"name": ""},
        {"name": "x", "account_id": "acc_other"},
        {"name": "x", "role": "admin"},
        {"name": "x", "expires_in": 0},
    ):
        refused = browser.post("/auth/keys", json=wrong)
        assert (refused.status_code, refused.json()["code"]) == (400, "validation"), wrong


def test_a_key_makes_no_keys_and_an_old_sign_in_has_to_be_proved_again(api: Api) -> None:
    made = api.make()
    body = {"name": "x"}
    assert api.client.post("/auth/keys", json=body, headers={"x-api-key": made.secret}).status_code == 403
    assert api.client.post("/auth/keys", json=body).status_code == 401
    browser = signed_in(api)
    assert browser.post("/auth/keys", json=body).status_code == 201
    identity = api.garrison._runtime._identity  # type: ignore[union-attr]
    old = update(sessions).values(factors=factors_to_text([Factor("password", time.time() - 301)]))
    api.portal(lambda: identity.keys._database.write(lambda connection: connection.execute(old)))
    identity.cache._entries.clear()
    refused = browser.post("/auth/keys", json=body)
    assert (refused.status_code, refused.json()["code"]) == (401, "insufficient_factor")


# App keys


def test_an_app_key_may_create_accounts_and_nothing_else(tmp_path: Path) -> None:
    with Api(tmp_path, sign_up_key="required") as api:
        body = {"email": "bob@example.com", "password": PASSWORD}
        refused = api.client.post("/auth/sign-up", json=body)
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
        assert "app key" in refused.json()["detail"]
        ordinary = api.make()
        assert api.client.post("/auth/sign-up", json=body, headers={"x-api-key": ordinary.secret}).status_code == 403
        app = api.make(kind="app", scopes=[])
        assert api.client.post("/auth/sign-up", json=body, headers={"x-api-key": app.secret}).status_code == 202
        assert [api.get(path, app.secret).status_code for path in ("/tasks", "/signed-in", "/auth/session")] == [
            403
        ] * 3
        api.make(kind="app", scopes=[])
        with pytest.raises(GarrisonError) as caught:
            api.make(kind="app", scopes=[])
        assert caught.value.code == "too_many_keys"
        with pytest.raises(ValueError, match="nothing else"):
            api.make(kind="app", scopes=["tasks:read"])


def test_without_the_setting_sign_up_needs_no_key(api: Api) -> None:
    body = {"email": "bob@example.com", "password": PASSWORD}
    assert api.client.post("/auth/sign-up", json=body).status_code == 202


# Basic


@pytest.fixture
def basic(tmp_path: Path) -> Iterator[Api]:
    with Api(tmp_path, basic=True) as opened:
        yield opened


def test_basic_passes_where_a_scope_is_named(basic: Api) -> None:
    client = basic.client
    assert client.get("/tasks", auth=(EMAIL, PASSWORD)).json()["via"] == "basic"
    assert client.get("/tasks", auth=(EMAIL.upper(), PASSWORD)).status_code == 200
    statuses = [
        client.get(path, auth=(EMAIL, PASSWORD)).status_code for path in ("/open", "/signed-in", "/auth/session")
    ]
    assert statuses == [200, 403, 403]


def test_wrong_then_right_and_a_warm_one_costs_no_hash(basic: Api) -> None:
    client, passwords = basic.client, basic.garrison._runtime._identity.passwords  # type: ignore[union-attr]
    wrong = client.get("/tasks", auth=(EMAIL, "wrong"))
    assert (wrong.status_code, wrong.json()["code"]) == (401, "invalid_credentials")
    assert 'Basic realm="garrison"' in wrong.headers["www-authenticate"]
    assert client.get("/tasks", auth=("nobody@example.com", "wrong")).json()["code"] == "invalid_credentials"
    assert client.get("/tasks", auth=(EMAIL, PASSWORD)).status_code == 200
    hashed: list[object] = []
    original = passwords.verify

    async def counted(*arguments: Any) -> Any:
        hashed.append(arguments)
        return await original(*arguments)

    passwords.verify = counted  # type: ignore[method-assign]
    assert [client.get("/tasks", auth=(EMAIL, PASSWORD)).status_code for _ in range(20)] == [200] * 20
    assert not hashed
    assert client.get("/tasks", auth=(EMAIL, PASSWORD + "x")).status_code == 401, "one more byte is another credential"
    assert len(hashed) == 1


def test_a_new_password_and_a_disabled_account_empty_the_cache(basic: Api) -> None:
    client = basic.client
    assert client.get("/tasks", auth=(EMAIL, PASSWORD)).status_code == 200
    client.post("/auth/sign-in", json={"email": EMAIL, "password": PASSWORD})
    changed = client.post("/auth/password/change", json={"current": PASSWORD, "new": "quite another password"})
    assert changed.status_code == 204
    client.cookies.clear()
    assert client.get("/tasks", auth=(EMAIL, PASSWORD)).status_code == 401
    assert client.get("/tasks", auth=(EMAIL, "quite another password")).status_code == 200
    basic.portal(lambda: basic.garrison.accounts.disable(EMAIL))
    assert client.get("/tasks", auth=(EMAIL, "quite another password")).status_code == 401


def test_credentials_that_differ_only_behind_a_long_name_never_meet(basic: Api) -> None:
    """Okta 2024: the key of the cache was cut at 72 bytes, and the password stood behind them."""
    name = "a" * 60 + "@example.com"
    basic.portal(lambda: basic.garrison.accounts.create(name, PASSWORD))
    assert basic.client.get("/tasks", auth=(name, PASSWORD)).status_code == 200
    assert basic.client.get("/tasks", auth=(name, "wrong")).status_code == 401


def test_guessing_by_basic_is_counted_with_sign_in(basic: Api) -> None:
    client = basic.client
    statuses = [client.get("/tasks", auth=(EMAIL, f"wrong {number}")).status_code for number in range(6)]
    assert statuses == [401] * 5 + [429]
    assert client.post("/auth/sign-in", json={"email": EMAIL, "password": PASSWORD}).status_code == 429


@pytest.mark.parametrize(
    "header", ["Basic", "Basic !!!", "Basic eA==", "Basic Og==", "Basic " + "A" * 9000, "Basic /////w=="]
)
def test_what_is_no_credential_is_401(basic: Api, header: str) -> None:
    assert basic.client.get("/tasks", headers={"authorization": header}).status_code == 401


def test_over_plain_http_from_elsewhere_basic_is_refused(basic: Api) -> None:
    answer = basic.client.get("/tasks", auth=(EMAIL, PASSWORD), headers={"x-forwarded-for": "203.0.113.9"})
    assert (answer.status_code, answer.json()["code"]) == (400, "https_required")
    secure = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
    assert basic.client.get("/tasks", auth=(EMAIL, PASSWORD), headers=secure).status_code == 200


def test_basic_is_off_by_default(api: Api) -> None:
    assert api.client.get("/tasks", auth=(EMAIL, PASSWORD)).status_code == 401
