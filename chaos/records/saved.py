"""Open the files that a run has written. It judges nothing, and names what it cannot read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from chaos.records import history_file, ledger
from chaos.records.final_state import Evidence
from chaos.records.history import History, HistoryError
from chaos.records.ledger import Ledger

HISTORY_FILE: Final = "history.jsonl"
LEDGER_FILE: Final = "ledger.jsonl"
"""File with the rows of `/v1/ledger`, if they could be collected."""
FINAL_FILE: Final = "final.json"
"""File with the members' states and final reads, if they were collected."""


@dataclass(frozen=True)
class SavedRun:
    """All records of one run."""

    history: History
    ledger: Ledger | None = None
    evidence: Evidence | None = None
    name: str = ""


def open_run(path: Path) -> SavedRun:
    """Read a run's directory, or a single history.

    Raises HistoryError if there is nothing that can be judged.
    """
    if not path.is_dir():
        return SavedRun(load_history(path), name=path.name)
    if not (path / HISTORY_FILE).exists():
        raise HistoryError(f"no {HISTORY_FILE} in it", source=str(path))
    ledger = load_ledger(path / LEDGER_FILE) if (path / LEDGER_FILE).exists() else None
    evidence = None
    if (path / FINAL_FILE).exists():
        try:
            evidence = msgspec.json.decode((path / FINAL_FILE).read_bytes(), type=Evidence)
        except (msgspec.MsgspecError, UnicodeDecodeError, OSError, RecursionError) as exc:
            raise HistoryError(str(exc), source=FINAL_FILE) from exc
    return SavedRun(load_history(path / HISTORY_FILE), ledger, evidence, path.name)


def load_history(path: Path) -> History:
    """Read and check one history.

    Raises HistoryError if it is unreadable, cut, reordered, of a newer version, or impossible.
    """
    try:
        with path.open("rb") as lines:
            return history_file.parse(lines, source=path.name)
    except OSError as exc:
        raise HistoryError(f"cannot be read: {exc.strerror or exc}", source=str(path)) from exc


def load_ledger(path: Path) -> Ledger:
    """Read rows of `/v1/ledger` from a file of JSON lines.

    Raises HistoryError if it is unreadable or has other content.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise HistoryError(f"cannot be read: {exc.strerror or exc}", source=str(path)) from exc
    rows = []
    for n, line in enumerate(lines, 1):
        try:
            rows += [msgspec.json.decode(line, type=dict[str, Any])] if line.strip() else []
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise HistoryError(f"no JSON ({exc})", line=n, source=str(path)) from exc
    return ledger.parse(rows, source=path.name)
