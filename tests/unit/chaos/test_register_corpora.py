"""The register checker agrees with every history of known verdict.

`cases` travels with this repository. The porcupine and knossos corpora are third-party data that
stay outside it, in the folder that ACORDO_TEST_HISTORIES names; without them their part is skipped.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from chaos.checkers.registers import register
from chaos.records.saved import load_history

ROOT = Path(__file__).parents[3]
OWN = ROOT / "tests" / "histories"
OTHERS = Path(os.environ.get("ACORDO_TEST_HISTORIES", ROOT.parent / "shared" / "histories"))
FOLDERS = {"cases": OWN, "porcupine": OTHERS / "porcupine", "knossos": OTHERS / "knossos"}
EXPECTED = {"cases": 12, "porcupine": 56, "knossos": 40}


@pytest.mark.parametrize("name", FOLDERS)
def test_checker_agrees_with_every_verdict_of_the_corpus(name: str) -> None:
    folder = FOLDERS[name]
    if not (folder / "verdicts.json").exists():
        pytest.skip(f"the corpus {name} is not at {folder}")
    verdicts: dict[str, Any] = json.loads((folder / "verdicts.json").read_text())
    assert len(verdicts) == EXPECTED[name]
    wrong = []
    for file, known in verdicts.items():
        judged = register.check(load_history(folder / file).operations, initial=known["initial"])
        if str(judged.verdict) != ("ok" if known["linearizable"] else "illegal"):
            wrong.append((file, str(judged.verdict)))
    assert wrong == []
