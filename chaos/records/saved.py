"""Open what a run has written. It judges nothing; what cannot be read is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from chaos.records import history, ledger
from chaos.records.history import History, HistoryError
from chaos.records.ledger import Ledger


def load_history(path: Path) -> History:
    """Read and check one history.

    Raises:
        HistoryError: unreadable, cut, reordered, of a newer version, or impossible.
    """
    try:
        with path.open("rb") as lines:
            return history.parse(lines, source=path.name)
    except OSError as exc:
        raise HistoryError(f"cannot be read: {exc.strerror or exc}", source=str(path)) from exc


def load_ledger(path: Path) -> Ledger:
    """Read rows of `/v1/ledger` from a file of JSON lines.

    Raises:
        HistoryError: unreadable, or not such rows.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as exc:
        raise HistoryError(f"cannot be read: {exc.strerror or exc}", source=str(path)) from exc
    rows = []
    for n, line in enumerate(lines, 1):
        try:
            rows += [msgspec.json.decode(line, type=dict[str, Any])] if line.strip() else []
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise HistoryError(f"no JSON ({exc})", line=n, source=str(path)) from exc
    return ledger.parse(rows, source=path.name)
