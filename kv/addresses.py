"""Parse addresses, and tell which of them only this machine can reach.

Pure. It never resolves a name: what a name stands for may change between the check and the use.
"""

from __future__ import annotations

import ipaddress


def host_of(address: str) -> str:
    """Return the host of "host:port" or "[v6]:port"."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def is_loopback(host: str) -> bool:
    """Return whether a socket bound to this host can be reached from this machine alone.

    Of all names only "localhost" is accepted. By this rule nothing unprotected listens on a
    network, neither HTTP nor Raft.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
