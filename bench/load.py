"""Send many requests to an HTTP server over a few connections, with little CPU time.

Server and load share the machine. It speaks just enough HTTP/1.1 for servers that send
Content-Length, and never sends a request twice.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from urllib.parse import urlsplit


@dataclass
class LoadResult:
    """The result of a load: latencies, times of acknowledgements, refusals."""

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    acknowledged: list[float] = field(default_factory=list)
    """Times of 2xx answers, on CLOCK_MONOTONIC."""
    refused: int = 0
    """Number of answers that are not 2xx, and of requests without an answer."""

    @property
    def rate(self) -> float:
        """Return 2xx answers per second."""
        return len(self.latencies_s) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, share: float) -> float:
        """Return a percentile of the latency of 2xx answers; NaN if there are none."""
        ordered = sorted(self.latencies_s)
        return (
            ordered[min(int(share * len(ordered)), len(ordered) - 1)] * 1000
            if ordered
            else float("nan")
        )

    @property
    def longest_gap_s(self) -> float:
        """Return the longest time between two acknowledgements; infinity if there are fewer than
        two.
        """
        ordered = sorted(self.acknowledged)
        return max((b - a for a, b in pairwise(ordered)), default=float("inf"))


def request(method: str, path: str, body: bytes = b"", headers: str = "") -> bytes:
    """Return the bytes of one request."""
    length = f"Content-Length: {len(body)}\r\n" if body or method != "GET" else ""
    return f"{method} {path} HTTP/1.1\r\nHost: bench\r\n{headers}{length}\r\n".encode() + body


async def load(
    urls: list[str],
    make: Callable[[int, int], bytes],
    *,
    connections: int,
    seconds: float,
    count: int | None = None,
) -> LoadResult:
    """Send the requests that `make(connection, number)` returns, one by one on each connection.

    The connections are spread over `urls`. It ends after `seconds`, or after `count` requests in
    all.
    """
    run = LoadResult()
    ends = time.monotonic() + seconds
    left = [count if count is not None else 1 << 60]
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(_connection(run, urls[number % len(urls)], number, make, ends, left))
    run.seconds = time.monotonic() - began
    return run


async def _connection(  # noqa: PLR0917 - one call
    run: LoadResult,
    url: str,
    number: int,
    make: Callable[[int, int], bytes],
    ends: float,
    left: list[int],
) -> None:
    parts = urlsplit(url)
    stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    sent = 0
    while time.monotonic() < ends and left[0] > 0:
        left[0] -= 1
        try:
            if stream is None:
                stream = await asyncio.open_connection(parts.hostname, parts.port)
            reader, writer = stream
            began = time.monotonic()
            writer.write(make(number, sent))
            sent += 1
            async with asyncio.timeout(15):
                status = await _answer(reader)
            now = time.monotonic()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            run.refused += 1
            if stream is not None:
                stream[1].close()
                stream = None
            await asyncio.sleep(0.01)
            continue
        if 200 <= status < 300:
            run.latencies_s.append(now - began)
            run.acknowledged.append(now)
        else:
            run.refused += 1
            await asyncio.sleep(0.01)
    if stream is not None:
        stream[1].close()


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    place = head.lower().find(b"content-length:")
    if place >= 0:
        length = int(head[place + 15 : head.index(b"\r\n", place)])
        if length:
            await reader.readexactly(length)
    return int(head[9:12])
