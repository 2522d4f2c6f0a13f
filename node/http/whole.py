"""Answers that are written in one piece, as bytes.

They are what aiohttp would write: its own way (a copy of the headers, a writer, two passes over
them) costs more than the rest of a small request. What is not plain is left to aiohttp.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict

_BODILESS: Final = frozenset({204, 205, 304})
_SET_HERE: Final = frozenset(
    {"Content-Length", "Date", "Server", "Connection", "Transfer-Encoding"}
)
_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
}


class WholeAnswer(web.Response):
    """An answer that is there as a whole: status, headers and body. aiohttp's own answer is made of
    it only where that is needed (`as_response`).
    """

    def __init__(self, status: int, body: bytes, fields: dict[str, str]) -> None:
        # Not that of aiohttp, whose copy of the headers is what is spared here.
        self._status, self._body, self._fields = status, body, fields
        self.whole = body
        self._copied: CIMultiDict[str] | None = None

    @property
    def headers(self) -> CIMultiDict[str]:
        """The headers, which may be changed."""
        if self._copied is None:
            self._copied = CIMultiDict(self._fields)
        return self._copied

    def as_response(self) -> web.Response:
        """Return the same as an answer of aiohttp's."""
        response = web.Response(status=self._status, body=self.whole, headers=self.headers)
        if self._keep_alive is False:
            response.force_close()
        return response

    def on_the_wire(self, request: web.BaseRequest) -> bytes | None:
        """Return the bytes to write to a client that keeps its connection; None: leave it to
        aiohttp.
        """
        body, status, fields = self.whole, self._status, self._copied or self._fields
        if (
            request.version != (1, 1)
            or not request.keep_alive
            or self._keep_alive is False
            or request.method == "HEAD"
            or status in _BODILESS
            or not _SET_HERE.isdisjoint(fields)
        ):
            return None
        lines = "\r\n".join([f"{name}: {value}" for name, value in fields.items()])
        ends = len(fields) - 1
        if lines.count("\r") != ends or lines.count("\n") != ends:
            return None  # aiohttp refuses a header that would be two
        self._keep_alive = True  # as aiohttp does when it writes
        return (
            f"{_STATUS_LINES[status]}{lines}\r\nContent-Length: {len(body)}\r\nDate: "
            f"{rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n\r\n"
        ).encode() + body


def body_bytes(response: web.StreamResponse) -> int:
    """Return how many bytes of body an answer holds in memory."""
    if type(response) is WholeAnswer:
        return len(response.whole)
    body = response.body if isinstance(response, web.Response) else None
    return len(body) if isinstance(body, bytes) else 0
