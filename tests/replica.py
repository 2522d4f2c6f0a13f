"""What a replica does that has no store of its own; the replicas of tests build on it."""

from __future__ import annotations

from coordinator.log import Position
from kv.ports import StateCopy


class SharedKind:
    """A replica that always takes more, with nothing to make durable and nothing to attach."""

    @property
    def takes_more(self) -> bool:
        return True

    async def secure(self, position: Position) -> None: ...

    def saved(self, position: Position) -> None:
        return

    async def attach(self) -> StateCopy | None:
        return None

    async def install(self, snapshot: bytes, state: StateCopy | None) -> None:
        if state is not None:
            raise ValueError("there is no own store")
        self.restore(snapshot)

    def restore(self, snapshot: bytes) -> None:
        raise NotImplementedError
