"""`python -m chaos check` judges saved runs and histories: 0 legal, 1 anomaly, 2 undecided or
unreadable.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import msgspec
import pytest

from chaos.__main__ import main
from chaos.checkers import judge as recheck
from chaos.checkers.verdict import Verdict
from chaos.records.final_state import Evidence
from chaos.records.history import ClientOperation, Lookup, Record, Watched
from chaos.records.history_file import all_lines
from chaos.records.ledger import Ledger
from chaos.records.saved import open_run
from tests.unit.chaos.ideal import Ideal
from tests.unit.chaos.test_planted_anomalies import evidence
from tests.unit.chaos.test_register_corpora import OWN


@pytest.mark.parametrize(
    ("name", "code"), [("cas_chain_ok", 0), ("stale_read", 1), ("failed_write_seen", 1)]
)
def test_a_single_history(name: str, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(OWN / f"{name}.jsonl")]) == code
    assert ("verdict: ok" if code == 0 else "verdict: illegal") in capsys.readouterr().out


def test_the_initial_value_is_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(
        '{"client":1,"op":"get","key":"x","outcome":"ok","start_ns":0,"end_ns":1,"result":""}\n'
    )
    assert main(["check", str(path)]) == 1
    assert main(["check", str(path), "--initial", '""']) == 0
    assert main(["check", str(path), "--initial", "nonsense"]) == 2
    assert "is no JSON" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["", '{"client":1', '{"acordo_history": 99}', '{"acordo_history": 1}\n']
)
def test_what_cannot_be_read_is_undecided(text: str, tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    path.write_text(text)
    assert main(["check", str(path)]) == 2


def test_a_missing_file_or_an_empty_directory_is_undecided(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(tmp_path)]) == 2
    assert main(["check", str(tmp_path / "none.jsonl")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'none.jsonl'}: cannot be read" in said
    assert "history.jsonl" in said


def test_json_output_and_a_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "t.html"
    assert main(["check", str(OWN / "stale_read.jsonl"), "--json", "--timeline", str(picture)]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "illegal"
    assert told["judgements"][0]["findings"][0]["anomaly"] == "stale_or_lost_value"
    assert "<svg" in picture.read_text()


def write_run(
    folder: Path, records: list[Record], ledger: Ledger | None = None, final: Evidence | None = None
) -> None:
    settings = {"bank": {"accounts": [f"a{n}" for n in range(5)], "total": 100}}
    (folder / "history.jsonl").write_bytes(b"".join(all_lines(records, seed=1, settings=settings)))
    if ledger is not None:
        rows = [
            {
                "seq": r.seq,
                "term": r.term,
                "committer": r.committer,
                "first": r.first,
                "last": r.last,
                "digest": r.digest.hex(),
                "log_time_ms": 0,
                "body": [
                    {
                        "op_id": e.op_id,
                        "body_hash": e.body_hash.hex(),
                        "outcome": e.outcome,
                        "keys": list(e.keys),
                    }
                    for e in r.body
                ],
            }
            for r in ledger.rows
        ]
        (folder / "ledger.jsonl").write_bytes(
            b"".join(msgspec.json.encode(r) + b"\n" for r in rows)
        )
    if final is not None:
        (folder / "final.json").write_bytes(msgspec.json.encode(final))


def workload(name: str, ops: list[ClientOperation]) -> list[Record]:
    return [msgspec.structs.replace(o, workload=name, client=f"{name}{o.client}") for o in ops]


def test_a_whole_run_is_judged_by_every_checker_that_it_calls_for(tmp_path: Path) -> None:
    one = Ideal(Random(1))
    records = workload("register", one.register())
    for name in ("set", "append", "bank", "counter", "lock"):
        records += workload(name, getattr(Ideal(Random(2)), name)())
    records += one.watched("w", "r")
    write_run(tmp_path, records, one.ledger, evidence(one))
    run = open_run(tmp_path)
    judged = recheck.judge(run)
    assert [j.checker for j in judged] == [
        "register",
        "versions",
        "set",
        "append",
        "bank",
        "counter",
        "watch",
        "lock",
        "ledger",
        "convergence",
    ]
    assert {j.checker: j.findings[:1] for j in judged if j.verdict is not Verdict.OK} == {}
    assert main(["check", str(tmp_path)]) == 0


def test_without_the_ledger_what_it_would_say_is_undecided_and_nothing_is_accused(
    tmp_path: Path,
) -> None:
    """A ledger that could not be read lacks everything: that says nothing of watchers, subscribers
    and final reads.
    """
    one = Ideal(Random(1))
    found = workload("register", one.register())
    seen = one.watched("w", "r")
    broker = [
        msgspec.structs.replace(w, watcher="broker", channel="broker")
        for w in seen
        if isinstance(w, Watched)
    ]
    last = ClientOperation(
        "w", "put", "ok", 1 << 60, (1 << 60) + 1, key="r/x", value="1", workload="watch"
    )
    final = msgspec.structs.replace(evidence(one), broker=True)
    write_run(tmp_path, [*found, *seen, *broker, last], None, final)
    judged = {j.checker: j for j in recheck.judge(open_run(tmp_path))}
    assert "ledger" not in judged
    for name in ("watch", "convergence"):
        assert judged[name].verdict is Verdict.UNKNOWN
        assert "no_ledger" in [f.anomaly for f in judged[name].findings]
    differ = [
        msgspec.structs.replace(r, value="other") if n == 0 else r
        for n, r in enumerate(final.reads)
    ]
    write_run(tmp_path, [*found], None, msgspec.structs.replace(final, reads=tuple(differ)))
    (judgement,) = recheck.judge(open_run(tmp_path), models=["convergence"])
    assert "reads_differ" in judgement.anomalies, "nodes are still held against each other"


def test_lookups_are_judged_as_well(tmp_path: Path) -> None:
    """The plain history is legal; the look-up says that the write had happened before a read that
    missed it.
    """
    records: list[Record] = [
        ClientOperation(1, "put", "info", 0, key="x", value="a", op_id="o1", workload="register"),
        ClientOperation(2, "get", "ok", 50, 60, key="x", result=None, workload="register"),
        Lookup("o1", "applied", 40, 1),
    ]
    write_run(tmp_path, records)
    assert main(["check", str(tmp_path)]) == 1


def test_a_history_that_a_checker_cannot_take_is_undecided(tmp_path: Path) -> None:
    ops: list[Record] = [ClientOperation(1, "bake", "ok", 0, 1, key="x", workload="register")]
    write_run(tmp_path, ops)
    assert main(["check", str(tmp_path)]) == 2
