"""Measure what one Submit costs a member with its own store, from decoding to settling, with a
store that keeps nothing. Not a test.

`python -m tests.unit.coordinator.own_speed`.

Best of several rounds of CPU time, since other work on the machine only ever adds to it.
"""

from __future__ import annotations

import asyncio
import cProfile
import pstats
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

from coordinator.applier import Applier
from coordinator.clients.feed import Feed
from coordinator.clients.recovery import Recovery
from coordinator.clients.waits import Waits
from coordinator.failure import FatalFailure
from coordinator.log import Position
from coordinator.machine import founding
from coordinator.machine.commands import Submit, encode
from coordinator.machine.limits import Limits
from coordinator.machine.machine import Machine
from coordinator.peers.timekeeping import Timekeeping
from coordinator.replicated.condition import Condition
from coordinator.replicated.marks import ContentMarks
from coordinator.replicated.settling import Settling
from coordinator.settings import CoordinatorSettings
from kv.model import AtRevision, Intent, Put
from kv.ports import Facts
from kv.ports.member_store import Note, Step
from tests.virtual import VirtualClock

ROUNDS = 40
INTENTS = 2048


class NullStore:
    """A MemberStore that keeps nothing but its newest note."""

    condition, damage, trouble, unwritten_bytes = "sound", "", "", 0

    def __init__(self) -> None:
        self.note = Note()

    def facts(self, *asked: Any, **more: Any) -> Facts:
        return Facts(None, {}, {}, {}, frozenset())  # type: ignore[arg-type]

    def numbers(self, keys: Sequence[bytes]) -> dict[bytes, tuple[int, int]]:
        return {}

    def settle(self, step: Step) -> None:
        self.note = step.note


def applier(loop: asyncio.AbstractEventLoop) -> Applier:
    store: Any = NullStore()
    machine, waits, feed = Machine(), Waits(), Feed()
    settings = CoordinatorSettings()
    made = Applier(
        machine,
        waits=waits,
        feed=feed,
        recovery=Recovery(waits, store, settings),
        timekeeping=Timekeeping("a", None, VirtualClock(loop)),  # type: ignore[arg-type]
        failure=FatalFailure(),
        settling=Settling(
            machine, store, Condition(store, unwritten_bytes_max=1 << 26), ContentMarks()
        ),
    )
    found = founding.found(random.Random(1).randbytes, Limits(), b"", level=1)
    made.apply(Position(1, 1), 1, encode(found))
    return made


def commands(number: int, turn: int, *, guarded: bool) -> list[bytes]:
    """Return Submits of `number` intents each."""

    def intent(n: int) -> Intent:
        key = b"key/%d" % (n % 50_000)
        guards = (AtRevision(key, (1,)),) if guarded else ()
        op_id = f"op-{n}" if guarded else f"~n1.0123456789ab.{n}"
        return Intent(op_id, 1 << 50, guards, (Put(key, b"x" * 100),), None, (key,))

    at = turn * INTENTS
    return [
        encode(Submit(tuple(intent(n) for n in range(first, first + number))))
        for first in range(at, at + INTENTS, number)
    ]


def measure(made: Applier, number: int, *, guarded: bool) -> float:
    """Return the microseconds that one Submit of `number` intents takes."""
    best, index = 1e9, made._machine.book.index
    for turn in range(ROUNDS):
        submits = commands(number, turn + (1000 if guarded else 0) + number, guarded=guarded)
        began_s = time.process_time()
        for command in submits:
            index += 1
            made.apply(Position(index, 1), index, command)
        best = min(best, (time.process_time() - began_s) / len(submits))
    return best * 1e6


def main() -> None:
    made = applier(asyncio.new_event_loop())
    if "--profile" in sys.argv:
        profile = cProfile.Profile()
        profile.enable()
        measure(made, 1, guarded=False)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(30)
        return
    for number in (1, 8, 64):
        for guarded in (False, True):
            spent_us = measure(made, number, guarded=guarded)
            kind = "guarded, client's op_id" if guarded else "put, as over HTTP"
            print(
                f"{number:3} intents, {kind:24} {spent_us:8.1f} µs/Submit"
                f" {spent_us / number:7.2f} µs/intent"
            )


if __name__ == "__main__":
    main()
