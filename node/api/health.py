"""/livez (is this process alive?), /readyz (should it get traffic?), /health (the same as JSON).

node/readiness/findings decides what counts and names each check.
"""

from __future__ import annotations

from typing import Final

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from node.exchange.exchange import Exchange
from node.readiness.findings import ReadinessFinding
from node.wire.text_fields import parse_flag

TEXT: Final = "text/plain; charset=utf-8"


async def livez(x: Exchange) -> web.Response:
    """Answer while this process and its event loop are alive. It checks nothing else, because a
    dead store must not restart nodes.
    """
    return x.reply(200, b"ok\n", TEXT)


async def readyz(x: Exchange) -> web.Response:
    """Answer whether this node should get traffic. `?verbose` gives the reasons, `?exclude=name`
    leaves a check out.
    """
    params = x.text_params("verbose", "exclude")
    verbose = "verbose" in params and parse_flag(params["verbose"], "verbose")
    excluded = frozenset(filter(None, params.get("exclude", "").split(",")))
    found = [f for f in await x.services.readiness.look() if f.name not in excluded]
    failed = [f for f in found if f.counts]
    lines = [_line(f) for f in found] if verbose or failed else []
    lines.append("readyz check failed" if failed else "ok")
    more = {"Retry-After": "1"} if failed else None
    return x.reply(503 if failed else 200, ("\n".join(lines) + "\n").encode(), TEXT, more=more)


async def health(x: Exchange) -> web.Response:
    """Return this node's health as JSON; 503 when it should get no traffic."""
    found = await x.services.readiness.look()
    failed = any(f.counts for f in found)
    status = x.services.consensus.status()
    status_word = "ok"
    if failed:
        status_word = "unavailable"
    elif any(f.trouble for f in found):
        status_word = "degraded"
    answer: dict[str, object] = {
        "status": status_word,
        "node": status.node,
        "role": status.role,
        "leader": status.leader,
        "checks": {f.name: f.trouble or "ok" for f in found},
    }
    if x.services.settings.etcd:
        answer["health"] = "false" if failed else "true"
    return x.json(answer, 503 if failed else 200, more={"Retry-After": "1"} if failed else None)


def _line(finding: ReadinessFinding) -> str:
    note = f", {finding.note}" if finding.note else ""
    if finding.trouble is None:
        return f"[+]{finding.name} ok{note}"
    how = "failed" if finding.required else "degraded (does not count)"
    return f"[-]{finding.name} {how}: {finding.trouble}{note}"


async def metrics(x: Exchange) -> web.Response:
    """Return every metric for Prometheus, in the format that the Accept header asks for."""
    await x.services.readiness.store_probe.ask()
    encoder, content_type = choose_encoder(x.request.headers.get("Accept", ""))
    return x.reply(200, encoder(x.services.metrics.registry), content_type)
