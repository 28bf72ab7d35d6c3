"""The small layers by themselves: host, HTTPS, bounds, CORS, CSRF, headers, arrival."""

from collections.abc import Callable
from typing import Any

import pytest

from garrison.core.clock import ManualClock
from garrison.guard.arrival import arrival_layer
from garrison.guard.bounds import bounds_layer
from garrison.guard.cors import cors_layer
from garrison.guard.csrf import csrf_check
from garrison.guard.headers import HeaderSets
from garrison.guard.host import host_layer
from garrison.guard.https import https_layer
from garrison.guard.settings import GuardSettings
from garrison.wire.answer import Answer
from garrison.wire.call import Call

PRODUCTION = GuardSettings(
    development=False,
    issuer="https://api.example.com",
    allowed_hosts=frozenset({"api.example.com"}),
    allowed_origins=frozenset({"https://app.example.com"}),
)
DEVELOPMENT = GuardSettings(development=True, allowed_hosts=frozenset({"127.0.0.1"}))


def make(method: str = "GET", *, scope: dict[str, Any] | None = None, **headers: str) -> Call:
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    call = Call(
        {
            "type": "http",
            "method": method,
            "path": "/a",
            "raw_path": b"/a",
            "query_string": b"",
            "scheme": "http",
            "headers": listed,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            **(scope or {}),
        }
    )
    call.headers, call.secure = dict(listed), False
    return call


def code(answer: Any) -> str | None:
    return answer.code if isinstance(answer, Answer) else None


# Host


@pytest.mark.parametrize("host", ["api.example.com", "API.example.com", "api.example.com:443", "api.example.com."])
def test_an_allowed_host_passes_in_any_spelling(host: str) -> None:
    call = make(host=host)
    assert host_layer(PRODUCTION)(call) is None
    assert call.host == "api.example.com"


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.com",
        "api.example.com.evil.com",
        "evilapi.example.com",
        "api.example.com@evil.com",
        "api.example.com:443:443",
        "api.example.com/",
        "localhost",
        "127.0.0.1",
        "api.example.com\x00",
        "api.example.com, evil.com",
        "[::1",
    ],
)
def test_any_other_host_is_refused(host: str) -> None:
    assert code(host_layer(PRODUCTION)(make(host=host))) == "bad_host"


def test_a_missing_host_is_refused() -> None:
    assert code(host_layer(PRODUCTION)(make())) == "bad_host"


@pytest.mark.parametrize("host", ["127.0.0.1:1", "localhost:9", "[::1]:8000", "testserver"])
def test_development_allows_loopback_names_at_any_port(host: str) -> None:
    assert host_layer(DEVELOPMENT)(make(host=host)) is None


def test_a_development_server_answers_on_this_machine_only() -> None:
    reached = {"server": ("192.0.2.7", 8000)}
    assert code(host_layer(DEVELOPMENT)(make(host="localhost", scope=reached))) == "not_exposed"
    exposed = GuardSettings(development=True, expose=True)
    assert host_layer(exposed)(make(host="localhost", scope=reached)) is None


# HTTPS


def test_a_bare_get_over_http_is_redirected_to_https() -> None:
    call = make(host="api.example.com", scope={"raw_path": b"/a%20b", "query_string": b"c=d"})
    call.host = "api.example.com"
    layer = https_layer(PRODUCTION)
    assert layer is not None
    answer = layer(call)
    assert answer is not None
    assert answer.status == 308
    assert dict(answer.headers)[b"location"] == b"https://api.example.com/a%20b?c=d"


def test_a_redirect_cannot_leave_the_host() -> None:
    call = make(scope={"raw_path": b"//evil.com/x", "path": "//evil.com/x"})
    call.host = "api.example.com"
    layer = https_layer(PRODUCTION)
    assert layer is not None
    answer = layer(call)
    assert answer is not None
    assert dict(answer.headers)[b"location"] == b"https://api.example.com/evil.com/x"


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("POST", {}),
        ("GET", {"authorization": "Bearer x"}),
        ("GET", {"cookie": "a=b"}),
        ("GET", {"x_api_key": "k"}),
        ("GET", {"content_length": "3"}),
        ("GET", {"transfer_encoding": "chunked"}),
    ],
)
def test_what_carries_a_secret_over_http_is_refused_and_not_redirected(method: str, headers: dict[str, str]) -> None:
    layer = https_layer(PRODUCTION)
    assert layer is not None
    assert code(layer(make(method, scope=None, **headers))) == "https_required"


def test_tls_passes_and_development_has_no_such_layer() -> None:
    call = make()
    call.secure = True
    layer = https_layer(PRODUCTION)
    assert layer is not None
    assert layer(call) is None
    assert https_layer(DEVELOPMENT) is None


# Bounds


def test_targets_and_headers_are_bounded() -> None:
    layer = bounds_layer(DEVELOPMENT)
    assert layer(make()) is None
    assert code(layer(make(scope={"path": "/" + "a" * 9000}))) == "uri_too_long"
    assert code(layer(make(scope={"query_string": b"a" * 9000}))) == "uri_too_long"
    many: dict[str, Any] = {"headers": [(b"x", b"y")] * 101}
    assert code(layer(make(scope=many))) == "headers_too_large"
    assert code(layer(make(big="x" * 33000))) == "headers_too_large"
    wide: dict[str, Any] = {"headers": [(b"n" * 600, b"v" * 600)] * 30}
    assert code(layer(make(scope=wide))) == "headers_too_large"


# Arrival


def test_a_header_that_may_come_once_is_refused_twice() -> None:
    layer = arrival_layer(ManualClock())
    for name in (b"host", b"authorization", b"content-length", b"origin", b"content-type", b"x-api-key"):
        twice: dict[str, Any] = {"headers": [(name, b"a"), (name, b"b")]}
        assert code(layer(make(scope=twice))) == "bad_request", name


def test_cookies_and_lists_that_come_in_pieces_are_joined() -> None:
    call = make(scope={"headers": [(b"cookie", b"a=1"), (b"accept", b"x"), (b"cookie", b"b=2"), (b"accept", b"y")]})
    assert arrival_layer(ManualClock())(call) is None
    assert call.headers == {b"cookie": b"a=1; b=2", b"accept": b"x, y"}


def test_every_request_gets_an_id_of_its_own() -> None:
    layer = arrival_layer(ManualClock())
    calls = [make() for _ in range(100)]
    for call in calls:
        layer(call)
    assert len({call.request_id for call in calls}) == 100


# CORS


def test_an_allowed_origin_may_read_and_others_may_not() -> None:
    layer = cors_layer(PRODUCTION)
    assert layer is not None
    call = make(origin="https://app.example.com")
    assert layer(call) is None
    assert dict(call.added.fields)[b"access-control-allow-origin"] == b"https://app.example.com"
    for origin in (
        "https://app.example.com.evil.com",
        "https://evilapp.example.com",
        "http://app.example.com",
        "https://app.example.com:444",
        "https://APP.example.com",
        "null",
        "*",
        "",
        "https://app.example.com, https://evil.com",
        "https://app.example.com\x00",
        "https://app_example.com",
    ):
        call = make(origin=origin)
        assert layer(call) is None
        names = [name for name, _ in call.added.fields]
        assert b"access-control-allow-origin" not in names, origin
        assert b"vary" in names


def test_a_preflight_is_answered_by_the_allow_list_alone() -> None:
    layer = cors_layer(PRODUCTION)
    assert layer is not None
    answer = layer(make("OPTIONS", origin="https://app.example.com", access_control_request_method="PUT"))
    assert answer is not None
    assert answer.status == 204
    assert dict(answer.headers)[b"access-control-allow-credentials"] == b"true"
    refused = layer(make("OPTIONS", origin="https://evil.com", access_control_request_method="PUT"))
    assert refused is not None
    assert refused.status == 403
    assert not any(name.startswith(b"access-control") for name, _ in refused.headers)


def test_an_options_request_that_is_no_preflight_goes_on() -> None:
    layer = cors_layer(PRODUCTION)
    assert layer is not None
    assert layer(make("OPTIONS", origin="https://app.example.com")) is None


# CSRF

SITES: list[tuple[dict[str, str], str | None]] = [
    ({"cookie": "a=b"}, None),
    ({"cookie": "a=b", "origin": "https://api.example.com"}, None),
    ({"cookie": "a=b", "origin": "https://app.example.com"}, None),
    ({"cookie": "a=b", "origin": "https://evil.com"}, "cross_site"),
    ({"cookie": "a=b", "origin": "null"}, "cross_site"),
    ({"cookie": "a=b", "origin": ""}, "cross_site"),
    ({"cookie": "a=b", "origin": "https://evil.com", "sec_fetch_site": "cross-site"}, "cross_site"),
    ({"cookie": "a=b", "sec_fetch_site": "same-site"}, "cross_site"),
    ({"cookie": "a=b", "sec_fetch_site": "cross-site"}, "cross_site"),
    ({"cookie": "a=b", "sec_fetch_site": "same-origin"}, None),
    ({"cookie": "a=b", "sec_fetch_site": "none"}, None),
    ({"origin": "https://evil.com"}, None),
]


@pytest.mark.parametrize(("headers", "expected"), SITES)
def test_unsafe_requests_with_cookies_must_come_from_here(headers: dict[str, str], expected: str | None) -> None:
    assert code(csrf_check(PRODUCTION, always=False)(make("POST", scope=None, **headers))) == expected


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "get"])
def test_a_decision_for_any_method_lets_links_from_elsewhere_in(method: str) -> None:
    call = make(method, scope=None, cookie="a=b", sec_fetch_site="cross-site")
    is_safe = method in ("GET", "HEAD", "OPTIONS", "TRACE")
    assert code(csrf_check(PRODUCTION, always=False)(call)) == (None if is_safe else "cross_site")


def test_where_a_cookie_may_be_set_the_check_runs_without_one() -> None:
    assert code(csrf_check(PRODUCTION, always=True)(make("POST", origin="https://evil.com"))) == "cross_site"
    assert csrf_check(PRODUCTION, always=True)(make("POST")) is None


def test_the_own_origin_comes_from_the_issuer_and_not_from_host() -> None:
    call = make("POST", cookie="a=b", host="evil.com", origin="https://evil.com")
    assert code(csrf_check(PRODUCTION, always=False)(call)) == "cross_site"


# Response headers

Complete = Callable[..., list[tuple[bytes, bytes]]]


def test_what_the_app_says_wins_but_for_the_server_line() -> None:
    sets = HeaderSets(PRODUCTION, cached=False)
    found = sets.complete(
        [(b"Content-Security-Policy", b"x"), (b"cache-control", b"max-age=1"), (b"server", b"app/1"), (b"x", b"y")],
        [(b"x-request-id", b"1")],
        secure=True,
    )
    names = [name.lower() for name, _ in found]
    assert len(names) == len(set(names))
    assert b"server" not in names
    assert dict(found)[b"cache-control"] == b"max-age=1"
    assert dict(found)[b"Content-Security-Policy"] == b"x"
    assert dict(found)[b"x-content-type-options"] == b"nosniff"
    assert b"strict-transport-security" in names
    assert dict(found)[b"x-request-id"] == b"1"


def test_documents_get_a_policy_that_pages_can_live_with() -> None:
    sets = HeaderSets(PRODUCTION, cached=False)
    html = dict(sets.complete([(b"content-type", b"Text/HTML; charset=utf-8")], (), secure=False))
    api = dict(sets.complete([(b"content-type", b"application/json")], (), secure=False))
    assert b"script-src 'self'" in html[b"content-security-policy"]
    assert html[b"cross-origin-opener-policy"] == b"same-origin"
    assert api[b"content-security-policy"].startswith(b"default-src 'none'")
    assert b"strict-transport-security" not in html
    assert api[b"cache-control"] == b"no-store"


def test_public_routes_may_be_cached() -> None:
    assert b"cache-control" not in dict(HeaderSets(PRODUCTION, cached=True).complete([], (), secure=False))
