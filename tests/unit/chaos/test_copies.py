"""Members' ledgers and contents are held against each other row by row, and each difference is
found.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from acordo import ReadFailed
from chaos.checkers import copies as checker
from chaos.checkers import ledger as ledger_checker
from chaos.checkers.verdict import Verdict
from chaos.records import copies
from chaos.records.final_state import CopiedKey, CopiedRow, Evidence, MemberCopy
from chaos.records.ledger import Ledger, parse

NODES = ("n1", "n2", "n3")


def row(n: int) -> CopiedRow:
    return CopiedRow(n, 10 * n, 1, "", n, n, 1000 + n, f"{n:064x}", f"{n + 99:064x}", "ab")


def copy(node: str, rows: int = 6) -> MemberCopy:
    keys = tuple(CopiedKey(f"k{n}", n, "cd", 0) for n in range(1, rows + 1))
    return MemberCopy(node, rows, tuple(row(n) for n in range(1, rows + 1)), keys)


def ledger(rows: int = 6) -> Ledger:
    said = [
        {
            "seq": n, "term": 1, "committer": "", "first": n, "last": n, "digest": "00",
            "index": 10 * n,
            "body": [
                {"op_id": f"o{n}", "body_hash": "00", "outcome": "applied", "keys": [f"k{n}"]}
            ],
        }
        for n in range(1, rows + 1)
    ]  # fmt: skip
    return parse(said)


def judged(second: MemberCopy, known: Ledger | None = None) -> Any:
    found = Evidence(NODES, copies=(copy("n1"), second, copy("n3")))
    return checker.check(found, known if known is not None else ledger())


def test_equal_members_pass_also_where_one_has_pruned_more() -> None:
    assert judged(copy("n2")).verdict is Verdict.OK
    assert judged(copy("n2")).operations == 36
    assert judged(replace(copy("n2"), rows=copy("n2").rows[3:])).verdict is Verdict.OK


@pytest.mark.parametrize(
    "field", ["index", "term", "first", "log_time_ms", "digest", "content", "body"]
)
def test_one_field_of_one_row(field: str) -> None:
    rows = list(copy("n2").rows)
    other: Any = 7777 if isinstance(getattr(rows[2], field), int) else "ff"
    rows[2] = replace(rows[2], **{field: other})
    found = judged(replace(copy("n2"), rows=tuple(rows)))
    assert "ledgers_differ" in found.anomalies
    assert any(f"row 3 of n1 differs from that of n2: {field}" in f.message for f in found.findings)


def test_a_member_whose_newest_row_is_gone_or_that_misses_one() -> None:
    short = judged(replace(copy("n2"), rows=copy("n2").rows[:-1]))
    assert short.anomalies == ("ledgers_differ",)
    holed = judged(replace(copy("n2"), rows=(*copy("n2").rows[:2], *copy("n2").rows[3:])))
    assert set(holed.anomalies) == {"ledger_gap", "ledgers_differ"}
    assert judged(replace(copy("n2"), rows=())).anomalies == ("ledgers_differ",)


@pytest.mark.parametrize("field", ["value", "expires_ms"])
def test_one_field_of_one_key(field: str) -> None:
    keys = list(copy("n2").keys)
    keys[4] = replace(keys[4], **{field: 5 if field == "expires_ms" else "ee"})
    found = judged(replace(copy("n2"), keys=tuple(keys)))
    assert found.anomalies == ("contents_differ",)
    assert found.findings[0].key == "k5"


def test_a_key_that_is_missing_too_much_or_old() -> None:
    keys = copy("n2").keys
    assert judged(replace(copy("n2"), keys=keys[1:])).anomalies == ("contents_differ",)
    more = (*keys, CopiedKey("x", 6, "cd"))
    assert set(judged(replace(copy("n2"), keys=more)).anomalies) == {
        "differs_from_ledger", "contents_differ",
    }  # fmt: skip
    old = (replace(keys[0], revision=0), *keys[1:])
    assert "differs_from_ledger" in judged(replace(copy("n2"), keys=old)).anomalies


def test_what_all_members_agree_on_is_held_against_the_ledger() -> None:
    """All three lost the newest version of a key in the same way."""
    old = tuple(
        replace(c, keys=(replace(c.keys[0], revision=0), *c.keys[1:])) for c in map(copy, NODES)
    )
    assert checker.check(Evidence(NODES, copies=old), ledger()).anomalies == (
        "differs_from_ledger",
    )
    early = ledger(4)
    assert checker.check(Evidence(NODES, copies=tuple(map(copy, NODES))), early).verdict is (
        Verdict.OK
    )


def test_a_member_that_could_not_be_read_or_was_read_elsewhere_is_undecided() -> None:
    two = Evidence(NODES, copies=(copy("n1"), copy("n3")))
    assert checker.check(two, ledger()).verdict is Verdict.UNKNOWN
    ahead = checker.check(
        Evidence(NODES, copies=(*two.copies, replace(copy("n2"), revision=9))), ledger()
    )
    assert ahead.verdict is Verdict.UNKNOWN


def test_log_indexes_of_a_ledger_rise() -> None:
    rows = list(ledger().rows)
    rows[3] = type(rows[3])(4, 1, "", 4, 4, rows[3].digest, (), index=20)
    found = ledger_checker.check(Ledger(tuple(rows[2:])))
    assert any("row 4 has log index 20" in f.message for f in found.findings)


class FakeClient:
    """A member that answers pages and rows, once per second asked."""

    made: dict[str, int]

    def __init__(self, url: str, **_: Any) -> None:
        self.url = url

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def pages(self, prefix: bytes, **asked: Any) -> Any:
        if self.url == "silent":
            raise ReadFailed("no", reason="unreachable")
        FakeClient.made[self.url] = FakeClient.made.get(self.url, 0) + 1
        revision = 5 if self.url == "late" and FakeClient.made[self.url] < 3 else 6
        found = SimpleNamespace(key=b"\xff", revision=revision, value=b"v", expires_ms=None)
        yield SimpleNamespace(revision=revision, found=(found,))

    async def ledger(self, start: int, **_: Any) -> Any:
        yield SimpleNamespace(
            seq=1, index=3, term=1, committer="", first=1, last=6, log_time_ms=9, digest="aa",
            content="bb", body=({"op_id": "o"},),
        )  # fmt: skip


async def test_members_are_read_until_all_are_at_one_revision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(copies, "Client", FakeClient)
    monkeypatch.setattr(copies, "PAUSE_S", 0.0)
    FakeClient.made = {}
    found = await copies.collect_copies(("n1", "n2", "n3"), ("quick", "late", "silent"), 5)
    assert [(c.node, c.revision) for c in found] == [("n1", 6), ("n2", 6)]
    assert FakeClient.made == {"quick": 3, "late": 3}
    assert found[0].keys[0].key == "base64:/w=="
    assert found[0].rows[0].content == "bb"
