"""Run `python -m cluster.installation URL`: check any running installation, given only its URL.

A failed check reports what failed and why. All keys that the checks write lie under one random
prefix and are deleted at the end. Exit code 0: all passed; 1: a check failed; 2: wrong usage, or
nothing answers at the URL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import quote

import aiohttp

from cluster.tls import session

CHECK_TIMEOUT_S: Final = 60.0
REQUEST_TIMEOUT_S: Final = 20.0
RETRY_S: Final = 15.0
"""How long a 503 (no leader at the moment) is retried: the installation may have just been started.
"""
KEY_BYTES_MAX: Final = 1024
VALUE_BYTES_MAX: Final = 1024 * 1024
TRIES_PER_NODE: Final = 40
"""Most requests through a load balancer until a given node must have answered one."""
URLS_KNOWN_S: Final = 5.0
"""How long to wait for a new cluster's members to know each other's URLs."""


class Failed(Exception):
    """A check that failed: what was expected, and what came instead."""


class Installation:
    """The installation under check, reached through one URL."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self.http, self.url = http, url.rstrip("/")
        self.prefix = f"installation-check/{secrets.token_hex(6)}/"
        self.written: set[str] = set()

    def key(self, name: str) -> str:
        """Return a key under the check's own prefix and note it for deletion at the end."""
        self.written.add(self.prefix + name)
        return self.prefix + name

    async def ask(
        self, method: str, path: str, expected: int | tuple[int, ...], **more: Any
    ) -> Answer:
        """Send a request and return the answer. A 503 is retried for RETRY_S.

        Raises Failed unless the status is one of `expected`.
        """
        wanted = (expected,) if isinstance(expected, int) else expected
        give_up = time.monotonic() + RETRY_S
        url = path if path.startswith("http") else self.url + path
        while True:
            async with self.http.request(method, url, **more) as response:
                answer = Answer(
                    f"{method} {path}", response.status, response.headers, await response.read()
                )
            if answer.status in wanted:
                return answer
            if answer.status != 503 or time.monotonic() > give_up:
                raise Failed(
                    f"{method} {path[:120]} answered {answer.status}, expected "
                    f"{' or '.join(map(str, wanted))}: {answer.body[:200].decode(errors='replace')}"
                )
            await asyncio.sleep(0.2)

    async def put(
        self, key: str, value: str, expected: int | tuple[int, ...] = (200, 201)
    ) -> Answer:
        """Write a text value through the original project's API."""
        return await self.ask("PUT", "/kv", expected, json={"data": {"key": key, "value": value}})

    async def get(self, key: str, expected: int | tuple[int, ...] = 200) -> Answer:
        """Read a key through the original project's API."""
        return await self.ask("GET", f"/kv?key={quote(key, safe='')}", expected)

    async def delete(self, key: str, expected: int | tuple[int, ...] = (200, 204)) -> Answer:
        """Delete a key through the original project's API."""
        return await self.ask("DELETE", f"/kv?key={quote(key, safe='')}", expected)


class Answer:
    """The answer to one request."""

    def __init__(self, asked: str, status: int, headers: Any, body: bytes) -> None:
        self.asked, self.status = asked, status
        self.headers, self.body = headers, body

    def json(self) -> Any:
        """Return the body as JSON. Raises Failed."""
        try:
            return json.loads(self.body)
        except ValueError:
            raise Failed(f"{self.asked} answered no JSON: {self.body[:200]!r}") from None

    def value(self) -> str:
        """Return the value in a body of the original project's form. Raises Failed."""
        try:
            return str(self.json()["data"]["value"])
        except (KeyError, TypeError):
            raise Failed(
                f'{self.asked} answered no {{"data": {{"key", "value"}}}}: {self.body[:200]!r}'
            ) from None


def expect(name: str, got: object, wanted: object) -> None:
    """Raise Failed unless both are equal."""
    if got != wanted:
        raise Failed(f"{name} is {_short(got)}, expected {_short(wanted)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:100]}… ({len(text)} characters)"


# ------------------------------------------------------------------------------------------- checks


async def health(it: Installation) -> None:
    """Check that /health answers 200."""
    await it.ask("GET", "/health", 200)


async def ready(it: Installation) -> None:
    """Check that /livez and /readyz answer 200."""
    await it.ask("GET", "/livez", 200)
    await it.ask("GET", "/readyz", 200)


async def put_and_get(it: Installation) -> None:
    """Check that PUT stores a value, GET returns it."""
    key = it.key("put")
    await it.put(key, "valor")
    expect("the value", (await it.get(key)).value(), "valor")


async def overwrite(it: Installation) -> None:
    """Check that a second PUT replaces the value."""
    key = it.key("overwrite")
    await it.put(key, "first")
    await it.put(key, "second")
    expect("the value", (await it.get(key)).value(), "second")


async def delete(it: Installation) -> None:
    """Check that DELETE removes a key; GET then answers 404."""
    key = it.key("delete")
    await it.put(key, "x")
    await it.delete(key)
    await it.get(key, 404)


async def missing(it: Installation) -> None:
    """Check that GET of a key that never was answers 404."""
    await it.get(it.prefix + "never-written", 404)


async def other_scripts(it: Installation) -> None:
    """Check that any script, empty values and odd characters come back unchanged."""
    for name, value in (
        ("ação/日本/🙂", "coração 🙂"),
        ("a b&c=d?e#f%2F", "line\nline\ttab"),
        ("empty", ""),
    ):
        key = it.key(name)
        await it.put(key, value)
        expect(f"the value of {name!r}", (await it.get(key)).value(), value)


async def key_limit(it: Installation) -> None:
    """Check that a key of 1 KB is taken, a longer or empty one refused."""
    key = it.key("k" * (KEY_BYTES_MAX - len(it.prefix)))
    await it.put(key, "long key")
    expect("the value", (await it.get(key)).value(), "long key")
    await it.put(it.key(key.removeprefix(it.prefix) + "k"), "too long", (400, 413, 414))
    await it.put("", "empty key", 400)


async def value_limit(it: Installation) -> None:
    """Check that a value of 1 MB is taken and comes back, a larger one answers 413."""
    key, value = it.key("megabyte"), "v" * VALUE_BYTES_MAX
    await it.put(key, value)
    expect("the value", (await it.get(key)).value(), value)
    await it.put(key, value + "v", 413)
    expect("the value after a refused PUT", (await it.get(key)).value(), value)


async def bad_requests(it: Installation) -> None:
    """Check that broken JSON, a missing field and an unknown method are refused."""
    await it.ask(
        "PUT", "/kv", 400, data=b'{"data": {"key": ', headers={"Content-Type": "application/json"}
    )
    await it.ask("PUT", "/kv", (400, 422), json={"data": {"key": it.key("no-value")}})
    await it.ask("PATCH", "/kv", 405)
    await it.ask("GET", "/kv", 400)


async def revisions(it: Installation) -> None:
    """Check that /v1/kv takes raw bytes, and If-Match lets only the newest revision be replaced."""
    path = "/v1/kv/" + quote(it.key("revisions"), safe="")
    first = (await it.ask("PUT", path, (200, 201), data=bytes(range(256)))).headers.get("ETag")
    answer = await it.ask("GET", path, 200)
    expect("the value", answer.body, bytes(range(256)))
    expect("the ETag of GET", answer.headers.get("ETag"), first)
    await it.ask("PUT", path, 200, data=b"2", headers={"If-Match": str(first)})
    await it.ask("PUT", path, 412, data=b"3", headers={"If-Match": str(first)})
    expect("the value", (await it.ask("GET", path, 200)).body, b"2")


async def metrics(it: Installation) -> None:
    """Check that /metrics speaks Prometheus' text format."""
    answer = await it.ask("GET", "/metrics", 200)
    if not any(line.startswith(b"acordo_") for line in answer.body.splitlines()):
        raise Failed(f"no line begins with acordo_: {answer.body[:200]!r}")


async def leader(it: Installation) -> None:
    """Check that /v1/leader names the leader."""
    answer = (await it.ask("GET", "/v1/leader", 200)).json()
    if not (answer.get("id") or answer.get("leader")):
        raise Failed(f"no leader in {answer}")


async def every_node(it: Installation) -> None:
    """Check that every node reads what was written through this URL."""
    key = it.key("every-node")
    await it.put(key, "seen by all")
    members = await _members(it)
    for member in members:
        answer = await _through(it, member, f"/kv?key={quote(key, safe='')}")
        expect(f"the value at {member['id']}", answer.value(), "seen by all")


async def _members(it: Installation) -> list[dict[str, Any]]:
    """Return the members that `/v1/cluster` lists.

    In a cluster that has just started, members learn each other's URLs within a second or two; this
    waits up to URLS_KNOWN_S for that.
    """
    ends = time.monotonic() + URLS_KNOWN_S
    while True:
        members = (await it.ask("GET", "/v1/cluster", 200)).json().get("members", [])
        if not members:
            raise Failed("/v1/cluster names no members")
        if all(member["url"] for member in members) or time.monotonic() > ends:
            return list(members)
        await asyncio.sleep(0.1)


async def _through(it: Installation, member: dict[str, Any], path: str) -> Answer:
    """Get `path` from a given member.

    Try its own URL first; if that is not reachable, repeat the request through the load balancer
    until that member answers. Raises Failed after TRIES_PER_NODE requests.
    """
    try:
        answer = await it.ask("GET", member["url"] + path, 200)
        if answer.headers.get("Acordo-Node") == member["id"]:
            return answer
    except (aiohttp.ClientError, TimeoutError):
        pass  # a member's own URL may be unreachable from here
    for _ in range(TRIES_PER_NODE):
        answer = await it.ask("GET", path, 200)
        if answer.headers.get("Acordo-Node") == member["id"]:
            return answer
    raise Failed(
        f"{member['id']} answers neither at {member['url']} nor in {TRIES_PER_NODE} requests "
        f"through {it.url}"
    )


CHECKS: Final[tuple[Callable[[Installation], Awaitable[None]], ...]] = (
    health,
    ready,
    put_and_get,
    overwrite,
    delete,
    missing,
    other_scripts,
    key_limit,
    value_limit,
    bad_requests,
    revisions,
    metrics,
    leader,
    every_node,
)


async def check(url: str) -> int:
    """Run every check against the URL and print how each went; return the exit code."""
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with session(timeout) as http:
        it = Installation(http, url)
        try:
            async with http.get(it.url + "/livez"):
                pass
        except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
            print(f"{url} does not answer: {exc or type(exc).__name__}", file=sys.stderr)
            return 2
        failed = 0
        for run in CHECKS:
            why = await _outcome(run, it)
            failed += why is not None
            print(
                f"{'ok    ' if why is None else 'FAILED'}  {title(run)}"
                + (f"\n        {why}" if why else "")
            )
        for key in sorted(it.written):
            try:
                await it.delete(key, (200, 204, 404, 400, 413, 414))
            except (Failed, aiohttp.ClientError, TimeoutError) as exc:
                print(f"left behind: {key[:100]} ({exc})", file=sys.stderr)
    print(f"\n{len(CHECKS) - failed} passed, {failed} failed  ({url})")
    return 1 if failed else 0


def title(run: Callable[[Installation], Awaitable[None]]) -> str:
    """Return what a check verifies, as one line for the report."""
    return str(run.__doc__).removeprefix("Check that ").removesuffix(".")


async def _outcome(run: Callable[[Installation], Awaitable[None]], it: Installation) -> str | None:
    try:
        async with asyncio.timeout(CHECK_TIMEOUT_S):
            await run(it)
    except Failed as exc:
        return str(exc)
    except TimeoutError:
        return f"no answer within {REQUEST_TIMEOUT_S:g} s"
    except aiohttp.ClientError as exc:
        return f"the connection failed: {exc or type(exc).__name__}"
    return None


def main() -> int:
    """Check the installation that the command line names; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.installation", description="Check a running installation."
    )
    parser.add_argument("url", help="where it answers, such as http://127.0.0.1:8001")
    url: str = parser.parse_args().url
    if not url.startswith(("http://", "https://")):
        print(
            f"{url!r} is no http URL; allowed: http://HOST[:PORT] or https://HOST[:PORT]",
            file=sys.stderr,
        )
        return 2
    return asyncio.run(check(url))


if __name__ == "__main__":
    sys.exit(main())
