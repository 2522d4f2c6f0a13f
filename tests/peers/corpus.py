"""Record what etcd answers to the corpus (`python -m tests.peers.corpus record`), and compare what
a server answers with it (`python -m tests.peers.corpus compare URL`).
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from tests.peers.asking import play
from tests.peers.local import etcd, healthy
from tests.peers.requests import corpus

FILE: Final = Path(__file__).parent / "corpus.json"


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
                    answers = [{"status": "etcd ended"}] * len(steps)
                found[name] = {"steps": steps, "answers": answers}
    return found


def main(argv: list[str]) -> int:
    """Record, or compare and print each difference."""
    if argv[:1] == ["record"]:
        cases = record()
        lines = (f"{json.dumps(name)}: {json.dumps(case)}" for name, case in cases.items())
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
        count = sum(len(case["steps"]) for case in cases.values())
        print(f"{len(cases)} cases, {count} requests")
        return 0
    found = differences(argv[1], json.loads(FILE.read_text()), argv[2:])
    for line in found:
        print(line)
    print(f"{len(found)} differences")
    return 1 if found else 0


def differences(url: str, cases: dict[str, Any], only: list[str]) -> list[str]:
    """Return a line for each answer that is not etcd's."""
    found = []
    for name, case in cases.items():
        if only and not any(word in name for word in only):
            continue
        try:
            answers = play(url, case["steps"])
        except Exception as exc:  # noqa: BLE001 - what breaks one case says nothing of the next
            found.append(f"{name}: {exc!r}")
            continue
        for number, (ours, theirs) in enumerate(zip(answers, case["answers"], strict=True)):
            if ours != theirs:
                found.append(
                    f"{name}, step {number}: {case['steps'][number]}\n"
                    f"    etcd:   {json.dumps(theirs)}\n    Acordo: {json.dumps(ours)}"
                )
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
