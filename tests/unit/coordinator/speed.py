"""Measure what one intent costs in the pure modules. Not a test.

`python -m tests.unit.coordinator.speed`.

Best of several rounds of CPU time, since other work on the machine only ever adds to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from coordinator.machine.chain import group_on, settle_of
from coordinator.machine.commands import Submit, decode, encode
from coordinator.machine.evaluate import evaluate
from coordinator.machine.machine import Machine
from coordinator.machine.needs import needs, no_facts
from coordinator.machine.pending import Pending
from coordinator.machine.snapshot import encode_state
from kv.model import GENESIS, Group, Head, Intent, Put

GROUP = 200
ROUNDS = 300
T = TypeVar("T")


def main() -> None:
    machine, head, best = Machine(), GENESIS, dict[str, float]()

    def timed(name: str, work: Callable[[], T]) -> T:
        began_s = time.process_time()
        done = work()
        best[name] = min(best.get(name, 1e9), time.process_time() - began_s)
        return done

    for turn in range(ROUNDS):
        intents = tuple(
            Intent(
                f"~n1.0123456789ab.{turn * GROUP + n}",
                1 << 50,
                writes=(Put(b"key/%d" % (turn * GROUP + n), b"x" * 100),),
            )
            for n in range(GROUP)
        )
        command = timed("encode Submit", lambda intents=intents: encode(Submit(intents)))  # type: ignore[misc]
        timed("apply Submit", partial(lambda c, n: machine.apply(decode(c), n), command, turn))
        batch = list(machine.pending.values())

        def commit(batch: list[Pending] = batch, head: Head = head) -> Group:
            assert needs(batch).nothing
            ended = evaluate(batch, no_facts(head), 5)
            return group_on(
                head, term=1, committer="a", log_time_ms=5, batch=batch, evaluation=ended
            )

        group = timed("evaluate and build the group", commit)
        head = group.row.head
        settle = timed("encode Settle", lambda group=group: encode(settle_of(group.row)))  # type: ignore[misc]
        timed("apply Settle", lambda settle=settle, turn=turn: machine.apply(decode(settle), turn))  # type: ignore[misc]
    for name, seconds in best.items():
        print(f"{name:30} {seconds / GROUP * 1e6:6.2f} µs/intent   {GROUP / seconds:12,.0f}/s")
    state = timed("capture", lambda: machine.capture(last=False))
    timed("encode snapshot", lambda: encode_state(state))
    print(
        f"snapshot of {len(machine.window):,} op_ids: capture {best['capture'] * 1e3:.2f} ms, "
        f"encode {best['encode snapshot'] * 1e3:.1f} ms (in a worker thread, in small steps)"
    )


if __name__ == "__main__":
    main()
