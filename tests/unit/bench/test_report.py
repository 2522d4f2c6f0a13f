"""What a benchmark leaves: figures to compare by a program, and a page for people."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from bench import report

HEAD = ("what", "ours", "theirs")


def test_a_distribution_keeps_its_ends_and_rises() -> None:
    kept = report.distribution([n / 1000 for n in range(5000, 0, -1)])
    assert len(kept) == report.POINTS
    assert kept[0] == (1.0, 1 / 5000)
    assert kept[-1] == (5000.0, 1.0)
    assert kept == sorted(kept)
    assert report.distribution([0.002]) == [(2.0, 1.0)]


def test_json_and_page_say_the_same(tmp_path: Path) -> None:
    curves = {"one write, ms": {"Acordo": [0.001, 0.002, 0.004], "<etcd>": [0.001] * 3}, "none": {}}
    page = report.write("peers", HEAD, [("reads <fast>", "2", "1")], curves, out=tmp_path)
    document = json.loads(page.with_name("report.json").read_text())
    assert document["figures"] == [{"what": "reads <fast>", "ours": "2", "theirs": "1"}]
    assert document["latencies_ms"]["one write, ms"]["Acordo"][-1] == [4.0, 1.0]
    assert document["about"]["cores"].isdigit()
    text = page.read_text()
    assert "reads &lt;fast&gt;" in text and "&lt;etcd&gt;" in text
    assert text.count("<svg") == 1, "what has no latencies has no curve"
    assert not re.search(r"(?:src|href)=|url\(|<script", text), "it loads nothing"


def test_a_curve_rises_from_the_fastest_to_the_slowest() -> None:
    svg = report.curve({"a": [(1.0, 0.1), (10.0, 0.5), (100.0, 1.0)]})
    (line,) = re.findall(r'class="c" stroke="#\w+" d="M([^"]+)"', svg)
    points = [tuple(map(float, each.split())) for each in line.split("L")]
    xs, ys = zip(*points, strict=True)
    assert list(xs) == sorted(xs) and list(ys) == sorted(ys, reverse=True)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2), "a decade is a decade"
