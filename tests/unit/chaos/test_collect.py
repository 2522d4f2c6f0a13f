"""What became of unknown writes is asked until it is answered, a few times, and told as it was
answered.
"""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from acordo import ReadFailed
from chaos.records import collect
from chaos.records.final_state import Evidence, MemberState
from chaos.records.history import ClientOperation, Lookup
from chaos.records.recorder import Recorder
from chaos.records.resolution import resolve
from chaos.records.saved import load_history

ANSWERS = {
    "a": SimpleNamespace(outcome="applied", revision=7, branch="otherwise"),
    "b": SimpleNamespace(outcome="refused", revision=8, branch=None),
    "c": SimpleNamespace(outcome="expired", revision=0, branch=None),
    "d": SimpleNamespace(outcome="pending", revision=0, branch=None),
}


class FakeClient:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def operation(self, op_id: str, *, settle: bool, timeout_s: float) -> SimpleNamespace:
        assert settle  # else what nobody knows could take effect after the check
        self.asked.append(op_id)
        if op_id not in ANSWERS:
            raise ReadFailed("no node answered", reason="unreachable")
        return ANSWERS[op_id]


def put(n: int, op_id: str | None, outcome: Any = "info") -> ClientOperation:
    end = None if outcome == "info" else n + 1
    return ClientOperation(f"c{n}", "put", outcome, n, end, key="k", value=str(n), op_id=op_id)


async def test_every_unknown_write_is_looked_up_until_it_is_settled(tmp_path: Path) -> None:
    client: Any = FakeClient()
    operations = [
        *(put(n, op_id) for n, op_id in enumerate("abcdea", 1)),
        put(10, None),
        put(11, "known", "ok"),
    ]
    with Recorder(tmp_path / "h.jsonl", clock=count(100).__next__) as recorder:
        for o in operations:
            recorder.add(o)
        left = await collect.look_up(client, operations, recorder)
    assert list(dict.fromkeys(client.asked)) == ["a", "b", "c", "d", "e"], (
        "only those that are unknown"
    )
    again = {op_id: client.asked.count(op_id) for op_id in "abcde"}
    assert again == {"a": 1, "b": 1, "c": 1, "d": 3, "e": 3}, (
        "again only where no answer settled it"
    )
    assert left == 2, "one answer says nothing, one did not come"
    history = load_history(tmp_path / "h.jsonl")
    told = {f.lookup: f for f in history.lookups}
    assert told == {
        "a": Lookup("a", "applied", told["a"].t_ns, 7, branch="otherwise"),
        "b": Lookup("b", "refused", told["b"].t_ns, 8),
        "c": Lookup("c", "expired", told["c"].t_ns),
    }
    settled = {o.client: o.outcome for o in resolve(history.operations, history.lookups)}
    assert (settled["c1"], settled["c2"], settled["c3"], settled["c4"]) == (
        "ok",
        "fail",
        "fail",
        "info",
    )


async def test_unknown_writes_are_kept_within_bounds(tmp_path: Path) -> None:
    with Recorder(tmp_path / "h.jsonl") as recorder:
        for n in range(30):
            recorder.add(put(n, f"o{n}"))
        assert [o.op_id for o in recorder.unknown] == [f"o{n}" for n in range(30)]


def ledger_of(rows: int) -> bytes:
    return b"".join(
        msgspec.json.encode(
            {"seq": n, "term": 1, "committer": "n1", "first": n, "last": n, "digest": "00"}
        )
        + b"\n"
        for n in range(1, rows + 1)
    )


@pytest.mark.parametrize(
    ("settled", "rounds"),
    [
        ([(5, 5), (6, 6), (6, 6)], 2),  # it grew once
        ([(6, 5)] * 3, 1),  # members that differ will not agree by reading again
        ([()] * 3, 1),  # nobody answers
        ([(9, 9)] * 99, collect.LEDGER_ROUNDS),  # it lacks what members settled: said by checkers
    ],
)
async def test_the_ledger_is_read_again_while_it_grows(
    settled: list[tuple[int, ...]], rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    async def write(client: Any, path: Path) -> int:
        written.append(min(4 + len(written) * 2, 6))
        path.write_bytes(ledger_of(written[-1]))
        return written[-1]

    async def quiet(clients: Any) -> list[MemberState | None]:
        return [MemberState(f"n{n}", s, "ff") for n, s in enumerate(settled[len(written) - 1])]

    monkeypatch.setattr(collect, "write_ledger", write)
    monkeypatch.setattr(collect, "_quiet", quiet)
    found = await collect.write_settled_ledger(
        ["http://127.0.0.1:9"], tmp_path / "ledger.jsonl", Evidence(("n0", "n1"))
    )
    assert len(written) == rounds
    assert tuple(m.settled for m in found.members) == settled[rounds - 1]
    assert found.nodes == ("n0", "n1")
