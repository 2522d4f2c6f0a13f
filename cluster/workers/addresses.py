"""Decide which IP addresses webhooks may be delivered to. Pure: it never resolves a name."""

from __future__ import annotations

import ipaddress
from typing import Final


def _networks(*texts: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(map(ipaddress.ip_network, texts))


_NOT_PUBLIC: Final = _networks(
    # IANA's registries of special addresses, as whole blocks, even where part of a block is global:
    # no web server should be there.
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
    "192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24",
    "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/3",
    # Azure's own services, including its metadata service, have an address that looks public.
    "168.63.129.16/32",
    "2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20",
)  # fmt: skip
_PUBLIC_6: Final = ipaddress.IPv6Network("2000::/3")
"""The part of IPv6 that is assigned to the public. Outside it lie loopback, link-local, site-local
and unique local addresses, multicast, and NAT64.
"""
_CARRIERS: Final = _networks("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32")
"""IPv6 ranges that embed an IPv4 address (NAT64, 6to4, Teredo): where they lead cannot be judged.
"""
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})
"""Third quarter of an IPv6 address that embeds an IPv4 address in its last quarter (RFC 5214)."""


def forbidden(address: str) -> str | None:
    """Return why an IP address is not allowed as a target by default; None if it is allowed."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"{address!r} is no address"
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        elif any(ip in net for net in _CARRIERS) or (int(ip) >> 32) & 0xFFFFFFFF in _ISATAP:
            return f"{address} carries another address inside"
        elif ip not in _PUBLIC_6:
            return f"{address} is not a public address"
    if any(ip.version == net.version and ip in net for net in _NOT_PUBLIC) or not ip.is_global:
        return f"{address} is not a public address"
    return None


def is_address(host: str) -> bool:
    """Return whether a URL's host is an IP address rather than a name."""
    return ":" in host or host.replace(".", "").isdigit()
