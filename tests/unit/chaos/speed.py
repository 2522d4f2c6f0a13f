"""Measure the register checker: `python -m tests.unit.chaos.speed`. Processor time of one core,
best of three.

Histories of an ideal register: unique values, get, put, cas and delete, clients that overlap as
real ones do.
"""

from __future__ import annotations

import platform
import sys
import time
from random import Random

from chaos.checkers.registers import register
from chaos.checkers.verdict import Verdict
from chaos.records.history import ClientOperation
from chaos.records.history_file import parse, plain_line
from tests.unit.chaos.ideal import Ideal

CASES = (
    # keys, operations per key, clients per key, unknown share
    (60, 1_000, 12, 0.02),
    (20, 1_000, 12, 0.10),
    (20, 1_000, 5, 0.02),
    (20, 1_000, 40, 0.02),
    (1, 20_000, 30, 0.02),
)
WANTED = 50_000
"""Operations per second at 12 clients per key and 2 % of unknown outcome: the first case."""


def history(keys: int, count: int, clients: int, unknown: float) -> list[ClientOperation]:
    """Return one history of independent keys."""
    ops: list[ClientOperation] = []
    for n in range(keys):
        made = Ideal(Random(n)).register(count, clients, unknown, keys=1)
        ops += [
            ClientOperation(
                f"{n}.{o.client}",
                o.op,
                o.outcome,
                o.start_ns,
                o.end_ns,
                key=f"k{n}",
                value=o.value,
                expected=o.expected,
                result=o.result,
            )
            for o in made
        ]
    return ops


def main() -> int:
    print(
        f"{platform.python_version()} on {platform.machine()}: operations per second, checked "
        f"| with reading the file"
    )
    worst = 0.0
    for n, (keys, count, clients, unknown) in enumerate(CASES):
        ops = history(keys, count, clients, unknown)
        lines = [plain_line(o) for o in ops]
        best = whole = float("inf")
        for _ in range(3):
            start = time.process_time()
            parse(lines)
            read = time.process_time()
            judged = register.check(ops)
            end = time.process_time()
            assert judged.verdict is Verdict.OK, judged.findings[:1]
            best, whole = min(best, end - read), min(whole, end - start)
        what = f"{keys} keys x {count} operations, {clients} clients per key, {unknown:.0%} unknown"
        print(f"{what:68} {len(ops) / best:>9,.0f} | {len(ops) / whole:>9,.0f}")
        worst = len(ops) / best if n == 0 else worst
    return 0 if worst >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
