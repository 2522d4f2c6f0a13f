"""Show what a running cluster says of itself. Only asks; changes nothing."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

import aiohttp

TIMEOUT_S: Final = 5.0
COLUMNS: Final = ("id", "url", "role", "term", "applied", "settled", "lag", "last_seen_s")


async def report(urls: Sequence[str], *, as_json: bool) -> int:
    """Print the first answer of /v1/cluster; return 0, 1 when it has no leader or quorum, 2 when no node answers."""
    problems = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)) as http:
        for url in urls:
            try:
                async with http.get(url.rstrip("/") + "/v1/cluster") as response:
                    response.raise_for_status()
                    said = await response.json()
            except (aiohttp.ClientError, TimeoutError, ValueError) as exc:
                problems.append(f"{url}: {exc or type(exc).__name__}")
                continue
            print(json.dumps(said, indent=2) if as_json else as_text(said))
            return 0 if said.get("leader") and said.get("quorum") else 1
    print("no node answered:\n  " + "\n  ".join(problems), file=sys.stderr)
    return 2


def as_text(said: Mapping[str, Any]) -> str:
    """Return the answer of /v1/cluster as a table."""
    leader = said.get("leader")
    head = f"{leader} leads in term {said.get('term')}" if leader else "this node knows no leader yet"
    head += "" if said.get("quorum") else ", no quorum"
    if refusal := said.get("refusal"):
        head += f"\nREFUSING WRITES until somebody decides: {refusal}"
        head += "\n  put the store back that was settled, or go on from this one with: acordo adopt"
    rows = [COLUMNS] + [tuple(_cell(m.get(c)) for c in COLUMNS) for m in said.get("members", ())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(COLUMNS))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([f"{head} (as {said.get('node')} sees it)", *lines])


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
