"""The installation check says what failed and why, for an installation that is wrong in
known ways.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cluster import installation

Handler = Callable[[web.Request], Awaitable[web.Response]]


class Lying:
    """An installation in memory with a fault: `bad(request)` answers in its place, or
    returns None.
    """

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.fault: Callable[[web.Request], web.Response | None] = lambda request: None

    async def answer(self, request: web.Request) -> web.Response:
        wrong = self.fault(request)
        if wrong is not None:
            return wrong
        if request.path != "/kv":
            return web.json_response({"leader": "n1", "members": []})
        if request.method == "PUT":
            pair = (await request.json())["data"]
            self.values[pair["key"]] = pair["value"]
            return web.json_response({})
        key = request.query.get("key", "")
        if request.method == "DELETE":
            return web.json_response(
                {}, status=200 if self.values.pop(key, None) is not None else 404
            )
        if key not in self.values:
            return web.Response(status=404)
        return web.json_response({"data": {"key": key, "value": self.values[key]}})


@pytest.fixture
async def lying() -> AsyncIterator[tuple[Lying, str]]:
    it = Lying()
    app = web.Application(client_max_size=8 << 20)
    app.router.add_route("*", "/{path:.*}", it.answer)
    async with TestServer(app) as server:
        yield it, str(server.make_url("/"))


def verdict(said: str, check: Callable[[installation.Installation], Awaitable[None]]) -> str:
    """Return the line of one check, and why it failed."""
    lines = said.splitlines()
    at = next(i for i, line in enumerate(lines) if line.endswith(installation.title(check)))
    return lines[at] + (lines[at + 1] if lines[at].startswith("FAILED") else "")


async def test_what_works_passes_and_what_is_missing_fails(
    lying: tuple[Lying, str], capsys: pytest.CaptureFixture[str]
) -> None:
    it, url = lying
    assert await installation.check(url) == 1
    said = capsys.readouterr().out
    for good in (
        installation.put_and_get,
        installation.overwrite,
        installation.delete,
        installation.missing,
    ):
        assert verdict(said, good).startswith("ok"), said
    assert "no line begins with acordo_" in verdict(said, installation.metrics)
    assert "/v1/cluster names no members" in verdict(said, installation.every_node)
    assert it.values == {}, "something was left behind"


async def test_a_stale_value_is_told(
    lying: tuple[Lying, str], capsys: pytest.CaptureFixture[str]
) -> None:
    it, url = lying

    def stale(request: web.Request) -> web.Response | None:
        if request.method == "GET" and request.query.get("key", "").endswith("/overwrite"):
            return web.json_response({"data": {"key": "", "value": "first"}})
        return None

    it.fault = stale
    assert await installation.check(url) == 1
    assert "the value is 'first', expected 'second'" in verdict(
        capsys.readouterr().out, installation.overwrite
    )


async def test_an_undeleted_key_is_told(
    lying: tuple[Lying, str], capsys: pytest.CaptureFixture[str]
) -> None:
    it, url = lying
    it.fault = lambda request: web.json_response({}) if request.method == "DELETE" else None
    assert await installation.check(url) == 1
    assert "answered 200, expected 404" in verdict(capsys.readouterr().out, installation.delete)


async def test_nobody_there_is_another_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert await installation.check("http://127.0.0.1:1") == 2
    assert "does not answer" in capsys.readouterr().err
