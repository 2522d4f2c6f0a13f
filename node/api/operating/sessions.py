"""/v1/session: sign the web page in with a token, and out again.

The browser keeps the session in a cookie that no script reads, and never the token.
"""

from __future__ import annotations

from aiohttp import web
from msgspec import Struct

from node.exchange.exchange import Exchange
from node.http import cookies
from node.wire.requests import NothingForm


class SessionAnswer(Struct, frozen=True):
    """Who is signed in, and until when (log time)."""

    principal: str | None
    admin: bool
    expires_ms: int


async def begin(x: Exchange) -> web.Response:
    """Begin a session of the token that the request brought."""
    await _nothing(x)
    x.mutation = True
    begun = await x.services.sessions.begin(x.services.grant, deadline=x.deadline)
    answer = SessionAnswer(begun.rights.principal, begun.rights.admin, begun.expires_ms)
    cookie = cookies.begin(begun.text, begun.lives_s, secure=_secure(x))
    return x.json(answer, 201, more={"Set-Cookie": cookie})


async def end(x: Exchange) -> web.Response:
    """End the session that the request was sent with."""
    await _nothing(x)
    x.mutation = True
    await x.services.sessions.end(x.services.grant, deadline=x.deadline)
    return x.json({"ended": True}, more={"Set-Cookie": cookies.end(secure=_secure(x))})


async def _nothing(x: Exchange) -> None:
    x.params()
    if x.request.can_read_body:
        await x.form(NothingForm)


def _secure(x: Exchange) -> bool:
    """Return whether the browser speaks HTTPS: to a proxy, which says so, or else to this node."""
    said = x.request.headers.get("X-Forwarded-Proto")
    return x.encrypted if said is None else said.partition(",")[0].strip().lower() == "https"
