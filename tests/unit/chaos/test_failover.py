"""The figures of a measurement, and the report of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from chaos.report.failover import summary, write
from chaos.runs.failover import Gap

GAPS = [Gap("n1", "n2", 0.2, 300), Gap("n2", "n3", 0.3, 310), Gap("n3", None, 1.3, 290)]


def test_figures() -> None:
    told = summary(GAPS)
    assert "3 leader kills" in told
    assert "p50 0.30 s" in told
    assert "longest 1.30 s" in told
    assert summary([]) == "no kill was measured"


def test_the_report_tells_every_kill_and_marks_what_was_too_long(tmp_path: Path) -> None:
    write(tmp_path / "f", GAPS, "python -m chaos failover <x>", "2026-11-25T00:00:00")
    kept = json.loads((tmp_path / "f" / "failover.json").read_text())
    assert [k["gap_s"] for k in kept["kills"]] == [0.2, 0.3, 1.3]
    assert kept["summary"] == summary(GAPS)
    page = (tmp_path / "f" / "failover.html").read_text()
    assert page.count("<tr><td>") == 3
    assert page.count('<div class="bad"') == 1
    assert "&lt;x&gt;" in page


def test_the_histogram_counts_every_gap_once(tmp_path: Path) -> None:
    write(tmp_path / "f", [*GAPS, *GAPS, Gap("n1", "n2", 0.0, 1)], "c", "2026-11-25T00:00:00")
    page = (tmp_path / "f" / "failover.html").read_text()
    counts = [int(each) for each in re.findall(r">(\d+)</text>", page)]
    assert sorted(counts) == [1, 2, 2, 2]
    (last,) = re.findall(r'<rect class="bad" x="920" y="[\d.]+" width="36" height="([\d.]+)"', page)
    assert float(last) > 0, "what was too long stands on the right"
