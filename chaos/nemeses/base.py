"""Inflict one fault: start, wait for the proof that it bit, hold, heal in `finally`, and record
each of these.

The proof looks at the world, never at what the nemesis believes to have done: replaced by a no-op,
none of them bites.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Final

from chaos.nemeses.fault_gauge import WINDOWS
from chaos.records.history import Fault
from chaos.records.recorder import Recorder
from chaos.targets.base import Target
from chaos.waiting import until

PROOF_WITHIN_S: Final = 8.0
POLL_S: Final = 0.05
LEADER_WITHIN_S: Final = 3.0
"""For an election to end, or an answer to come: a fault of the leader must not hit somebody else by
chance.
"""


@dataclass(frozen=True)
class Inflicted:
    """How one fault went."""

    nemesis: str
    targets: tuple[str, ...]
    proof: str | None
    """None: it did not bite, and the run is weak."""
    skipped: str | None = None
    """Why it was not tried."""
    error: str | None = None


class Nemesis(ABC):
    """One kind of fault. An instance inflicts it once: make a new one for the next."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Abilities of the target without which it cannot be tried."""
    heal_within_s: ClassVar[float] = 30.0

    def __init__(self, target: Target, rng: Random) -> None:
        self.target, self.rng = target, rng
        self.targets: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Return why it cannot be tried here, None when it can."""
        lacking = sorted(self.needs - self.target.abilities)
        return f"the target has no {', '.join(lacking)}" if lacking else None

    @abstractmethod
    async def choose(self) -> tuple[str, ...]:
        """Return whom it will hit."""

    @abstractmethod
    async def start(self) -> None:
        """Do what harms."""

    @abstractmethod
    async def proof(self) -> str | None:
        """Return what shows from outside that it bites, None while nothing does."""

    async def hold(self, seconds: float) -> None:
        """Let it last. Faults that are a sequence of steps take them here."""
        await asyncio.sleep(seconds)

    @abstractmethod
    async def heal(self) -> None:
        """Undo it. Called whatever happened before, also when `start` failed half-way."""


async def inflict(nemesis: Nemesis, recorder: Recorder, seconds: float) -> Inflicted:
    """Inflict a fault for about so long, and record it. Raises nothing but cancellation; heals in
    any case.

    One that cannot even choose whom to hit is an error of the fault, and not the end of the run.
    """
    if (why := nemesis.missing()) is not None:
        recorder.add(Fault(nemesis.name, "skipped", recorder.clock(), (), why))
        return Inflicted(nemesis.name, (), None, skipped=why)
    try:
        nemesis.targets = await nemesis.choose()
    except Exception as exc:  # noqa: BLE001 - as below: nothing was done, and the run is weak
        error = f"choose: {exc!r}"
        recorder.add(Fault(nemesis.name, "skipped", recorder.clock(), (), error))
        return Inflicted(nemesis.name, (), None, error=error)
    with WINDOWS.window(nemesis.name, nemesis.targets):
        return await _inflicted(nemesis, recorder, seconds)


async def _inflicted(nemesis: Nemesis, recorder: Recorder, seconds: float) -> Inflicted:
    recorder.add(Fault(nemesis.name, "start", recorder.clock(), nemesis.targets))
    proof: str | None = None
    error: str | None = None
    try:
        await nemesis.start()
        holding = asyncio.create_task(nemesis.hold(seconds))
        try:
            proof = await _proved(nemesis, max(PROOF_WITHIN_S, seconds))
            if proof is not None:
                recorder.add(Fault(nemesis.name, "bit", recorder.clock(), nemesis.targets, proof))
            await holding
            if proof is None and (proof := await nemesis.proof()) is not None:
                recorder.add(Fault(nemesis.name, "bit", recorder.clock(), nemesis.targets, proof))
        finally:
            holding.cancel()
    except Exception as exc:  # noqa: BLE001 - a fault that fails is reported, and the run is weak; it must heal all the same
        error = repr(exc)
    finally:
        error = await asyncio.shield(_heal(nemesis)) or error
        recorder.add(Fault(nemesis.name, "healed", recorder.clock(), nemesis.targets, error))
    return Inflicted(nemesis.name, nemesis.targets, proof if error is None else None, error=error)


async def _proved(nemesis: Nemesis, within_s: float) -> str | None:
    try:
        async with asyncio.timeout(within_s):
            while True:
                if (proof := await nemesis.proof()) is not None:
                    return proof
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        return None


async def _heal(nemesis: Nemesis) -> str | None:
    try:
        async with asyncio.timeout(nemesis.heal_within_s):
            await nemesis.heal()
    except Exception as exc:  # noqa: BLE001 - told in the record; the target's own exit heals again
        return f"heal: {exc!r}"
    return None


async def leader_within(target: Target, within_s: float) -> str | None:
    """Return who leads as soon as somebody does, None when nobody does in time."""
    found: str | None = None

    async def known() -> bool:
        nonlocal found
        found = await target.leader()
        return found is not None

    await until(known, within_s)
    return found


async def some(target: Target, rng: Random, whom: str) -> tuple[str, ...]:
    """Return nodes by role: leader, follower, one, minority, majority, all.

    Where nobody leads even after LEADER_WITHIN_S any node stands for the leader: so it is while
    another fault holds.
    """
    nodes = list(target.nodes)
    leader = ""
    if whom in {"leader", "follower"}:
        leader = await leader_within(target, LEADER_WITHIN_S) or rng.choice(nodes)
    others = [n for n in nodes if n != leader]
    minority = (len(nodes) - 1) // 2
    match whom:
        case "leader":
            return (leader,)
        case "follower":
            return (rng.choice(others or nodes),)
        case "one":
            return (rng.choice(nodes),)
        case "minority":
            return tuple(sorted(rng.sample(nodes, max(1, minority))))
        case "majority":
            return tuple(sorted(rng.sample(nodes, len(nodes) // 2 + 1)))
        case "all":
            return tuple(nodes)
    raise ValueError(whom)
