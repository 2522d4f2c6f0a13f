"""An illegal history is cut down to the operations that matter, and told so that a person can
follow.
"""

from __future__ import annotations

from random import Random

import pytest
from msgspec.structs import replace

from chaos.checkers.registers import register
from chaos.checkers.verdict import Verdict
from chaos.records.history import ClientOperation, Fault, History, NodeStatus
from chaos.report.explain import Explanation, explain, minimise, text
from chaos.report.timeline import page
from tests.unit.chaos.ideal import Ideal
from tests.unit.chaos.test_mutated_histories import SEEDS, stale_read


def explained(ops: list[ClientOperation], **records: list[object]) -> Explanation:
    judged = register.check(ops)
    return explain(judged.findings[0], judged, History(ops, **records))  # type: ignore[arg-type]


STALE = [
    ClientOperation(
        1, "put", "ok", 1_000_000, 2_000_000, key="k", value="a", node="n1", revision=1
    ),
    ClientOperation(
        2, "put", "ok", 3_000_000, 4_000_000, key="k", value="b", node="n2", revision=2, attempts=2
    ),
    ClientOperation(3, "get", "ok", 5_000_000, 6_000_000, key="k", result="a", node="n3"),
    ClientOperation(4, "put", "info", 5_500_000, key="k", value="<script>alert(1)</script>"),
]


def test_the_story_of_a_stale_read() -> None:
    e = explained(
        STALE,
        faults=[
            Fault("partition", "start", 2_500_000, ("n3",)),
            Fault("partition", "healed", 9_000_000, ("n3",)),
        ],
        statuses=[NodeStatus("n1", 0, 3, "leader", "n1")],
    )
    assert [o.value for o in e.prefix] == ["a", "b"]
    assert e.state == "b"
    assert [(o.op, why) for o, why in e.stuck] == [
        (
            "get",
            'it read "a", but the value was "b", by put "b" of client 2, acknowledged at 4000000,'
            ' which had overwritten "a"',
        )
    ]
    told = text(e)
    for part in (
        "3 operations show it, of 4",
        "Led by n1 (term 3)",
        "Meanwhile partition of n3",
        "via n2, revision 2, 2 attempts",
    ):
        assert part in told


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stale_read_is_cut_down_to_write_overwrite_and_read(seed: int) -> None:
    rng = Random(seed)
    ops = stale_read(Ideal(rng).register(count=300, keys=1), rng)
    e = explained(ops)
    assert e.of > 250
    assert len(e.operations) <= 4
    assert register.check(e.operations).verdict is Verdict.ILLEGAL
    values = {o.value for o in e.operations}
    assert all(o.result in values or o.result is None for o in e.operations if o.op == "get"), (
        "a value was orphaned"
    )


def test_minimising_takes_few_checks_and_ends_within_its_bound() -> None:
    rng = Random(3)
    ops = stale_read(Ideal(rng).register(count=300, keys=1), rng)
    checks = 0

    def illegal(some: list[ClientOperation]) -> bool:
        nonlocal checks
        checks += 1
        return register.verdict_of(some) is Verdict.ILLEGAL

    assert len(minimise(ops, illegal)) <= 4
    assert checks < 400
    checks = 0
    assert register.verdict_of(minimise(ops, illegal, checks_max=5)) is Verdict.ILLEGAL
    assert checks <= 5


def test_each_kind_of_dead_end_is_told() -> None:
    put = ClientOperation(1, "put", "ok", 0, 9, key="k", value="a")

    def why(*ops: ClientOperation) -> str:
        return text(explained([*ops]))

    cas = ClientOperation(2, "cas", "ok", 20, 29, key="k", expected="a", value="b", result=False)
    assert 'it was refused because the value was not "a", but the value was "a", by put "a"' in why(
        put, cas
    )
    first = ClientOperation(3, "put", "ok", 0, 1, key="k", value="z")
    swapped = replace(cas, expected="z", result=True)
    later = ClientOperation(1, "put", "ok", 5, 9, key="k", value="a")
    assert (
        'it swapped "z", but the value was "a", by put "a" of client 1, acknowledged at 9, '
        'which had overwritten "z"'
    ) in why(first, later, swapped)
    gone = ClientOperation(2, "delete", "ok", 20, 29, key="k", result=False)
    assert "it found nothing to delete, but the value was" in why(put, gone)
    there = ClientOperation(2, "delete", "ok", 20, 29, key="k", result=True)
    assert "it deleted something, but the value was absent, as at the beginning" in why(there)


def test_the_page_stands_alone_and_escapes_what_it_shows() -> None:
    e = explained(STALE)
    odd = replace(STALE[3], client="<b>", key="k")
    html = page(
        Explanation(
            checker="register",
            anomaly="stale",
            verdict=Verdict.ILLEGAL,
            message="<i>message</i>",
            key="k",
            operations=(*e.operations, odd),
            of=4,
            prefix=e.prefix,
            state="b",
            stuck=e.stuck,
        )
    )
    assert "<script>" not in html
    assert "<b>" not in html
    assert "<i>message" not in html
    assert "src=" not in html
    assert "href=" not in html
    assert html.count('class="stuck"') == 1
    assert html.count('class="info"') == 1
    assert html.count("client &lt;b&gt;") >= 1
