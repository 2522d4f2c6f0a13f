"""Watch a node from inside while `python -m bench.way` measures it; nothing else imports this.

Python imports a module of this name at its start when its directory is on PYTHONPATH. In a node it
samples where the loop's thread is, notes when a write passes its stations, and leaves both in
`$BENCH_OUT` when the process ends. It is not part of the product.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any

SAMPLE_S = 0.003
PARTS = (
    ("/aiohttp/", "HTTP: parsing, answering"),
    ("/node/http/", "HTTP: parsing, answering"),
    ("/node/writes/", "queue and submit"),
    ("/coordinator/clients/submission", "queue and submit"),
    ("/coordinator/clients/", "answers and listeners"),
    ("/node/watching/", "answers and listeners"),
    ("/node/reads/", "answers and listeners"),
    ("/backends/local/", "answers and listeners"),
    ("/coordinator/background/", "answers and listeners"),
    ("/node/", "HTTP: the handler"),
    ("/coordinator/machine/", "apply: order, evaluate"),
    ("/coordinator/raft/storage/", "Raft: journal"),
    ("/coordinator/raft/net/", "Raft: messages"),
    ("/coordinator/raft/", "Raft: protocol"),
    ("/pysyncobj/", "Raft: protocol"),
    ("/coordinator/", "apply: settle"),
    ("/backends/replicated/", "apply: settle"),
)
"""Which part of a write a file belongs to; the first that fits counts."""
OTHER = "event loop"

samples: Counter[str] = Counter()
stations: list[tuple[str, float]] = []
_part_of: dict[str, str | None] = {}


def _sample(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        name = frame.f_code.co_filename
        part = _part_of.get(name, "")
        if part == "":
            part = next((part for piece, part in PARTS if piece in name), None)
            _part_of[name] = part
        if part is not None and frame.f_code.co_name != "main":
            samples[part] += 1
            return
        frame = frame.f_back
    samples[OTHER] += 1


def _note(station: str) -> None:
    stations.append((station, time.monotonic()))


def _wrap(owner: Any, name: str, before: str = "", after: str = "") -> None:
    right = getattr(owner, name)

    def wrapped(*args: Any, **more: Any) -> Any:
        if before:
            _note(before)
        result = right(*args, **more)
        if after:
            _note(after)
        return result

    setattr(owner, name, wrapped)


def _watch() -> None:
    from coordinator.applier import Applier
    from coordinator.raft.core.commands.queue import CommandQueue
    from coordinator.raft.core.leading.leader import Leader
    from coordinator.raft.core.log import RaftLog
    from coordinator.raft.storage.real_disk import RealFile
    from node.http.connections import HttpConnection, HttpConnections
    from node.writes.submit_queue import SubmitQueue

    _wrap(HttpConnection, "data_received", before="request")
    _wrap(SubmitQueue, "_submit", before="submit")
    _wrap(CommandQueue, "on_forwarded", before="forwarded")
    _wrap(Leader, "append", before="append")
    _wrap(RaftLog, "append", after="in log")
    _wrap(RealFile, "_append", before="write")
    _wrap(RealFile, "_sync", after="synced")
    _wrap(RealFile, "_synced", before="synced")
    _wrap(Leader, "on_next_node_idx", before="acknowledged")
    _wrap(RaftLog, "commit_to", before="commit")
    _wrap(Applier, "apply", before="apply", after="applied")
    _wrap(HttpConnections, "idle", before="answered")


def _leave(where: str) -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    threads = {}
    for thread in threading.enumerate():
        place = Path(f"/proc/self/task/{thread.native_id}/schedstat")
        if place.exists():
            threads[thread.name] = int(place.read_text().split()[0]) / 1e9
    found = {"samples": samples, "stations": stations, "threads": threads}
    Path(where, f"{os.getpid()}.json").write_text(json.dumps(found))


def _begin(where: str) -> None:
    def switch(number: int, frame: FrameType | None) -> None:
        """Begin anew: what was seen so far was the start."""
        if number == signal.SIGUSR1:
            samples.clear()
            stations.clear()
            signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)
        else:
            _leave(where)

    signal.signal(signal.SIGPROF, _sample)
    signal.signal(signal.SIGUSR1, switch)
    signal.signal(signal.SIGUSR2, switch)
    _watch()


if os.environ.get("BENCH_OUT") and sys.orig_argv[1:3] == ["-m", "node"]:
    _begin(os.environ["BENCH_OUT"])
