"""Judge whether a request comes from where it may: names that lead here, and no page of another
origin. Pure.

A browser sends what any page tells it to. Clients that are no browsers send none of these headers,
and pass.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

ANY: Final = "*"
"""As a name: every name is taken."""


def names_of(advertised_url: str, more: Iterable[str]) -> frozenset[str]:
    """Return the names that lead to a node beside those that always do."""
    host = urlsplit(advertised_url).hostname
    return frozenset(
        {name.lower().rstrip(".") for name in more}
        | ({host.lower().rstrip(".")} if host else set())
    )


def leads_here(host: str, names: frozenset[str]) -> bool:
    """Say whether a Host header names this node: an address, a name without a dot, localhost, or
    one of `names`.

    A page of another origin can make its own name lead here (DNS rebinding), and then is of the
    same origin as the node; but a public name has a dot, and it cannot be an address.
    """
    name = name_in(host)
    if name is None:
        return False
    if not name or "." not in name or name.endswith(".localhost") or ANY in names or name in names:
        return True
    return _is_address(name)


def name_in(host: str) -> str | None:
    """Return the name in a Host header, without its port; None: there is none in it."""
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
    """Return where a request comes from that a page of another origin made; None: from no such
    page.

    `site`, `origin`: the headers Sec-Fetch-Site, which no page can set, and Origin, where a browser
    sends only that.
    """
    if site is not None:
        return (
            None if site in ("same-origin", "none") else f"a page of another origin ({site[:20]})"
        )
    if origin is None or origin.partition("://")[2].lower() == host.lower() != "":
        return None
    return f"a page of {origin[:100]!r}"


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
