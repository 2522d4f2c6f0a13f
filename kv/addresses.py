"""Read addresses, and say which of them this machine alone can reach.

Pure. It never looks a name up: what a name stands for may change between the check and the use.
"""

from __future__ import annotations

import ipaddress


def host_of(address: str) -> str:
    """Return the host of "host:port" or "[v6]:port"."""
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")


def is_loopback(host: str) -> bool:
    """Say whether what is bound to this host can be reached from this machine alone.

    Of all names only "localhost" is believed. This is the rule by which nothing that is unprotected
    listens on a network: for HTTP as for Raft.
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
