"""Write records to one history file as they happen.

It never keeps a history in memory and never judges.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self

from chaos.records.history import ClientOperation, Record
from chaos.records.history_file import end_line, header_line, record_line

BUFFER_BYTES: Final = 1 << 20
UNKNOWN_MAX: Final = 20_000


class Recorder:
    """A history file that is being written: `with Recorder(path, seed=7) as recorder`.

    Leaving writes the end record, even after an error. All clients of a run share one `clock`:
    CLOCK_MONOTONIC is the same for all processes of a host.
    """

    def __init__(
        self,
        path: Path,
        *,
        seed: int | None = None,
        settings: Mapping[str, Any] | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.path, self.clock = path, clock
        self.records = 0
        self.ended: Counter[tuple[str, str, str]] = Counter()
        """Number of operations by (workload, op, outcome), for the progress display."""
        self.nodes: Counter[str] = Counter()
        """Number of answers by node."""
        self.unknown: list[ClientOperation] = []
        """The newest writes of unknown outcome, to be looked up after healing."""
        self._header = header_line(seed=seed, settings=settings)
        self._file: BinaryIO | None = None

    def __enter__(self) -> Self:
        self._file = self.path.open("wb", buffering=BUFFER_BYTES)
        self._file.write(self._header)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._file is not None
        with self._file:
            self._file.write(end_line(self.records))
        self._file = None

    def add(self, record: Record) -> None:
        """Write one record. Operations are written when they end."""
        assert self._file is not None, "the history is closed"
        self._file.write(record_line(self.records, record))
        self.records += 1
        if isinstance(record, ClientOperation):
            self.ended[record.workload or "", record.op, record.outcome] += 1
            if record.outcome == "info":
                self.unknown.append(record)
                del self.unknown[:-UNKNOWN_MAX]
            if record.node is not None and record.outcome == "ok":
                self.nodes[record.node] += 1

    def count(self, outcome: str | None = None, *, workload: str | None = None) -> int:
        """Return the number of ended operations, optionally of one outcome or one workload."""
        return sum(
            n
            for (w, _, o), n in self.ended.items()
            if outcome in (None, o) and workload in (None, w)
        )
