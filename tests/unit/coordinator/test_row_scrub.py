"""The scrub of a member's own rows, and of the pages that they lie in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from backends.memory.member_file import MemoryFile
from backends.memory.member_store import MemoryMemberStore
from coordinator.replicated.condition import Condition
from coordinator.replicated.scrubbing import RowScrub
from coordinator.settings import CoordinatorSettings


class Broken(MemoryMemberStore):
    """A store whose index lacks a row."""

    async def broken_pages(self) -> tuple[str, ...]:
        return ("row 3 missing from index versions_key", "another flaw")


def log_of(voters: int) -> Any:
    peers = [SimpleNamespace(voter=True) for _ in range(voters)]
    return SimpleNamespace(status=lambda: SimpleNamespace(peers=peers))


@pytest.mark.parametrize(("voters", "state"), [(3, "set_aside"), (1, "sound")])
async def test_an_index_that_lacks_a_row_lets_another_members_state_be_fetched(
    voters: int, state: str
) -> None:
    async with Broken(MemoryFile(), session="n1") as own:
        condition = Condition(own, unwritten_bytes_max=1 << 20)
        condition.caught_up = True
        scrub = RowScrub(own, log_of(voters), condition, CoordinatorSettings())
        await scrub.check_pages()
        assert condition.state == state
        if voters > 1:
            assert "missing from index" in condition.detail


async def test_sound_pages_change_nothing() -> None:
    async with MemoryMemberStore(MemoryFile(), session="n1") as own:
        condition = Condition(own, unwritten_bytes_max=1 << 20)
        condition.caught_up = True
        await RowScrub(own, log_of(3), condition, CoordinatorSettings()).check_pages()
        assert condition.state == "sound"
