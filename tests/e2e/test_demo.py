"""The demo counts what is kept, and must be able to count what is lost."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.local import demo

FILES = ["--files", "120"]


def remove_one_version(data: Path, keys: Sequence[str]) -> None:
    """Delete what one acknowledged write stored, from every copy, behind everybody's back.

    A member that was killed, or one that is behind, may still be about to write the row.
    """
    for file in sorted(data.glob("n?/store.sqlite")):
        gone = 0
        for _ in range(600):
            with contextlib.closing(sqlite3.connect(file, timeout=30)) as store, store:
                deleted = store.execute("DELETE FROM versions WHERE key = ?", (keys[0].encode(),))
                gone = deleted.rowcount
            if gone:
                break
            time.sleep(0.1)
        assert gone == 1, f"{gone} rows were deleted from {file}"


def test_the_demo_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(FILES) == 0
    said = capsys.readouterr().out
    assert "half-way: killed the leader" in said
    assert "lost: 0" in said
    assert re.search(r"files\s*│\s*120", said), said


def test_a_version_removed_behind_its_back_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    removed: list[str] = []

    def remove(data: Path, keys: Sequence[str]) -> None:
        remove_one_version(data, keys)
        removed.append(keys[0])

    assert demo.main(FILES, before_read_back=remove) == 1
    said = capsys.readouterr().out
    assert "lost: 1" in said
    assert removed[0] in said
