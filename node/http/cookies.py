"""Read and write the cookie of a session. Pure.

A browser sends cookies by itself, so one counts only where the browser says that this node's own
page sent the request.
"""

from __future__ import annotations

from typing import Final

PLAIN_NAME: Final = "acordo_session"
SECURE_NAME: Final = "__Host-acordo_session"
"""A name that browsers accept only with Secure, for the whole host, and from that host itself."""
HEADER_CHARS_MAX: Final = 8192
_FIXED: Final = "Path=/; HttpOnly; SameSite=Strict"


def sent(header: str | None) -> str | None:
    """Return the session in a header Cookie; None: there is none."""
    if header is None or len(header) > HEADER_CHARS_MAX:
        return None
    values = {
        name: value
        for name, _, value in (each.strip().partition("=") for each in header.split(";"))
    }
    return values.get(SECURE_NAME) or values.get(PLAIN_NAME) or None


def from_own_page(host: str, site: str | None, origin: str | None, *, reads: bool) -> bool:
    """Return whether a request with a cookie comes from a page of this node. Nothing that changes
    something is taken on trust: a browser that says neither is not believed. `site`, `origin`: the
    headers Sec-Fetch-Site and Origin.
    """
    if site is not None:
        return site == "same-origin" or (reads and site == "none")
    if origin is not None:
        return origin.partition("://")[2].lower() == host.lower() != ""
    return reads


def begin(text: str, seconds: int, *, secure: bool) -> str:
    """Return the header Set-Cookie that lets a browser keep a session."""
    name = SECURE_NAME if secure else PLAIN_NAME
    return f"{name}={text}; Max-Age={seconds}; {_FIXED}" + ("; Secure" if secure else "")


def end(*, secure: bool) -> str:
    """Return the header Set-Cookie that lets a browser forget its session."""
    return begin("", 0, secure=secure)
