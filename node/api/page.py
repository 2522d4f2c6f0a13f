"""GET /, /docs and /page/…: serve the files of the web page and of the API's viewer, read once at
start. They may load nothing from other origins; the page may ask only its own node and the other
members, the viewer only its own node.
"""

from __future__ import annotations

import gzip
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
"""Media types by file name suffix; files of other kinds are not served. A file that ends with `.gz`
besides is kept compressed, and served under the name without.
"""
DOCUMENTS: Final = {"index.html": "/", "docs.html": "/docs"}
"""The paths of the documents, by their files."""


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
        name = file.relative_to(directory).as_posix().removesuffix(".gz")
        content_type = TYPES.get(Path(name).suffix)
        if (
            content_type is not None
            and file.is_file()
            and file.stat().st_size <= FILE_BYTES_MAX
            and len(found) < FILES_MAX
        ):
            content, packed = file.read_bytes(), file.suffix == ".gz"
            handler = _serving(content, content_type, packed=packed, page=name == "index.html")
            found[f"/page/{name}"] = handler
            if name in DOCUMENTS:
                found[DOCUMENTS[name]] = handler
    return found


def _serving(
    content: bytes, content_type: str, *, packed: bool, page: bool
) -> Callable[[Exchange], Awaitable[web.Response]]:
    """Return the handler of one file. `packed`: its content is compressed by gzip; `page`: it is
    the document whose scripts ask the other members too.
    """
    tag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
    fixed = {**security(), "ETag": tag, "Cache-Control": "no-cache"}
    if packed:
        fixed["Vary"] = "Accept-Encoding"

    async def get(x: Exchange) -> web.Response:
        more = fixed | security(_members(x)) if page else fixed
        if x.request.headers.get("If-None-Match") == tag:
            return x.reply(304, b"", content_type, more=more)
        if not packed:
            return x.reply(200, content, content_type, more=more)
        if "gzip" in x.request.headers.get("Accept-Encoding", ""):
            return x.reply(200, content, content_type, more=more | {"Content-Encoding": "gzip"})
        return x.reply(200, gzip.decompress(content), content_type, more=more)

    return get


def _members(x: Exchange) -> frozenset[str]:
    """Return the origins of members; a policy cannot name one of an IPv6 address."""
    members = x.services.consensus.status().members
    found = member_origins((each.url for each in members), x.request.headers.get("Host", ""))
    if x.services.settings.control is not None:
        found |= {x.services.settings.control[0]}
    return frozenset(origin for origin in found if "[" not in origin)
