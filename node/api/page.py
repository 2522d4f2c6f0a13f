"""GET / and /page/…: serve the files of the web page, read once at start. The page may load nothing
from other origins, and may ask only its own node and the other members.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final

from aiohttp import web

from node.exchange.exchange import Exchange
from node.http.origin import member_origins

FILE_BYTES_MAX: Final = 1024 * 1024
FILES_MAX: Final = 64
TYPES: Final = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".ico": "image/x-icon",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
"""Media types by file name suffix; files of other kinds are not served."""


def security(reached: Iterable[str] = ()) -> dict[str, str]:
    """Return the headers that bound what the page may do. `reached`: the origins that it may ask
    beside its own.
    """
    asked = " ".join(("'self'", *sorted(reached)))
    return {
        "Content-Security-Policy": (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
            f"font-src 'self'; connect-src {asked}; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }


def files(directory: Path | None) -> dict[str, Callable[[Exchange], Awaitable[web.Response]]]:
    """Return a handler for each path of the page's files; empty without a page."""
    if directory is None or not (directory / "index.html").is_file():
        return {}
    found: dict[str, Callable[[Exchange], Awaitable[web.Response]]] = {}
    for file in sorted(directory.rglob("*"))[: FILES_MAX * 4]:
        if (
            file.suffix in TYPES
            and file.is_file()
            and file.stat().st_size <= FILE_BYTES_MAX
            and len(found) < FILES_MAX
        ):
            name = file.relative_to(directory).as_posix()
            handler = _serving(
                file.read_bytes(), TYPES[file.suffix], document=file.suffix == ".html"
            )
            found[f"/page/{name}"] = handler
            if name == "index.html":
                found["/"] = handler
    return found


def _serving(
    content: bytes, content_type: str, *, document: bool
) -> Callable[[Exchange], Awaitable[web.Response]]:
    tag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
    fixed = {**security(), "ETag": tag, "Cache-Control": "no-cache"}

    async def get(x: Exchange) -> web.Response:
        more = fixed | security(_members(x)) if document else fixed
        if x.request.headers.get("If-None-Match") == tag:
            return x.reply(304, b"", content_type, more=more)
        return x.reply(200, content, content_type, more=more)

    return get


def _members(x: Exchange) -> frozenset[str]:
    """Return the origins of members; a policy cannot name one of an IPv6 address."""
    members = x.services.consensus.status().members
    found = member_origins((each.url for each in members), x.request.headers.get("Host", ""))
    if x.services.settings.control is not None:
        found |= {x.services.settings.control[0]}
    return frozenset(origin for origin in found if "[" not in origin)
