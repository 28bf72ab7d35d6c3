"""The one normal form of a path, and every spelling that would get round a rule."""

from urllib.parse import quote

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from garrison import allow, public
from garrison.policy.paths import BadPath, normal_path, variants
from tests.policy.guarded import client_of
from tests.policy.tables import scope_of


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/", "/"),
        (b"/a", "/a"),
        (b"/a/", "/a/"),
        (b"/a/b.c/d~e", "/a/b.c/d~e"),
        (b"/a...b", "/a...b"),
        (b"/.well-known/x", "/.well-known/x"),
        (b"/..a", "/..a"),
        (b"/a%20b", "/a b"),
        (b"/%61", "/a"),
        (b"/caf%C3%A9", "/café"),
        (b"/a;b=1", "/a;b=1"),
        (b"/100%25", "/100%"),
        (b"/100%2525", "/100%25"),
        (b"/a%3Fb", "/a?b"),
        (b"/a:b@c!$&'()*+,=", "/a:b@c!$&'()*+,="),
    ],
)
def test_a_normal_path_is_decoded_once(raw: bytes, path: str) -> None:
    assert normal_path(raw) == (path, False)


@pytest.mark.parametrize(
    "raw",
    [
        *(
            b"",
            b"a",
            b"*",
            b"http://x/a",
            b"//",
            b"//a",
            b"/a//b",
            b"/a//",
            b"/.",
            b"/..",
            b"/a/.",
            b"/a/..",
            b"/a/../b",
        ),
        *(b"/./a", b"/../a", b"/%2e", b"/%2E%2e/a", b"/a/%2e%2e/b", b"/.%2e/a", b"/a\\b", b"/a%5Cb", b"/a%255Cb"),
        *(b"/a%00", b"/a%2500", b"/%252e%252e/a", b"/a%252fb", b"/a%25252fb", b"/a%2525252Fb", b"/a\x00", b"/a\nb"),
        *(b"/a%0a", b"/a%0D%0Ab", b"/a%7f", b"/a%C2%85", b"/%ff", b"/%C0%AF", b"/%ED%A0%80", b"/\xff", b"/..;/a"),
        *(b"/a/..;x=1/b", b"/;/a", b"/a/;b", b"/.;/a", b"/a%2F..%2Fb", b"/a%2f/b"),
    ],
)
def test_any_other_is_refused(raw: bytes) -> None:
    with pytest.raises(BadPath):
        normal_path(raw)


def test_an_encoded_slash_is_told() -> None:
    assert normal_path(b"/a%2Fb") == ("/a/b", True)
    assert normal_path(b"/a%2fb/c") == ("/a/b/c", True)


@settings(max_examples=2000, deadline=None)
@given(st.one_of(st.binary(max_size=40), st.text("/.%2eEfF05cC;\\aA?~é", max_size=30).map(lambda text: text.encode())))
def test_nothing_but_a_bad_path_is_ever_raised_and_the_form_is_its_own_form(tail: bytes) -> None:
    try:
        path, _ = normal_path(b"/" + tail)
    except BadPath:
        return
    assert path.startswith("/")
    assert "//" not in path
    assert not {".", ".."} & set(path.split("/"))
    again, has_slash = normal_path(quote(path, safe="/").encode())
    assert (again, has_slash) == (path, False)
    assert path not in variants(path)


@settings(max_examples=500, deadline=None)
@given(st.from_regex(rb"(/[a-z0-9._~-]{1,8}){1,5}/?", fullmatch=True))
def test_the_quick_way_and_the_thorough_way_agree(raw: bytes) -> None:
    def meant(spelling: bytes) -> str | None:
        try:
            return normal_path(spelling)[0]
        except BadPath:
            return None

    slow = raw[:1] + b"%" + raw[1:2].hex().upper().encode() + raw[2:]  # one byte encoded: no quick way
    assert meant(raw) == meant(slow)


@pytest.mark.parametrize(
    ("path", "other"),
    [
        ("/admin/", "/admin"),
        ("/admin;x=1", "/admin"),
        ("/admin;x=1/", "/admin"),
        ("/%61dmin", "/admin"),
        ("/admin%3Bx", "/admin"),
        ("/admin?x", "/admin"),
        ("/admin#x", "/admin"),
        ("/admin ", "/admin"),
        ("/\uff41\uff44min", "/admin"),
        ("/a;x/b;y", "/a/b"),
    ],
)
def test_other_readings_are_known(path: str, other: str) -> None:
    assert other in variants(path)


def test_a_plain_path_has_no_other_reading() -> None:
    assert variants("/tasks/7") == ()


# The spellings, against a guarded app with a catch-all behind the private route


@pytest.fixture
def client() -> TestClient:
    app = FastAPI()

    @app.get("/admin")
    @allow(role="admin")
    async def admin() -> str:
        return "secret"

    @app.get("/admin/users/{id}")
    @allow(role="admin")
    async def user(id: str) -> str:
        return "secret"

    @app.get("/files/{name:path}")
    @allow(signed_in=True, encoded_slash=True)
    async def file(name: str) -> str:
        return name

    @app.get("/{rest:path}")
    @public
    async def rest(rest: str) -> str:
        return f"public {rest}"

    return client_of(app)


SPELLINGS = [
    *("/Admin", "/ADMIN", "/aDmin/users/7", "/admin/Users/7", "/admin/", "/admin/users/7/", "/admin;x=1", "/admin;"),
    *("/;/admin", "/admin;x/users/7", "/x/../admin", "/./admin", "/admin/.", "/admin/x/..", "//admin", "/admin//"),
    *("/admin//users/7", "/%2e/admin", "/x/%2e%2e/admin", "/x/%2E./admin", "/%61dmin", "/%2561dmin", "/%2Fadmin"),
    *("/admin%2Fusers%2F7", "/admin%252fusers%252f7", "/admin%25252fusers", "/admin%5Cusers", "/admin\\users"),
    *("/admin%00", "/admin%20", "/%20admin", "/admin%3Bx", "/admin%3Fx", "/admin%23x", "/admin%09", "/..;/admin"),
    *("/%EF%BD%81dmin", "/x/..;/admin", "/admin%FF"),
]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_of_a_private_path_is_answered_as_a_public_one(client: TestClient, spelling: str) -> None:
    answer = _raw(client, spelling)
    assert answer in (400, 401, 307, 404), spelling


def _raw(client: TestClient, target: str) -> int:
    """Send the bytes as they are: HTTP clients put paths in order themselves."""
    from tests.policy.tables import run

    scope = {**scope_of("http", "GET", target.encode(), "testserver"), "client": ("127.0.0.1", 1)}
    return run(client.app, scope)


def test_what_only_looks_like_another_spelling_stays_open(client: TestClient) -> None:
    for path in ("/administration", "/Other", "/other/", "/other;x=1", "/caf%C3%A9", "/100%25"):
        assert _raw(client, path) == 200, path


def test_an_encoded_slash_passes_only_where_the_route_says_so(client: TestClient) -> None:
    assert _raw(client, "/files/a%2Fb") == 401
    assert _raw(client, "/other/a%2Fb") == 400
    assert _raw(client, "/files/a%2F..%2Fb") == 400
