"""Show the status of a running cluster. It only sends queries and changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import aiohttp
from yarl import URL

from cluster.local.closing import as_admin
from cluster.local.layout import running
from cluster.local.readiness import mends_itself, way_out
from kv.errors import BadRequest

TIMEOUT_S: Final = 5.0
SILENCE_S: Final = 1.0
"""Time without an answer after which a note says that it is still waiting."""
COLUMNS: Final = ("id", "url", "role", "term", "applied", "settled", "lag", "last_seen_s")


def main(argv: list[str]) -> int:
    """Show the cluster of a directory, or the one at the given URLs. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m cluster status")
    parser.add_argument("--url", action="append", help="a node's URL; may be given several times")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data"),
        help="directory of a local cluster (default: data)",
    )
    parser.add_argument("--json", action="store_true", help="print what the node said")
    given = parser.parse_args(argv)
    found = running(given.data)
    urls = given.url or ([node.url for node in found.nodes] if found else [])
    if not urls:
        print(
            f"no cluster runs in {given.data.absolute()}; name one with --url or --data",
            file=sys.stderr,
        )
        return 2
    data = None if given.url else given.data
    return asyncio.run(report(urls, as_json=given.json, data=data))


async def report(urls: Sequence[str], *, as_json: bool, data: Path | None = None) -> int:
    """Ask all URLs at once and print the first answer of `/v1/cluster`. `data`: the directory of
    the local cluster that they belong to.

    Return 0; 1 if the answer has no leader or no quorum; 2 if no node answers. Raises
    BadRequest("bad_url").
    """
    for url in urls:
        if not (URL(url).scheme in ("http", "https") and URL(url).host):
            raise BadRequest(
                "bad_url", f"{url!r} is no node's URL", allowed="such as http://127.0.0.1:8001"
            )
    async with as_admin(aiohttp.ClientTimeout(total=TIMEOUT_S), data) as http:
        asked = [asyncio.ensure_future(_ask(http, url)) for url in urls]
        pending: set[asyncio.Future[Mapping[str, Any]]] = set(asked)
        done, pending = await asyncio.wait(
            pending, timeout=SILENCE_S, return_when=asyncio.FIRST_COMPLETED
        )
        if not any(each.exception() is None for each in done) and pending:
            print(f"no node answers yet: waiting for up to {TIMEOUT_S:g} s", file=sys.stderr)
        while pending and not any(each.done() and each.exception() is None for each in asked):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        for each in pending:
            each.cancel()
        for each in asked:
            if each.done() and not each.cancelled() and each.exception() is None:
                said = each.result()
                print(json.dumps(said, indent=2) if as_json else as_text(said))
                return 0 if said.get("leader") and said.get("quorum") else 1
    print(
        "no node answered:\n  " + "\n  ".join(str(each.exception()) for each in asked),
        file=sys.stderr,
    )
    return 2


async def _ask(http: aiohttp.ClientSession, url: str) -> Mapping[str, Any]:
    """Return a node's answer. Raises OSError naming the URL."""
    try:
        async with http.get(url.rstrip("/") + "/v1/cluster") as response:
            response.raise_for_status()
            said = await response.json()
            if not isinstance(said, dict):
                raise ValueError("the answer is no JSON object")
            return said
    except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
        raise OSError(f"{url}: {str(exc) or type(exc).__name__}") from exc


def as_text(said: Mapping[str, Any]) -> str:
    """Return the answer of /v1/cluster as a table."""
    leader = said.get("leader")
    head = (
        f"{leader} leads in term {said.get('term')}" if leader else "this node knows no leader yet"
    )
    head += "" if said.get("quorum") else ", no quorum"
    if refusal := said.get("refusal"):
        until = "" if mends_itself(refusal) else " until somebody decides"
        head += f"\nREFUSING WRITES{until}: {refusal}"
        head += f"\n  {way_out(refusal)}"
    if said.get("store_kind") == "replicated":
        head += f"\nevery member has its own store; this one's is {said.get('store_state')}"
        head += f": {said['store_detail']}" if said.get("store_detail") else ""
    if said.get("unsafe_fsync"):
        head += f"\nfsync={said.get('fsync')}: a power cut may lose acknowledged writes"
    rows = [COLUMNS] + [tuple(_cell(m.get(c)) for c in COLUMNS) for m in said.get("members", ())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    return "\n".join([f"{head} (as {said.get('node')} sees it)", *lines])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
