"""Break on purpose what a node believes of rights."""

from __future__ import annotations

from node.access.access import Access
from tests.planted.registry import Patches, fault


@fault("Access")
def rights_of_the_beginning() -> Patches:
    """A node that has learned of rights once goes on with these, whatever it hears."""
    right = Access._build

    def build(self: Access) -> None:
        if self.policy is None or not self.policy.on:
            right(self)

    yield Access, "_build", build


@fault("Access")
def confirmed_is_known() -> Patches:
    """A node that lags believes what it knows as soon as a quorum has answered it."""

    async def wait_fresh(self: Access, deadline: float) -> None:
        await self._consensus.read_index(timeout_s=max(deadline - self.monotonic(), 0.001))

    def settled(self: Access, event: object) -> None:
        """Hear of nothing."""

    yield Access, "wait_fresh", wait_fresh
    yield Access, "_settled", settled
