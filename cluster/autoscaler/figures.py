"""Query Prometheus for the figures that a decision is based on.

A figure that is not available is None, never a guess: `plan` does not act on missing figures.
"""

from __future__ import annotations

import math
from typing import Any, Final

import aiohttp

ROUTES: Final = 'route=~"/kv|/v1/kv.*|/v1/txn|/v1/batch"'
BUCKETS: Final = f"acordo_http_request_seconds_bucket{{{ROUTES}}}"
QUERIES: Final = {
    "in_flight": "avg(avg_over_time(acordo_http_requests_in_flight[15s]))",
    "p99_s": f"histogram_quantile(0.99, sum by (le) (rate({BUCKETS}[30s])))",
    "cpu": "avg(rate(process_cpu_seconds_total[30s]) and on (instance) acordo_node_info)",
}
"""PromQL query of each figure."""


async def asked(http: aiohttp.ClientSession, prometheus: str, query: str) -> Any:
    """Run a query and return the decoded JSON of the answer.

    Raises aiohttp.ClientError, TimeoutError, OSError or ValueError.
    """
    async with http.get(prometheus + "/api/v1/query", params={"query": query}) as response:
        return await response.json()


def value_of(answer: Any) -> float | None:
    """Return the single number in an answer of Prometheus.

    Return None if it holds no result, several results, or a value that is not finite.
    """
    try:
        results = answer["data"]["result"]
        value = float(results[0]["value"][1]) if len(results) == 1 else math.nan
    except (KeyError, TypeError, IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None
