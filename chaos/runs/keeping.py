"""Save what is needed besides the history to judge and repeat a run.

These are its settings, versions, the ledger, and the final states of members and readers.
"""

from __future__ import annotations

import contextlib
import platform
from importlib.metadata import PackageNotFoundError, version
from random import Random
from typing import Final

import msgspec

from acordo import AcordoError, Client
from chaos.records import collect
from chaos.records.copies import collect_copies
from chaos.records.saved import FINAL_FILE, HISTORY_FILE, LEDGER_FILE, load_history
from chaos.runs.plan import Plan
from chaos.runs.result import RunResult
from chaos.targets.base import Target

SETTINGS_FILE: Final = "settings.json"
FINAL_KEYS_MAX: Final = 600
"""Most keys that are read through every node at every level at the end. A longer run draws this
many by its seed.
"""


async def versions_of(plan: Plan, target: Target) -> dict[str, str]:
    """Return the versions of this machine's software, and each node's role as it reports it."""
    found = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "commit": plan.commit or "?",
    }
    for name in ("aiohttp", "uvloop", "pysyncobj", "msgspec"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    for node, url in zip(target.nodes, target.urls, strict=True):
        with contextlib.suppress(AcordoError):
            async with Client(url, retries=False, timeout_s=3) as client:
                state = await client.cluster()
                found[f"node {node}"] = f"{state.node}, {state.role} in term {state.term}"
    return found


def write_settings(result: RunResult) -> None:
    """Write the run's settings and planned faults, before any load."""
    plan = result.plan
    kept = {
        "command": plan.command,
        "seed": plan.seed,
        "began": plan.began,
        "workloads": plan.workloads,
        "families": plan.families,
        "seconds": plan.seconds,
        "clients": plan.clients,
        "rate": plan.rate,
        "pause_s": plan.pause_s,
        "nodes": plan.nodes,
        "servers": plan.servers,
        "at_once": plan.at_once,
        "target": plan.target,
        "schedule": [str(s).strip() for s in result.schedule],
        "versions": result.versions,
    }
    document = msgspec.json.format(msgspec.json.encode(kept), indent=2)
    (plan.folder / SETTINGS_FILE).write_bytes(document)


async def collect_final_state(target: Target, result: RunResult) -> None:
    """Write the ledger, and the members' states and final reads once nobody writes."""
    plan = result.plan
    found = await collect.evidence(
        target.looking_urls,
        _final_keys(plan),
        broker=bool(plan.broadcast) or "rabbitmq" in plan.servers,
        wiped=any(f.nemesis == "rabbitmq-wipe" for f in result.inflicted),
    )
    ledger = plan.folder / LEDGER_FILE
    try:
        found = await collect.write_settled_ledger(target.looking_urls, ledger, found)
    except AcordoError as exc:
        ledger.unlink(missing_ok=True)
        result.weak.append(f"the ledger could not be read whole: {exc}")
    newest = max((m.settled for m in found.members), default=0)
    copies = await collect_copies(found.nodes, target.looking_urls, newest)
    if not copies:
        result.weak.append("no member's ledger and contents could be read whole")
    found = msgspec.structs.replace(found, copies=copies)
    (plan.folder / FINAL_FILE).write_bytes(msgspec.json.encode(found))


def _final_keys(plan: Plan) -> list[str]:
    operations = load_history(plan.folder / HISTORY_FILE).operations
    written = (o.key for o in operations if o.op in {"put", "cas", "delete"} and o.key)
    keys = list(dict.fromkeys(written))
    if len(keys) > FINAL_KEYS_MAX:
        keys = Random(f"{plan.seed}/final").sample(keys, FINAL_KEYS_MAX)
    return keys
