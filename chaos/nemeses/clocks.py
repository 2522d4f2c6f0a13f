"""Wall clocks that jump, of one node or of most."""

from __future__ import annotations

from typing import ClassVar, Final, Protocol, runtime_checkable

from typing_extensions import override

from chaos.nemeses.base import Nemesis, some

JUMPS_S: Final = (-4e7, -3600.0, -90.0, 45.0, 900.0, 4e7)


@runtime_checkable
class Clocks(Protocol):
    """Nodes whose wall clock can be set off."""

    def set_clock(self, node: str, offset_s: float) -> None:
        """Let the node's wall clock be so far off from now on."""
        ...

    async def skew_s(self, node: str) -> float | None:
        """Return how far its wall clock is off by what it tells over HTTP; None: no answer."""
        ...


class ClockJump(Nemesis):
    """The wall clock of one node jumps, ahead or back, and jumps home at healing."""

    name: ClassVar[str] = "clock-jump"
    needs: ClassVar[frozenset[str]] = frozenset({"clocks"})
    whom: ClassVar[str] = "one"

    @property
    def clocks(self) -> Clocks:
        """Return the target, which can set clocks off."""
        assert isinstance(self.target, Clocks)
        return self.target

    @override
    async def choose(self) -> tuple[str, ...]:
        self.offset_s = self.rng.choice(JUMPS_S)
        return await some(self.target, self.rng, self.whom)

    @override
    async def start(self) -> None:
        for node in self.targets:
            self.clocks.set_clock(node, self.offset_s)

    @override
    async def proof(self) -> str | None:
        jumped = [
            f"{node}: wall clock {s:+.0f} s"
            for node in self.targets
            if (s := await self._off(node)) is not None
        ]
        return "; ".join(jumped) if jumped and len(jumped) == len(self.targets) else None

    async def _off(self, node: str) -> float | None:
        skew_s = await self.clocks.skew_s(node)
        return (
            skew_s
            if skew_s is not None and abs(skew_s - self.offset_s) < abs(self.offset_s) / 2
            else None
        )

    @override
    async def heal(self) -> None:
        for node in self.targets:
            self.clocks.set_clock(node, 0.0)


class ClockJumpMost(ClockJump):
    """The wall clocks of most nodes jump, all by as much."""

    name: ClassVar[str] = "clock-jump-most"
    whom: ClassVar[str] = "majority"
