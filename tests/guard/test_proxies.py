"""Who is the client: only what a trusted proxy wrote is believed (design, "A request's way", 1)."""

import re

import pytest

from garrison.core.clock import ManualClock
from garrison.core.network import parse_network
from garrison.guard.arrival import arrival_layer
from garrison.guard.proxies import proxies_layer
from garrison.guard.settings import GuardSettings
from garrison.wire.answer import Answer
from garrison.wire.call import Call

TRUSTED = (parse_network("10.0.0.0/8"), parse_network("127.0.0.1/32"), parse_network("fd00::/8"))


def arrive(peer: str, trusted: bool = True, **headers: str) -> tuple[Call, Answer | None]:
    layer = proxies_layer(GuardSettings(development=False, trusted_proxies=TRUSTED if trusted else ()))
    listed = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    call = Call({"type": "http", "method": "GET", "client": (peer, 1), "scheme": "http", "headers": listed})
    assert arrival_layer(ManualClock())(call) is None
    return call, None if layer is None else layer(call)


CASES = [
    # peer, headers, who is the client
    ("203.0.113.9", {"x_forwarded_for": "198.51.100.1"}, "203.0.113.9"),  # an untrusted peer says what it likes
    ("203.0.113.9", {"forwarded": "for=198.51.100.1"}, "203.0.113.9"),
    ("10.0.0.1", {"x_forwarded_for": "198.51.100.1"}, "198.51.100.1"),
    ("10.0.0.1", {"x_forwarded_for": "1.1.1.1, 198.51.100.1"}, "198.51.100.1"),  # what the client prepended
    ("10.0.0.1", {"x_forwarded_for": "1.1.1.1, 198.51.100.1, 10.0.0.2"}, "198.51.100.1"),
    ("10.0.0.1", {"x_forwarded_for": "10.0.0.3, 10.0.0.2"}, "10.0.0.3"),
    ("10.0.0.1", {"x_forwarded_for": "198.51.100.1:4711"}, "198.51.100.1"),
    ("10.0.0.1", {"x_forwarded_for": "[2001:db8::1]:4711"}, "2001:db8::1"),
    ("10.0.0.1", {"x_forwarded_for": "::ffff:198.51.100.1"}, "198.51.100.1"),
    ("10.0.0.1", {"x_forwarded_for": "198.51.100.1, unknown"}, "10.0.0.1"),  # unreadable: the walk ends
    ("10.0.0.1", {"x_forwarded_for": ""}, "10.0.0.1"),
    ("10.0.0.1", {"forwarded": 'for="[2001:db8::1]:80";proto=https'}, "2001:db8::1"),
    ("10.0.0.1", {"forwarded": "for=1.1.1.1, for=198.51.100.1;by=10.0.0.1"}, "198.51.100.1"),
    ("10.0.0.1", {"forwarded": "For=198.51.100.1"}, "198.51.100.1"),
    ("10.0.0.1", {"forwarded": "for=_hidden"}, "10.0.0.1"),
    ("10.0.0.1", {"x_real_ip": "198.51.100.1"}, "10.0.0.1"),
    ("fd00::1", {"x_forwarded_for": "198.51.100.1"}, "198.51.100.1"),
]


@pytest.mark.parametrize(("peer", "headers", "client"), CASES)
def test_the_client_is_the_first_address_from_the_right_that_is_not_ours(
    peer: str, headers: dict[str, str], client: str
) -> None:
    call, answer = arrive(peer, **headers)  # type: ignore[arg-type]
    assert answer is None
    assert call.peer == client


def test_without_trusted_proxies_nothing_is_believed() -> None:
    call, _ = arrive("127.0.0.1", False, x_forwarded_for="198.51.100.1", x_forwarded_proto="https")
    assert call.peer == "127.0.0.1"
    assert not call.secure


def test_two_families_that_disagree_are_refused() -> None:
    _, answer = arrive("10.0.0.1", x_forwarded_for="198.51.100.1", forwarded="for=198.51.100.2")
    assert answer is not None
    assert answer.status == 400


def test_two_families_that_agree_are_fine() -> None:
    call, answer = arrive("10.0.0.1", x_forwarded_for="198.51.100.1", forwarded="for=198.51.100.1")
    assert answer is None
    assert call.peer == "198.51.100.1"


@pytest.mark.parametrize("value", ["for", "for=a;for=b", 'for="x', "for=a b", ";;=", "for==a"])
def test_a_malformed_forwarded_header_is_refused(value: str) -> None:
    _, answer = arrive("10.0.0.1", forwarded=value)
    assert answer is not None
    assert answer.code == "bad_request"


def test_tls_is_believed_from_a_trusted_proxy_only() -> None:
    assert arrive("10.0.0.1", x_forwarded_proto="https")[0].secure
    assert arrive("10.0.0.1", forwarded="for=198.51.100.1;proto=https")[0].secure
    assert not arrive("203.0.113.9", x_forwarded_proto="https")[0].secure
    assert not arrive("10.0.0.1", x_forwarded_proto="https, http")[0].secure
    assert arrive("10.0.0.1", x_forwarded_proto="https", forwarded="for=1.1.1.1;proto=http")[1] is not None


def test_the_app_behind_sees_the_same_client_and_scheme() -> None:
    call, _ = arrive("10.0.0.1", x_forwarded_for="198.51.100.1", x_forwarded_proto="https")
    assert call.scope["client"] == ("198.51.100.1", 0)
    assert call.scope["scheme"] == "https"


def test_a_request_id_is_taken_from_a_trusted_proxy_in_a_safe_form_only() -> None:
    assert arrive("10.0.0.1", x_request_id="abcdef-1234")[0].request_id == "abcdef-1234"
    for peer, shown in (("203.0.113.9", "abcdef-1234"), ("10.0.0.1", "a b\nc d e f g")):
        assert re.fullmatch(r"[0-9a-f]{20}", arrive(peer, x_request_id=shown)[0].request_id)


def test_an_ipv6_client_is_counted_by_its_64() -> None:
    first, _ = arrive("10.0.0.1", x_forwarded_for="2001:db8:1:2::1")
    second, _ = arrive("10.0.0.1", x_forwarded_for="2001:0db8:0001:0002:ffff::9")
    assert first.network == second.network == "2001:db8:1:2::/64"
