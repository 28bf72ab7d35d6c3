"""Addresses and the networks that limits count by.

An IPv6 host owns a /64 and changes addresses at will, so limits count the /64 (better-auth GHSA-xg6x… counted the
text). IPv4-mapped IPv6 addresses are the IPv4 address. Text that is no address (a Unix socket, `testclient`) is its
own network.
"""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_GLOBAL = ipaddress.IPv6Network("2000::/3")
"""All that is routed of IPv6 (RFC 4291 section 2.4); what wraps or stands for something else lies outside, or below."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_SPECIAL: Sequence[Network] = tuple(
    ipaddress.ip_network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # behind a carrier's NAT (RFC 6598)
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and where clouds tell machines their secrets
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
        "2001::/23",  # Teredo, ORCHID, benchmarks
        "2001:db8::/32",
        "2002::/16",  # 6to4
        "3fff::/20",
    )
)
"""What no host on the Internet has (RFC 6890 and the IANA registries it began). Written out, because what Python's
`is_global` says differs between its patch releases."""


def parse_address(text: str) -> Address | None:
    """Return the address that `text` spells, IPv4-mapped ones as IPv4, zone ids dropped; None if it is none."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse_network(text: str) -> Network:
    """Return the network `text` spells (`10.0.0.0/8`, `::1`). Raises ValueError, also for host bits set."""
    network = ipaddress.ip_network(text.strip())
    if isinstance(network, ipaddress.IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("write an IPv4-mapped network as IPv4")
    return network


def is_in(address: Address | None, networks: Sequence[Network]) -> bool:
    """Say whether the address lies in one of the networks; no address lies in none."""
    return address is not None and any(address.version == n.version and address in n for n in networks)


def is_loopback(text: str) -> bool:
    """Say whether `text` is an address of this machine only."""
    address = parse_address(text)
    return address is not None and address.is_loopback


def is_public(text: str) -> bool:
    """Say whether `text` is the address of a host on the Internet, and nothing else by another spelling.

    IPv4 within IPv6 is judged as IPv4 where a network would deliver it as such: mapped, and by NAT64 (RFC 6052), which
    is how a host without IPv4 reaches it. 6to4, Teredo and IPv4-compatible addresses are refused whatever they wrap.
    """
    address = parse_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address in _NAT64:
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    if address is None or is_in(address, _SPECIAL):
        return False
    return address.version == 4 or address in _GLOBAL


def bucket(text: str, *, v4_prefix: int = 32, v6_prefix: int = 64) -> str:
    """Return the network a client is counted under: IPv4 /32, IPv6 /64 by default; other text as it is."""
    address = parse_address(text)
    if address is None:
        return text
    prefix = v4_prefix if address.version == 4 else v6_prefix
    if prefix == address.max_prefixlen:
        return str(address)
    return str(ipaddress.ip_network((address, prefix), strict=False))


@lru_cache(4096)
def network_of(peer: str) -> str:
    """Return the network this peer is counted under: `bucket`, remembered."""
    return bucket(peer)
