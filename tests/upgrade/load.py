"""Load a cluster while something is done to it, and judge what was seen.

It is kept in the files of a chaos run, so that `python -m chaos check FOLDER` judges it again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from acordo import Client
from chaos.checkers.judge import judge
from chaos.checkers.verdict import Verdict
from chaos.records.collect import evidence, look_up, observe, write_settled_ledger
from chaos.records.copies import collect_copies
from chaos.records.history import ClientOperation
from chaos.records.recorder import Recorder
from chaos.records.saved import FINAL_FILE, HISTORY_FILE, LEDGER_FILE, open_run
from chaos.workloads.base import LoadSettings
from chaos.workloads.catalogue import WORKLOADS

PLAIN: Final = ("register", "append")
"""Workloads whose every request counts. A watch is resumed by its client when its node ends, so it
is judged by what it told alone.
"""
CLIENTS: Final = 5
PAUSE_S: Final = 0.03
"""Mean pause of a client: enough load to be in the way, and not so much that it is all there is."""
TIMEOUT_S: Final = 12.0
"""More than a node works on a request: what a node refuses is told, and not cut off here."""
SHOWN_MAX: Final = 10
FINAL_KEYS_MAX: Final = 60


@dataclass
class Seen:
    """What came of a load."""

    requests: int = 0
    failed: list[str] = field(default_factory=list)
    """Requests that were not answered with what was asked for."""
    old_refusals: int = 0
    """Reads that a member of the earlier version refused while the leader changed. That version
    does not wait for the next leader (a read of this one does), with or without an upgrade: an
    election that the machine's load brings about is enough.
    """
    anomalies: list[str] = field(default_factory=list)
    judged: dict[str, int] = field(default_factory=dict)
    """Operations that each checker judged."""
    nodes: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    """Rows of the ledger that all members have alike."""
    copies: int = 0


CHANGING: Final = ("no_leader", "not_leader", "not_taken_over", "deposed")
"""Reasons that pass once the next leader serves."""


def is_failed(done: ClientOperation) -> bool:
    """Return whether a request failed. A guard that did not hold is an answer."""
    return done.outcome != "ok" and not (done.error or "").startswith("refused: guard")


def is_change_refused(done: ClientOperation) -> bool:
    """Return whether a read was refused, certainly, because the leader was changing."""
    error = done.error or ""
    return done.outcome == "fail" and error.startswith("ReadFailed: ") and error.endswith(CHANGING)


class _Counting(Recorder):
    """A recorder that also keeps what failed."""

    def __init__(
        self,
        path: Path,
        seen: Seen,
        seed: int,
        written: Callable[[], None],
        is_old: Callable[[str], bool],
    ) -> None:
        super().__init__(path, seed=seed)
        self.seen, self.written, self.is_old = seen, written, is_old

    def add(self, record: object) -> None:
        super().add(record)  # type: ignore[arg-type]  # a Record, as its caller gives it
        if isinstance(record, ClientOperation) and record.workload in PLAIN:
            self.seen.requests += 1
            if record.outcome == "ok" and record.op_id is not None:
                self.written()
            if is_change_refused(record) and self.is_old(record.node or ""):
                self.seen.old_refusals += 1
            elif is_failed(record):
                self.seen.failed.append(
                    f"{record.op} {record.key or ''} by {record.node} {record.outcome}: "
                    f"{record.error}"
                )


@contextlib.asynccontextmanager
async def loaded(
    urls: Sequence[str],
    direct: Sequence[str],
    folder: Path,
    *,
    once: bool,
    own_stores: bool,
    written: Callable[[], None] = lambda: None,
    is_old: Callable[[str], bool] = lambda node: False,
    seed: int = 7,
) -> AsyncIterator[Seen]:
    """Load the cluster at `urls` while the block runs; when it is left, collect what the members
    say by themselves, at `direct`, and judge.

    `once`: clients repeat nothing, so that every answer that is no success counts. `own_stores`:
    each member's copy is compared. `written` is called when a write was acknowledged. `is_old` says
    whether a node, by its name, runs the earlier version now.
    """
    folder.mkdir(parents=True)
    seen = Seen()
    settings = LoadSettings(tuple(urls), seed, "load/", clients=CLIENTS, pause_s=PAUSE_S)
    with _Counting(folder / HISTORY_FILE, seen, seed, written, is_old) as recorder:
        workloads = [WORKLOADS[name](settings, recorder) for name in (*PLAIN, "watch")]
        stop, quiet = asyncio.Event(), asyncio.Event()
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            stack.callback(quiet.set)
            stack.callback(stop.set)
            tasks.create_task(observe(direct, recorder, quiet))
            for workload in workloads:
                if once and workload.name in PLAIN:
                    # Without keep-alive: when the list of nodes changes, nginx before 1.27.4
                    # closes idle connections, and a request that is just being sent is lost.
                    workload.client_options = {  # type: ignore[misc]  # of this one alone
                        "retries": False, "timeout_s": TIMEOUT_S, "attempt_timeout_s": TIMEOUT_S,
                        "headers": {"Connection": "close"},
                    }  # fmt: skip
                await workload.open(stack)
                await workload.set_up(workload.workers[0])
            loads = [tasks.create_task(workload.run(stop)) for workload in workloads]
            yield seen
            stop.set()
            await asyncio.gather(*loads)
            for workload in workloads:
                await workload.finish(workload.workers)
            async with Client(list(direct)) as client:
                await look_up(client, recorder.unknown, recorder)
            quiet.set()
        seen.nodes = dict(recorder.nodes)
    await _collect(direct, folder, own_stores)
    _judge(seen, folder)


async def _collect(urls: Sequence[str], folder: Path, own_stores: bool) -> None:
    """Write what all members say at the end, when nobody writes."""
    operations = open_run(folder).history.operations
    written = (o.key for o in operations if o.op in {"put", "cas", "delete"} and o.key)
    keys = list(dict.fromkeys(written))[-FINAL_KEYS_MAX:]
    found = await evidence(urls, keys)
    found = await write_settled_ledger(urls, folder / LEDGER_FILE, found)
    if own_stores:
        settled = max(member.settled for member in found.members)
        copies = await collect_copies(found.nodes, urls, settled)
        found = msgspec.structs.replace(found, copies=copies)
    (folder / FINAL_FILE).write_bytes(msgspec.json.encode(found))


def _judge(seen: Seen, folder: Path) -> None:
    """Judge everything that was seen, as recorded and with what was looked up."""
    saved = open_run(folder)
    assert saved.evidence is not None
    for resolved in (False, True):
        for each in judge(saved, resolved=resolved):
            seen.judged[each.checker] = each.operations
            seen.anomalies += [
                f"{each.checker}: {finding.anomaly}: {finding.message}"
                for finding in each.findings
                if finding.verdict is not Verdict.OK
            ]
    seen.copies = len(saved.evidence.copies)
    seen.rows = min((len(copy.rows) for copy in saved.evidence.copies), default=0)
