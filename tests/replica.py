"""What a replica does that has no store of its own, and a journal in memory; the replicas and
journals of tests build on it.
"""

from __future__ import annotations

from typing import Any

from coordinator.log import Position
from kv.ports import StateCopy


class InMemory:
    """What a journal says of its entries, for the library's journal in memory."""

    size_bytes = 0

    def __getitem__(self, item: Any) -> Any:
        return super().__getitem__(item)  # type: ignore[misc]

    @property
    def first_index(self) -> int:
        return int(self[0][1])

    @property
    def last_index(self) -> int:
        return int(self[-1][1])

    def term_of(self, position: int) -> int:
        return int(self[position][2])


class SharedKind:
    """A replica that always takes more, with nothing to make durable and nothing to attach."""

    keeps_store = False

    @property
    def takes_more(self) -> bool:
        return True

    async def secure(self, position: Position) -> None: ...

    def saved(self, position: Position) -> None:
        return

    def foresee(self, command: bytes) -> None:
        return

    async def answer(self, question: bytes) -> bytes:
        return b"asked: " + question

    async def attach(self) -> StateCopy | None:
        return None

    async def install(self, snapshot: bytes, state: StateCopy | None) -> None:
        if state is not None:
            raise ValueError("there is no own store")
        self.restore(snapshot)

    def restore(self, snapshot: bytes) -> None:
        raise NotImplementedError
