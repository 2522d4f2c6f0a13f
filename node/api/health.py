"""/livez (this process, nothing else), /readyz (should it get traffic?), /health (the same as JSON).

Readiness needs a known leader, the store, and no drain; a dead cache or broker shows, and does not count (INV-7).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from aiohttp import web

from kv.ports import Status
from node import wire
from node.exchange import Exchange, Rooms

TEXT: Final = "text/plain; charset=utf-8"


class Finding(NamedTuple):
    name: str
    required: bool
    trouble: str | None
    note: str = ""


async def livez(x: Exchange) -> web.Response:
    """Say that this process and its loop live. Looks at nothing else: a dead store must not restart nodes."""
    return x.reply(200, b"ok\n", TEXT)


async def readyz(x: Exchange) -> web.Response:
    """Say whether this node should get traffic; `?verbose` says why, `?exclude=name` leaves a check out."""
    params = x.texts("verbose", "exclude")
    verbose = "verbose" in params and wire.flag_of(params["verbose"], "verbose")
    excluded = frozenset(filter(None, params.get("exclude", "").split(",")))
    found = [f for f in await findings(x.rooms) if f.name not in excluded]
    failed = [f for f in found if f.trouble is not None and f.required]
    lines = [_line(f) for f in found] if verbose or failed else []
    lines.append("readyz check failed" if failed else "ok")
    more = {"Retry-After": "1"} if failed else None
    return x.reply(503 if failed else 200, ("\n".join(lines) + "\n").encode(), TEXT, more=more)


async def health(x: Exchange) -> web.Response:
    """Say how this node is, as JSON; 503 when it should get no traffic."""
    found = await findings(x.rooms)
    failed = any(f.trouble is not None and f.required for f in found)
    status = x.rooms.consensus.status()
    answer = {
        "status": "unavailable" if failed else "degraded" if any(f.trouble for f in found) else "ok",
        "node": status.node,
        "role": status.role,
        "leader": status.leader,
        "checks": {f.name: f.trouble or "ok" for f in found},
    }
    return x.json(answer, 503 if failed else 200, more={"Retry-After": "1"} if failed else None)


async def findings(rooms: Rooms) -> list[Finding]:
    """Return every check, required ones first."""
    status = rooms.consensus.status()
    leaving = rooms.load.draining or rooms.load.leaving
    found = [
        Finding("drain", True, "the node is stopping" if leaving else None),
        Finding("leader", True, None if status.leader is not None else "no leader is known"),
        Finding("quorum", True, None if status.quorum else "no quorum answers"),
        Finding("time", True, None if status.stamped else "no stamp of this leader's term is applied here yet"),
        Finding("store", True, await rooms.store_probe.ask()),
        Finding("ledger", True, rooms.consensus.refusal),
        Finding("cache", False, None if rooms.cache.healthy() else "the cache does not answer"),
        Finding("broadcast", False, None if rooms.broadcast.healthy() else "the broker does not answer", _lag(status)),
    ]
    return found + [Finding(check.name, check.required, check.probe()) for check in rooms.checks]


def _lag(status: Status) -> str:
    """Return how far the broadcast is behind, where this node does it and it is."""
    return f"{status.broadcast_lag} revisions behind" if status.broadcast_lag else ""


def _line(finding: Finding) -> str:
    note = f", {finding.note}" if finding.note else ""
    if finding.trouble is None:
        return f"[+]{finding.name} ok{note}"
    how = "failed" if finding.required else "degraded (does not count)"
    return f"[-]{finding.name} {how}: {finding.trouble}{note}"
