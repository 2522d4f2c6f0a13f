"""A member judges what the log orders by the level in force, not by what it speaks (R14)."""

from __future__ import annotations

import random

import pytest

from backends.memory.member_file import MemoryFile
from backends.memory.member_store import MemoryMemberStore
from coordinator.log import Position
from coordinator.machine import founding
from coordinator.machine.commands import Command, Level, Submit, encode
from coordinator.machine.limits import Limits
from coordinator.machine.machine import Machine
from coordinator.replicated.condition import Condition
from coordinator.replicated.marks import ContentMarks
from coordinator.replicated.settling import Settling
from kv.leases import SYSTEM_PREFIX
from kv.model import FROM_KEY, DeleteRange, Intent, Put


@pytest.mark.parametrize(("level", "left"), [(1, 0), (2, 1)])
async def test_ranges_are_judged_by_the_level_in_force(level: int, left: int) -> None:
    async with MemoryMemberStore(MemoryFile()) as store:
        machine = Machine()
        condition = Condition(store, unwritten_bytes_max=1 << 26)
        settling = Settling(machine, store, condition, ContentMarks())
        index = 0

        def apply(command: Command) -> None:
            nonlocal index
            index += 1
            text = encode(command)
            effects = machine.apply(settling.admit(command), index)
            settling.settle(Position(index, 1), text, effects)

        apply(founding.found(random.Random(1).randbytes, Limits(), b"", level=1))
        apply(Level(level))
        for n, key in enumerate((b"a", SYSTEM_PREFIX + b"other")):
            apply(Submit((Intent(f"~{n}", 1 << 50, (), (Put(key, b"v"),)),)))
        apply(Submit((Intent("~9", 1 << 50, (), (DeleteRange(b"\0", FROM_KEY),)),)))
        assert len(store.numbers((b"a", SYSTEM_PREFIX + b"other"))) == left
