"""Make wall clocks jump, on one node or on most."""

from __future__ import annotations

from typing import ClassVar, Final, Protocol, runtime_checkable

from typing_extensions import override

from chaos.nemeses.base import Nemesis, some

JUMPS_S: Final = (-4e7, -3600.0, -90.0, 45.0, 900.0, 4e7)


@runtime_checkable
class Clocks(Protocol):
    """A target whose nodes' wall clocks can be shifted."""

    def set_clock(self, node: str, offset_s: float) -> None:
        """Shift the node's wall clock by `offset_s` from now on."""
        ...

    async def skew_s(self, node: str) -> float | None:
        """Return the offset of the node's wall clock, from the time it reports over HTTP; None: no
        answer.
        """
        ...


class ClockJump(Nemesis):
    """The wall clock of one node jumps forward or back, and returns at healing."""

    name: ClassVar[str] = "clock-jump"
    needs: ClassVar[frozenset[str]] = frozenset({"clocks"})
    whom: ClassVar[str] = "one"

    @property
    def clocks(self) -> Clocks:
        """Return the target, typed as one whose clocks can be shifted."""
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
    """The wall clocks of a majority jump, all by the same offset."""

    name: ClassVar[str] = "clock-jump-most"
    whom: ClassVar[str] = "majority"
