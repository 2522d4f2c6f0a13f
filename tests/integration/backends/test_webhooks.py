"""Webhooks of real workers on a real cluster: signed, in order per key, resumed, given up in the
end, never inward.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from acordo import Client
from tests.integration.backends.conftest import started, until, worker
from tests.integration.backends.test_async_writes import asked

SECRET = "0123456789abcdef-secret"


class Receiver:
    """A target that records what it took, and answers as told per path."""

    def __init__(self) -> None:
        self.taken: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.attempts: dict[str, int] = defaultdict(int)
        self.answers: dict[str, Callable[[web.BaseRequest], Awaitable[web.Response]]] = {}
        self.url = ""

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        self.attempts[request.path] += 1
        stamp = request.headers["Acordo-Timestamp"]
        wanted = hmac.new(SECRET.encode(), stamp.encode() + b"." + body, hashlib.sha256).hexdigest()
        assert request.headers["Acordo-Signature"] == f"v1={wanted}"
        answer = self.answers.get(request.path)
        response = web.Response() if answer is None else await answer(request)
        if response.status == 200:
            self.taken[request.path].append(
                json.loads(body) | {"delivery": request.headers["Acordo-Delivery"]}
            )
        return response


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    runner = web.ServerRunner(web.Server(receiver.handle), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield receiver
    finally:
        await runner.cleanup()


async def subscribe(client: Client, name: str, url: str, prefix: str) -> int:
    value = json.dumps({"url": url, "secret": SECRET, "prefix": prefix})
    return (await client.put(f"acordo/webhooks/subscriptions/{name}", value)).revision


@pytest.mark.timeout(240)
async def test_deliveries(tmp_path: Path) -> None:
    """Order per key through a worker's death, bad targets dead-lettered, replay, damaged
    subscriptions passed over.
    """
    async with receiving() as target, started(tmp_path, nodes=1) as cluster:
        urls = [node.url for node in cluster.nodes.values()]
        quick = {
            "urls": urls[0],
            "webhook_allow_private": "true",
            "webhook_attempts_max": "3",
            "webhook_backoff_s": "0.05",
            "webhook_timeout_s": "0.5",
            "webhook_lease_s": "3",
        }
        release = asyncio.Event()

        async def fail(request: web.BaseRequest) -> web.Response:
            return web.Response() if release.is_set() else web.Response(status=500)

        async def hang(request: web.BaseRequest) -> web.Response:
            await asyncio.Event().wait()
            raise AssertionError

        async def redirect(request: web.BaseRequest) -> web.Response:
            return web.Response(status=302, headers={"Location": target.url + "/elsewhere"})

        target.answers = {"/fails": fail, "/hangs": hang, "/redirects": redirect}
        async with Client(urls) as client:
            await subscribe(client, "good", target.url + "/good", "k/")
            for name in ("fails", "hangs", "redirects"):
                await subscribe(client, name, f"{target.url}/{name}", f"{name}/")
            await client.put("acordo/webhooks/subscriptions/damaged", b"\xff{")
            await client.put(
                "acordo/webhooks/subscriptions/short",
                json.dumps({"url": "http://127.0.0.1/", "secret": "x"}),
            )
            made: dict[str, list[int]] = defaultdict(list)

            async def write(count: int) -> None:
                for n in range(count):
                    key = f"k/{n % 5}"
                    made[key].append((await client.put(key, str(n))).revision)

            async with worker(tmp_path, "w1", quick) as first, worker(tmp_path, "w2", quick):
                await write(50)
                for name in ("fails", "hangs", "redirects"):
                    await client.put(f"{name}/1", "x")
                await until(lambda: len(target.taken["/good"]) >= 10, "some are delivered")
                first.send_signal(signal.SIGKILL)
                await write(50)
                wanted = sum(map(len, made.values()))
                await until(
                    lambda: len(_distinct(target.taken["/good"])) >= wanted, "all are delivered"
                )
                per_key: dict[str, list[int]] = defaultdict(list)
                for each in _distinct(target.taken["/good"]):
                    per_key[each["key"]].append(each["revision"])
                assert per_key == made  # first deliveries of each key, in order, none left out
                await until(lambda: _letters(urls[0], 3), "three are given up")
                letters = {
                    str(each["id"]): each for each in await asked("--url", urls[0], "dead", "list")
                }
                reasons = {
                    name.split("/")[0]: str(letter["reason"]) for name, letter in letters.items()
                }
                assert reasons["fails"] == "answered 500" and reasons["redirects"] == "answered 302"
                assert "Timeout" in reasons["hangs"]
                assert target.attempts["/elsewhere"] == 0
                # the worker that died had begun to count
                assert 3 <= target.attempts["/fails"] <= 6
                release.set()
                name = next(each for each in letters if each.startswith("fails/"))
                await asked("--url", urls[0], "dead", "replay", name)
                await until(
                    lambda: len(target.taken["/fails"]) == 1, "the replayed one is delivered"
                )
                assert len(await asked("--url", urls[0], "dead", "list")) == 2
            async with worker(tmp_path, "w3", quick | {"webhook_allow_private": "false"}):
                await client.put("k/inward", "x")
                await until(lambda: _letters(urls[0], 3), "a target inside is refused")
                reasons_now = [
                    str(each["reason"]) for each in await asked("--url", urls[0], "dead", "list")
                ]
                assert any("not a public address" in reason for reason in reasons_now)
                assert not any(each["key"] == "k/inward" for each in target.taken["/good"])


def _distinct(taken: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({each["delivery"]: each for each in reversed(taken)}.values())[::-1]


async def _letters(url: str, wanted: int) -> bool:
    return len(await asked("--url", url, "dead", "list")) == wanted
