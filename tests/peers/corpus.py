"""Record what etcd answers to the corpus (`python -m tests.peers.corpus record`), and compare what
a server answers with it (`python -m tests.peers.corpus compare URL [PART OF A NAME...]`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.peers.asking import play
from tests.peers.differences import expected
from tests.peers.local import etcd, healthy
from tests.peers.requests import corpus

FILE: Final = Path(__file__).parent / "corpus.json"
ENDED: Final = {"status": "etcd ended"}
"""What stands for the answers of a case that ended etcd."""
ENDS_ETCD: Final = frozenset({"body 3 of a range"})
"""The cases that end etcd itself."""


def record() -> dict[str, Any]:
    """Ask an etcd of the distribution everything, and return the cases with its answers.

    A few requests end etcd itself. They are named, and a new one goes on.
    """
    left, found = corpus(), {}
    while left:
        with tempfile.TemporaryDirectory(prefix="acordo-corpus-") as folder, etcd(folder) as url:
            while left and healthy(url):
                name = next(iter(left))
                steps = left.pop(name)
                answers = play(url, steps)
                if not healthy(url):
                    answers = [ENDED] * len(steps)
                found[name] = {"steps": steps, "answers": answers}
    return found


def main(argv: list[str]) -> int:
    """Record, or compare and print what was not expected."""
    if argv[:1] == ["record"]:
        cases = record()
        lines = (f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(f"{len(cases)} cases, {sum(len(case['steps']) for case in cases.values())} requests")
        return 0
    chosen = {
        name: case
        for name, case in recorded().items()
        if not argv[2:] or any(word in name for word in argv[2:])
    }
    lines_ = compared(argv[1], chosen, expected(shared=False))
    print("\n".join(lines_))
    return 1 if len(lines_) > 1 else 0


def recorded() -> dict[str, Any]:
    """Return the cases with etcd's answers, by name."""
    cases: dict[str, Any] = json.loads(FILE.read_text())
    return cases


def compared(url: str, cases: dict[str, Any], known: dict[tuple[str, int], str]) -> list[str]:
    """Ask the cases of a server; return a line for each answer that is unexpected, and one that
    counts all. `known`: the kind of each difference that is expected.
    """
    found = differences(url, cases)
    wrong = [text for place, text in found.items() if place not in known]
    wrong += [
        f"{name}, step {step}: as etcd, and {known[name, step]!r} was expected"
        for name, step in known
        if name in cases and (name, step) not in found
    ]
    count = sum(len(case["steps"]) for case in cases.values())
    return [*wrong, f"{count} requests, {len(found)} answered otherwise, {len(wrong)} unexpected"]


def differences(url: str, cases: dict[str, Any]) -> dict[tuple[str, int], str]:
    """Return a description of each answer that is not etcd's, by (case, step)."""
    found = {}
    for name, case in cases.items():
        answers = play(url, case["steps"])
        for number, (ours, theirs) in enumerate(zip(answers, case["answers"], strict=True)):
            if ours != theirs:
                found[name, number] = (
                    f"{name}, step {number}: {str(case['steps'][number])[:2000]}\n"
                    f"    etcd:   {json.dumps(theirs)[:2000]}\n"
                    f"    Acordo: {json.dumps(ours)[:2000]}"
                )
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
