"""Ask the nodes of this machine about their state.

It changes nothing. A node that does not answer is a result, not an error.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

import aiohttp

from cluster.local.process import NodeProcess, NodeState


async def why_not_ready(http: aiohttp.ClientSession, node: NodeProcess) -> str:
    """Return why a node is not ready; an empty string if it is.

    An answer also marks a running node as ALIVE.
    """
    try:
        async with http.get(node.url + "/readyz?verbose") as response:
            if node.pid is not None:
                node.state = NodeState.ALIVE
            return "" if response.status == 200 else (await response.text())[:500].strip()
    except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
        return (
            f"{node.state.value}; {node.url} does not answer ({type(exc).__name__}); "
            f"{node.last_words()[:300]}"
        )


async def cluster_as_seen_by(
    http: aiohttp.ClientSession, node: NodeProcess | None
) -> Mapping[str, Any]:
    """Return a node's answer of `/v1/cluster`; an empty mapping if it does not answer."""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
        if node is not None:
            async with http.get(node.url + "/v1/cluster") as response:
                if response.status == 200:
                    return dict(await response.json())
    return {}


async def leader_of(http: aiohttp.ClientSession, urls: Iterable[str]) -> str | None:
    """Return the leader's id from the first URL that answers with one; None if none does."""
    for url in urls:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
            async with http.get(url + "/v1/leader") as response:
                if response.status == 200:
                    said = await response.json()
                    return str(said.get("id") or said["leader"])
    return None
