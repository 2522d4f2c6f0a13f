"""One table of codes: every refusal that the code can name is in it, with one remedy, in nginx's
documents too.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from kv.errors import BackendUnavailable, NotApplied
from node.wire.problems import KINDS, TYPE_PREFIX, problem_of
from tests.unit.node.conftest import Api

ROOT = Path(__file__).parents[3]
SPEAKING = [
    *sorted(
        path
        for path in (ROOT / "node").rglob("*.py")
        if path.name != "__main__.py" and "startup" not in path.relative_to(ROOT).parts
    ),
    *(
        ROOT / "coordinator" / name
        for name in ("consensus.py", "commit/committer.py", "raft/core/reads.py")
    ),
]
RAISED = {"BadRequest", "NotApplied", "Ended", "problem"}
AT_START = {"certificates_unusable", "port_in_use", "bad_address"}
"""Ends a process; no client hears it."""


def _codes(path: Path) -> Iterator[tuple[str, int]]:
    """Yield the codes that are written out in calls that make refusals."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and node.args:
            name = (
                node.func.attr
                if isinstance(node.func, ast.Attribute)
                else getattr(node.func, "id", "")
            )
            first = node.args[0]
            if name in RAISED and isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first.value, node.lineno


def test_every_code_that_is_raised_is_in_the_table() -> None:
    found = [(code, path.name, line) for path in SPEAKING for code, line in _codes(path)]
    assert len(found) > 80
    assert [each for each in found if each[0] not in KINDS and each[0] not in AT_START] == []


def test_every_advice_says_whether_something_was_changed() -> None:
    for code, kind in KINDS.items():
        assert kind.advice and kind.title, code
        if kind.status in (503, 429, 400, 409) and code not in ("expired", "not_cancellable"):
            assert kind.advice.endswith("nothing was changed"), code


def test_opposite_remedies_have_codes_of_their_own() -> None:
    away, refused = KINDS["store_away"], KINDS["store_refused"]
    assert "adopt" in refused.advice and "adopt" not in away.advice and "wait" in away.advice
    assert problem_of(BackendUnavailable("sqlite", "disk full"), mutation=True).code == "store_away"
    assert problem_of(NotApplied("store_refused", "behind"), mutation=True).code == "store_refused"


def test_what_nginx_says_itself_is_of_the_same_table() -> None:
    conf = (ROOT / "deploy/nginx/nginx.conf").read_text().replace("{{problems}}", TYPE_PREFIX)
    told = [json.loads(text) for text in re.findall(r"return \d+ '(\{\"type\".*?\})\\n';", conf)]
    assert len(told) >= 5
    for form in told:
        kind = KINDS[form["code"]]
        assert (form["title"], form["advice"]) == (kind.title, kind.advice)


async def test_a_batch_and_an_adoption_say_what_to_do(api: Api) -> None:
    api.consensus.lose = True
    txn = {"writes": [{"put": "a", "value": "1"}]}
    found = await api.ask("POST", "/v1/batch", json={"operations": [txn, {**txn, "op_id": "x"}]})
    assert (
        found.problem(504, "outcome_unknown", "unknown")["advice"]
        == KINDS["outcome_unknown"].advice
    )
    api.consensus.lose = False
    api.consensus.no_leader = "no_leader"
    api.consensus.leader = ("n2", "http://n2:8001")
    form = (await api.ask("POST", "/v1/cluster/adopt")).problem(409, "ask_leader")
    assert form["leader"] == "n2" and "http://n2:8001" in form["detail"]


@pytest.mark.parametrize("reason", ["store_away", "starting", "no_quorum", "not_taken_over"])
async def test_the_document_carries_the_advice_of_its_code(api: Api, reason: str) -> None:
    api.consensus.no_leader = reason
    form = (await api.ask("PUT", "/v1/kv/a", data=b"1")).problem(503, reason)
    assert form["advice"] == KINDS[reason].advice
