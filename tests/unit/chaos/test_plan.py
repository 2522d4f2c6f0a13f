"""Plans follow from seeds, worth from what was found, and every planted bug is provoked."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.__main__ import main
from chaos.checkers.verdict import Finding, Judgement, Verdict
from chaos.commands.commit import commit_seed
from chaos.nemeses.catalogue import FAMILIES, grouped
from chaos.records.history import ClientOperation, History
from chaos.records.saved import SavedRun
from chaos.report.outages import outages
from chaos.runs.plan import Plan
from chaos.runs.provocations import PROVOCATIONS
from chaos.runs.result import RunResult
from chaos.runs.schedule import schedule
from tests.planted import gateway, own_nodes  # noqa: F401 - they enter their bugs
from tests.planted.nodes import BUGS


def test_the_same_seed_plans_the_same_and_every_family_has_its_turn() -> None:
    families = {name: FAMILIES[name] for name in ("kill", "partition", "pause")}
    steps = schedule(families, 60, 7)
    assert steps == schedule(families, 60, 7)
    assert steps != schedule(families, 60, 8)
    for family in families.values():
        assert any(step.nemesis in family for step in steps[:3])
    assert len(schedule(families, 0.1, 1)) == 3, "a short run still has one of each"
    assert schedule({}, 60, 7) == []


def test_families_are_kept_apart() -> None:
    assert grouped("kill,slow") == {"kill": list(FAMILIES["kill"]), "slow": ["slow"]}
    assert grouped("") == {}
    with pytest.raises(KeyError, match="nonsense"):
        grouped("kill,nonsense")


def result(*judgements: Judgement, weak: tuple[str, ...] = ()) -> RunResult:
    asked = Plan(Path("x"), ("register",), {}, 1, 1)
    return RunResult(
        asked, [], judgements=list(judgements), weak=list(weak), run=SavedRun(History())
    )


def test_exit_codes() -> None:
    fine = Judgement("register", (), 10)
    wrong = Judgement("register", (Finding("lost", "it is lost"),), 10)
    undecided = Judgement("register", (Finding("budget", "?", Verdict.UNKNOWN),), 10)
    assert result(fine).code == 0
    assert result(fine, weak=("kill-leader did not bite",)).code == 2
    assert result(fine, wrong, weak=("weak",)).code == 1, "an anomaly counts, however weak the run"
    assert result(undecided, weak=("undecided by register: ?",)).code == 2


def test_outages_are_pauses_between_acknowledged_writes() -> None:
    second = 1_000_000_000
    ops = [
        ClientOperation(n, "put", "ok", t, t + 1, key="k", value=str(n))
        for n, t in enumerate((0, second, 4 * second))
    ]
    ops.append(ClientOperation("r", "get", "ok", 2 * second, 2 * second + 1, key="k", result="1"))
    assert [round(o.seconds) for o in outages(History(ops))] == [1, 3]
    late = ClientOperation(
        "a", "txn", "ok", 9 * second, 9 * second + 1, value=[["r", "k", None], ["r", "l", None]]
    )
    assert [round(o.seconds) for o in outages(History([*ops, late]))] == [1, 3], (
        "a transaction that only reads"
    )
    late = ClientOperation(
        "a", "txn", "ok", 9 * second, 9 * second + 1, value=[["r", "k", None], ["append", "l", 1]]
    )
    assert [round(o.seconds) for o in outages(History([*ops, late]))] == [1, 3, 5]


def test_every_bug_has_its_provocation_and_its_story() -> None:
    assert {t.bug for t in PROVOCATIONS} == set(BUGS)
    assert len(PROVOCATIONS) >= 18
    assert all(bug.about for bug in BUGS.values())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--workload", "nonsense"], "no workload 'nonsense'"),
        (["--nemesis", "nonsense"], "no nemesis 'nonsense'"),
        (["--time", "0"], "above 0"),
        (["--target", "http://127.0.0.1:9"], "127.0.0.1:9"),
    ],
)
def test_what_cannot_be_run_exits_2_and_says_why(
    words: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--out", str(tmp_path), *words]) == 2
    assert told in capsys.readouterr().err


def test_the_seed_follows_from_the_commit() -> None:
    assert commit_seed() == commit_seed() > 0
