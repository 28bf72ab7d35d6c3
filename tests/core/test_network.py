"""Which addresses are hosts on the Internet: what a stranger may make a server connect to (CWE-918)."""

import ipaddress

import pytest

from garrison.core.network import is_public

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "93.184.216.34",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "198.17.255.255",
    "198.20.0.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:81b::200e",
    "2001:200::1",
    "2620:fe::fe",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
]
NOT_PUBLIC = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.0.1", "192.168.255.255"],
    "carrier's NAT": ["100.64.0.0", "100.100.100.200", "100.127.255.255"],
    "link-local": ["169.254.0.1", "169.254.169.254", "fe80::1", "fe80::1%eth0", "febf::1"],
    "unique local": ["fc00::1", "fd00:ec2::254", "fdff::1"],
    "site-local": ["fec0::1"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "reserved": ["240.0.0.1", "255.255.255.254", "255.255.255.255", "4000::1", "8000::1", "100::1", "5f00::1"],
    "protocols": ["192.0.0.1", "192.0.0.170", "192.88.99.1", "2001:10::1", "2001:20::1", "2001:1::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarks": ["198.18.0.1", "198.19.255.255", "2001:2::1"],
    "mapped": ["::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::ffff:0:0"],
    "compatible": ["::127.0.0.1", "::8.8.8.8", "::2"],
    "6to4": ["2002:7f00:1::", "2002:a00:1::1", "2002:808:808::1"],
    "Teredo": ["2001::1", "2001:0:7f00:1::1", "2001:0:808:808::1"],
    "NAT64": ["64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::", "64:ff9b:1::8.8.8.8"],
    "no address": [
        "",
        "localhost",
        "example.com",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "1.1.1.1:80",
        "[::1]",
    ],
}


@pytest.mark.parametrize("address", PUBLIC)
def test_a_host_on_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address", [pytest.param(one, id=f"{kind} {one}") for kind, addresses in NOT_PUBLIC.items() for one in addresses]
)
def test_what_is_no_host_on_the_internet_is_not(address: str) -> None:
    assert not is_public(address)


def test_nothing_is_public_that_pythons_own_tables_call_private_or_special() -> None:
    """Every /16 of IPv4, and IPv6 by its first 16 bits: our table is at least as strict as theirs."""
    for high in range(65_536):
        for address in (ipaddress.IPv4Address(high << 16 | 1), ipaddress.IPv6Address(high << 112 | 1)):
            is_special = (
                address.is_private
                or address.is_loopback
                or address.is_link_local
                or address.is_multicast
                or address.is_reserved
                or address.is_unspecified
            )
            assert not (is_special and is_public(str(address))), address
