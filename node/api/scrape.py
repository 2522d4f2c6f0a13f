"""GET /metrics: the metrics for Prometheus."""

from __future__ import annotations

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from node.exchange.exchange import Exchange


async def get(x: Exchange) -> web.Response:
    """Return every metric, in the format that the Accept header asks for."""
    await x.services.readiness.store_probe.ask()
    encoder, content_type = choose_encoder(x.request.headers.get("Accept", ""))
    return x.reply(200, encoder(x.services.metrics.registry), content_type)
