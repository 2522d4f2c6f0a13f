"""Judge whether a request may come from where it comes: its Host must name this node, and no page
of another origin may have sent it. Pure.

A browser sends requests for any page, and says so in Sec-Fetch-Site and Origin. Clients that are
not browsers send neither header and pass that check.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

from kv.addresses import is_loopback

ANY: Final = "*"
"""As a host name: every name is accepted."""


def names_of(advertised_url: str, more: Iterable[str]) -> frozenset[str]:
    """Return the host names of a node, beside those that are always accepted."""
    host = urlsplit(advertised_url).hostname
    return frozenset(
        {name.lower().rstrip(".") for name in more}
        | ({host.lower().rstrip(".")} if host else set())
    )


def of_this_machine(remote: str, local: str) -> bool:
    """Return whether a connection comes from the machine that it leads to: from loopback, or from
    the very address that it was made to.
    """
    remote, local = remote.removeprefix("::ffff:"), local.removeprefix("::ffff:")
    return is_loopback(remote) or (remote == local != "")


@lru_cache(maxsize=256)
def leads_here(host: str, names: frozenset[str]) -> bool:
    """Return whether a Host header names this node: an address, a name without a dot, localhost, or
    one of `names`.

    A page of another origin can make its own name resolve to this node (DNS rebinding), and then
    has the same origin as the node. But a public name has a dot, and it cannot be an address.
    """
    name = name_in(host)
    if name is None:
        return False
    if not name or "." not in name or name.endswith(".localhost") or ANY in names or name in names:
        return True
    return _is_address(name)


def name_in(host: str) -> str | None:
    """Return the name in a Host header, without its port; None: the header is malformed."""
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not port.startswith(":")) or not _is_address(name):
            return None
        return name
    name, _, port = host.partition(":")
    if (port and not port.isdigit()) or not host.isascii() or "@" in name:
        return None
    return name.lower().rstrip(".")


def foreign(host: str, site: str | None, origin: str | None) -> str | None:
    """Describe the origin of a request that a page of another origin sent; None: no such page sent
    it.

    `site`: the header Sec-Fetch-Site, which no page can set. `origin`: the header Origin, which is
    all that some browsers send.
    """
    if site is not None:
        return (
            None if site in ("same-origin", "none") else f"a page of another origin ({site[:20]})"
        )
    if origin is None or origin.partition("://")[2].lower() == host.lower() != "":
        return None
    return f"a page of {origin[:100]!r}"


_PLAIN: Final = re.compile(r"[a-z0-9.-]+(:[0-9]+)?|\[[0-9a-f:.]+\](:[0-9]+)?")
"""A host and port that may be written into a header."""


def member_origins(urls: Iterable[str], host: str) -> frozenset[str]:
    """Return the origins at which a browser finds the members with these advertised URLs, if it
    asks with this Host header.

    A member that advertises a loopback address is found under any name of this machine: the one in
    `host`, because that is how the browser found this node, or another of loopback.
    """
    found = set()
    for url in urls:
        parsed = urlsplit(url.lower())
        if parsed.scheme not in ("http", "https") or not parsed.hostname:
            continue
        names = {parsed.netloc}
        if is_loopback(parsed.hostname):
            port = "" if parsed.port is None else f":{parsed.port}"
            here = name_in(host)
            written = f"[{here}]" if here and ":" in here else here
            names |= {
                f"{name}{port}" for name in ("localhost", "127.0.0.1", "[::1]", written) if name
            }
        found |= {f"{parsed.scheme}://{name}" for name in names if _PLAIN.fullmatch(name)}
    return frozenset(found)


@lru_cache(maxsize=256)
def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
