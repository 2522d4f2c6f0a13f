"""Histories survive being written and read; what cannot be trusted is refused with its line and the
reason.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos.records.history import (
    ClientOperation,
    Fault,
    History,
    HistoryError,
    Lookup,
    NodeStatus,
    Record,
    Watched,
)
from chaos.records.history_file import VERSION, all_lines, parse, plain_line
from chaos.records.intervals import fault_windows, leaderships
from chaos.records.resolution import resolve
from chaos.records.saved import load_history

RECORDS: list[Record] = [
    ClientOperation(
        0,
        "put",
        "ok",
        5,
        9,
        key="x",
        value={"a": [1, None]},
        revision=1,
        node="n1",
        op_id="o1",
        term=1,
    ),
    Fault("kill", "start", 10, ("n1",)),
    ClientOperation("1b", "get", "ok", 12, 15, key="x", result=None, level="stale", age_ms=0.5),
    ClientOperation(
        2,
        "cas",
        "info",
        13,
        None,
        key="x",
        expected=1,
        value=True,
        op_id="o2",
        attempts=3,
        error="timeout",
    ),
    Fault("kill", "bit", 14, ("n1",), "pid gone"),
    Fault("kill", "healed", 20, ("n1",)),
    Lookup("o2", "applied", 30, 4),
    Watched("w", "event", 31, 4, "x", True),
    NodeStatus("n2", 16, 2, "leader", "n2", applied=4, settled=4, digest="ff"),
]


def lines() -> list[bytes]:
    return list(all_lines(RECORDS, seed=7, settings={"nodes": 3}))


def test_what_is_written_is_what_is_read() -> None:
    history = parse(lines())
    assert history.header is not None
    assert (history.header.seed, history.header.settings) == (7, {"nodes": 3})
    assert history.operations == [r for r in RECORDS if isinstance(r, ClientOperation)]
    assert history.faults == [r for r in RECORDS if isinstance(r, Fault)]
    assert history.lookups == [r for r in RECORDS if isinstance(r, Lookup)]
    assert history.watched == [r for r in RECORDS if isinstance(r, Watched)]
    assert history.statuses == [r for r in RECORDS if isinstance(r, NodeStatus)]


def test_a_missing_result_is_not_null() -> None:
    history = parse(
        [b'{"client":1,"op":"cas","key":"x","outcome":"ok","start_ns":0,"end_ns":1,"value":1}']
    )
    assert history.operations[0].result is msgspec.UNSET
    assert history.operations[0].expected is None


def test_plain_files_need_neither_order_nor_header() -> None:
    ops = [r for r in RECORDS if isinstance(r, ClientOperation)]
    assert parse([plain_line(o) for o in reversed(ops)]).operations == ops[::-1]
    assert parse([]).operations == []


def test_an_unknown_field_is_let_through_in_plain_files_alone() -> None:
    line = (
        b'{"client":1,"op":"get","key":"x","outcome":"ok","start_ns":0,"end_ns":1,'
        b'"result":null,"colour":1}\n'
    )
    assert len(parse([line]).operations) == 1
    with pytest.raises(HistoryError, match=r"h:2: unknown field 'colour'"):
        parse([lines()[0], b'{"n":0,' + line[1:]], source="h")


def base(**fields: Any) -> bytes:
    return json.dumps(
        {
            "client": 1,
            "op": "put",
            "key": "x",
            "value": 1,
            "outcome": "ok",
            "start_ns": 5,
            "end_ns": 9,
        }
        | fields
    ).encode()


REFUSED: dict[str, tuple[list[bytes], str]] = {
    "no JSON": ([b"nonsense\n"], "no JSON"),
    "cut in a record": ([base()[:40]], "cut off in the middle of a record"),
    "not an object": ([b"[1]\n"], "not a JSON object"),
    "neither": ([b'{"a":1}\n'], "neither an operation nor an event"),
    "end before start": ([base(end_ns=4)], "before it starts"),
    "no end": ([base(end_ns=None)], "without end_ns"),
    "negative time": ([base(start_ns=-1)], "time out of range"),
    "unknown outcome": ([base(outcome="maybe")], "Invalid enum value 'maybe'"),
    "no client": (
        [b'{"op":"put","key":"x","outcome":"ok","start_ns":0,"end_ns":1}'],
        "missing required field",
    ),
    "time is text": ([base(start_ns="5")], "Expected `int`"),
    "no key": ([base(key=None)], "put without key"),
    "get without result": ([base(op="get")], "without result"),
    "cas with odd result": ([base(op="cas", result="yes")], "neither true nor false"),
    "append of a number": ([base(op="append")], "other than a string"),
    "header in the middle": ([base() + b"\n", lines()[0]], "two histories in one file"),
    "odd version": ([b'{"acordo_history": "one"}'], "unknown format version 'one'"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_line_that_cannot_be_is_named(kind: str) -> None:
    given, why = REFUSED[kind]
    with pytest.raises(HistoryError, match=why) as caught:
        parse(given, source="h.jsonl")
    assert caught.value.line == len(given)
    assert str(caught.value).startswith(f"h.jsonl:{len(given)}: ")


def test_a_newer_version_is_named() -> None:
    with pytest.raises(
        HistoryError,
        match=f"newer version .format {VERSION + 1}; this program reads up to {VERSION}",
    ):
        parse([b'{"acordo_history": %d}\n' % (VERSION + 1), b'{"whatever": true}\n'])


def test_a_cut_file_is_noticed_wherever_it_was_cut() -> None:
    whole = lines()
    for n in range(1, len(whole)):
        with pytest.raises(HistoryError, match="cut off after"):
            parse(whole[:n])
    text = b"".join(whole)
    for at in range(len(whole[0]) + 1, len(text) - 1, 7):
        with pytest.raises(HistoryError):
            parse(text[:at].splitlines(keepends=True))


def test_swapped_missing_and_repeated_lines_are_noticed() -> None:
    whole = lines()
    for changed in (
        [*whole[:2], whole[3], whole[2], *whole[4:]],
        [*whole[:3], *whole[4:]],
        [*whole[:3], whole[2], *whole[3:]],
    ):
        with pytest.raises(HistoryError, match="reordered or are missing"):
            parse(changed)
    with pytest.raises(HistoryError, match="records were written"):
        parse([*whole[:-2], whole[-1]])
    with pytest.raises(HistoryError, match="follows the end record"):
        parse([*whole, whole[1]])
    with pytest.raises(HistoryError, match="without its number"):
        parse([whole[0], base() + b"\n", whole[-1]])


def test_a_client_neither_returns_after_an_unknown_outcome_nor_does_two_things_at_once() -> None:
    unknown = ClientOperation(1, "put", "info", 0, key="x", value=1)
    with pytest.raises(HistoryError, match="must continue under a new name"):
        parse(all_lines([unknown, ClientOperation(1, "get", "ok", 5, 9, key="x", result=None)]))
    one = ClientOperation(1, "put", "ok", 0, 9, key="x", value=1)
    with pytest.raises(HistoryError, match="still runs"):
        parse(all_lines([one, ClientOperation(1, "get", "ok", 8, 12, key="x", result=None)]))
    assert parse(
        all_lines([one, ClientOperation(1, "get", "ok", 9, 12, key="x", result=None)])
    ).operations


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match=r"none\.jsonl: cannot be read: No such file"):
        load_history(tmp_path / "none.jsonl")


def test_lookups_settle_what_was_unknown() -> None:
    unknown = ClientOperation(2, "cas", "info", 13, None, key="x", expected=1, value=2, op_id="o")
    applied = resolve([unknown], [Lookup("o", "applied", 30, 4)])[0]
    assert (
        applied.outcome,
        applied.end_ns,
        applied.revision,
        applied.result,
        applied.resolved,
    ) == (
        "ok",
        30,
        4,
        True,
        True,
    )
    refused = resolve([unknown], [Lookup("o", "refused", 30, 4)])[0]
    assert (refused.outcome, refused.result) == ("ok", False)
    assert resolve([unknown], [Lookup("o", "expired", 30)])[0].outcome == "fail"
    assert resolve([unknown], [Lookup("o", "unknown", 30)]) == [unknown]
    assert resolve([unknown], [Lookup("other", "applied", 30, 4)]) == [unknown]
    put = ClientOperation(2, "put", "info", 13, None, key="x", value=2, op_id="o")
    assert resolve([put], [Lookup("o", "refused", 30, 4)])[0].outcome == "fail"
    known = ClientOperation(2, "put", "ok", 13, 15, key="x", value=2, op_id="o")
    assert resolve([known], [Lookup("o", "expired", 30)]) == [known]


def test_windows_and_reigns() -> None:
    (window,) = fault_windows(r for r in RECORDS if isinstance(r, Fault))
    assert (window.start_ns, window.bit_ns, window.healed_ns, window.detail) == (
        10,
        14,
        20,
        "pid gone",
    )
    open_ = fault_windows(
        [
            Fault("pause", "start", 1, ("a",)),
            Fault("pause", "start", 2, ("b",)),
            Fault("pause", "healed", 3, ("b",)),
        ]
    )
    assert [(w.targets, w.healed_ns) for w in open_] == [(("a",), None), (("b",), 3)]
    told = [
        NodeStatus("n1", t, term, "follower", leader)
        for t, term, leader in ((1, 1, "n1"), (5, 2, "n2"), (6, 1, "n1"), (9, 2, "n2"))
    ]
    assert [(r.since_ns, r.term, r.leader) for r in leaderships(History(statuses=told))] == [
        (1, 1, "n1"),
        (5, 2, "n2"),
    ]
