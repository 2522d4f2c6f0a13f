"""The pictures of a run's report: who led, when nothing was acknowledged, on light and on dark."""

from __future__ import annotations

import io
from typing import Any

import pytest
from matplotlib import image
from matplotlib import pyplot as plt

from chaos.records.history import ClientOperation, History, NodeStatus
from chaos.report import charts, lanes

S = 1_000_000_000


def a_failover() -> History:
    """Writes ten times a second; from second 4 to 6 none, then another one leads."""
    times = [n * S // 10 for n in (*range(40), *range(60, 100))]
    operations = [
        ClientOperation(1, "put", "ok", at, at + S // 100, key="k", value=str(at), workload="w")
        for at in times
    ]
    statuses = [NodeStatus("n1", 0, 3, "leader", "n1"), NodeStatus("n2", 6 * S, 4, "leader", "n2")]
    return History(operations, statuses=statuses)


@pytest.fixture
def axes() -> Any:
    figure, made = plt.subplots()
    yield made
    plt.close(figure)


def test_lanes_name_the_leaders_and_show_the_outage(axes: Any) -> None:
    lanes.draw(axes, a_failover(), 0, 10 * S)
    assert [text.get_text() for text in axes.texts] == ["n1 · term 3", "n2 · term 4"]
    spans = [bars.get_paths()[0].get_extents() for bars in axes.collections]
    n1, n2, silent = [(round(each.x0, 1), round(each.x1, 1)) for each in spans]
    assert (n1, n2) == ((0.0, 6.0), (6.0, 10.0))
    assert silent == (3.9, 6.0)
    assert spans[2].y1 < spans[0].y0, "a lane of its own"


def test_a_leader_that_led_for_a_moment_is_drawn_and_not_named(axes: Any) -> None:
    history = a_failover()
    history.statuses.insert(1, NodeStatus("n3", 6 * S - S // 10, 4, "leader", "n3"))
    history.statuses[2] = NodeStatus("n2", 6 * S, 5, "leader", "n2")
    lanes.draw(axes, history, 0, 10 * S)
    assert [text.get_text() for text in axes.texts] == ["n1 · term 3", "n2 · term 5"]
    assert len(axes.collections) == 4


@pytest.mark.parametrize("draw", [charts.throughput, charts.latency])
@pytest.mark.parametrize(("look", "paper"), [("light", 1.0), ("dark", 0x14 / 255)])
def test_a_picture_has_the_readers_background(draw: Any, look: str, paper: float) -> None:
    pixels = image.imread(io.BytesIO(draw(a_failover(), look)))
    assert pixels[0, 0, 0] == pytest.approx(paper, abs=0.01)
