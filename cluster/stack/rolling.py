"""Roll changed images and settings out to one node at a time, so that a quorum always serves.

The leader comes last, and no node is touched while another one is not ready. nginx, the only entry
point, follows the nodes.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Final

from cluster.stack.containers import QUORUM
from cluster.stack.engine import Engine, StackFailed
from cluster.stack.env_file import NODES, StackSettings

ASK_TIMEOUT_S: Final = 5.0
PAUSE_S: Final = 1.0
STEADY_LOOKS: Final = 3
"""Consecutive looks that must find a node ready before the next one is touched."""
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass(frozen=True)
class NodeLook:
    """The observed state of one node: whether it has changes to roll out, is ready, and leads."""

    service: str
    changed: bool
    ready: bool
    leads: bool


def order(nodes: Sequence[NodeLook]) -> list[str]:
    """Return the nodes to recreate, in order: those that are not ready first, the leader last."""
    return [
        n.service for n in sorted(nodes, key=lambda n: (n.ready, n.leads, n.service)) if n.changed
    ]


def may_go(service: str, nodes: Sequence[NodeLook]) -> bool:
    """Return whether a node may be recreated: a quorum is ready without it, or it is not ready
    itself.
    """
    own = next(n for n in nodes if n.service == service)
    return not own.ready or sum(n.ready for n in nodes if n.service != service) >= QUORUM


def ask(url: str) -> bytes | None:
    """Return the body of a node's answer with status 200; None for anything else.

    Proxy settings of the environment are ignored.
    """
    try:
        with _DIRECT.open(url, timeout=ASK_TIMEOUT_S) as response:
            return bytes(response.read()) if response.status == 200 else None
    except (OSError, HTTPException):
        return None


def _leads(url: str) -> bool:
    try:
        cluster = json.loads(ask(f"{url}/v1/cluster") or b"{}")
    except ValueError:
        return False
    return (
        isinstance(cluster, dict)
        and cluster.get("leader") is not None
        and cluster["leader"] == cluster.get("node")
    )


def see(settings: StackSettings, *, changes: dict[str, bool]) -> list[NodeLook]:
    """Return the state of every node."""
    seen = []
    for service, url in zip(NODES, settings.urls(), strict=True):
        ready = ask(f"{url}/readyz") is not None
        seen.append(NodeLook(service, changes[service], ready, ready and _leads(url)))
    return seen


def changes(engine: Engine) -> dict[str, bool]:
    """Return for each node whether Compose would recreate its container. Raises StackFailed."""
    found = {}
    for service in NODES:
        ids = engine.containers(service=service)
        about = engine.inspect(
            '{{index .Config.Labels "com.docker.compose.config-hash"}} {{.Image}} '
            "{{.Config.Image}}",
            *ids,
        )
        wanted = engine.compose("config", "--hash", service)
        if not wanted.ok:
            raise StackFailed(f"docker-compose config --hash failed: {wanted.last(3)}")
        if not about or len(about) != 1:
            found[service] = True
            continue
        its_hash, its_image, name = about[0].rsplit(maxsplit=2)
        image = engine.docker("image", "inspect", name, "--format", "{{.Id}}").out
        found[service] = its_hash != wanted.out.split()[-1] or its_image != image
    return found


def roll(
    engine: Engine, settings: StackSettings, wait_s: float, say: Callable[[str], None]
) -> None:
    """Recreate each changed node, one at a time.

    Raises StackFailed if the next node cannot go without stopping the writes; it is left as it is.
    If no node is ready, nothing is served and no node could become ready alone. Then all are left
    for the caller to recreate at once.
    """
    changed = changes(engine)
    while any(changed.values()):
        looks = _looks(settings, changed)
        nodes = looks[-1]
        if not any(n.ready for look in looks for n in look):
            say("no node is ready: all that changed are made anew at once")
            return
        todo = order(nodes)
        service = todo[0]
        if not may_go(service, nodes):
            away = ", ".join(n.service for n in nodes if not n.ready)
            raise StackFailed(
                f"{away} is not ready, so {', '.join(todo)} cannot go without stopping the writes: "
                f"left as it was. See docker logs of {away}; once it is ready do this again, or "
                "python -m cluster stack upgrade --back"
            )
        say(f"{service}: new image or settings")
        made = engine.compose("up", "-d", "--no-deps", "--no-build", service)
        if not made.ok:
            raise StackFailed(f"{service} did not start: {made.last(5)}")
        changed[service] = False
        _ready(settings, service, wait_s)


def _looks(settings: StackSettings, changed: dict[str, bool]) -> list[list[NodeLook]]:
    """Look until all nodes are ready, at most STEADY_LOOKS times, so that one late answer does not
    count as not ready.
    """
    looks: list[list[NodeLook]] = []
    while len(looks) < STEADY_LOOKS and not (looks and all(n.ready for n in looks[-1])):
        if looks:
            time.sleep(PAUSE_S)
        looks.append(see(settings, changes=changed))
    return looks


def _ready(settings: StackSettings, service: str, wait_s: float) -> None:
    url = dict(zip(NODES, settings.urls(), strict=True))[service]
    ends, steady = time.monotonic() + wait_s, 0
    while steady < STEADY_LOOKS:
        steady = steady + 1 if ask(f"{url}/readyz") is not None else 0
        if time.monotonic() >= ends:
            raise StackFailed(
                f"{service} is not ready after {wait_s:g} s; the nodes after it were left as they "
                "were. See docker logs of it, or python -m cluster stack upgrade --back"
            )
        time.sleep(PAUSE_S)
