"""Inflict one fault: start it, wait for proof, hold it, heal it in `finally`, and record each step.

The proof looks at the world, never at what the nemesis believes it has done: a nemesis replaced by
a no-op must never have a proof.
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
"""How long to wait for a leader, while an election or an answer is pending. Without this wait a
fault meant for the leader could hit another node by chance.
"""


@dataclass(frozen=True)
class Inflicted:
    """The result of one fault."""

    nemesis: str
    targets: tuple[str, ...]
    proof: str | None
    """Evidence that it took effect. None: it did not, and the run counts as weak."""
    skipped: str | None = None
    """Reason why it was not tried, if so."""
    error: str | None = None


class Nemesis(ABC):
    """A kind of fault. An instance inflicts it once: create a new one for the next time."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Abilities that the target must have."""
    heal_within_s: ClassVar[float] = 30.0

    def __init__(self, target: Target, rng: Random) -> None:
        self.target, self.rng = target, rng
        self.targets: tuple[str, ...] = ()

    def missing(self) -> str | None:
        """Return why it cannot be tried on this target, or None if it can."""
        lacking = sorted(self.needs - self.target.abilities)
        return f"the target has no {', '.join(lacking)}" if lacking else None

    @abstractmethod
    async def choose(self) -> tuple[str, ...]:
        """Return the names of what it will hit."""

    @abstractmethod
    async def start(self) -> None:
        """Begin the fault."""

    @abstractmethod
    async def proof(self) -> str | None:
        """Return evidence from outside that the fault is in effect; None while there is none."""

    async def hold(self, seconds: float) -> None:
        """Keep the fault for about `seconds`. A fault made of several steps takes them here."""
        await asyncio.sleep(seconds)

    @abstractmethod
    async def heal(self) -> None:
        """Undo the fault. It is always called, even if `start` failed half-way."""


async def inflict(nemesis: Nemesis, recorder: Recorder, seconds: float) -> Inflicted:
    """Inflict a fault for about `seconds` and record it.

    It raises nothing but cancellation, and heals in any case. If `choose` fails, that is recorded
    as an error of the fault and does not end the run.
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
        errors = [each for each in (error, await asyncio.shield(_heal(nemesis))) if each]
        error = "; ".join(errors) or None
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
    """Return the leader as soon as there is one; None if there is none within `within_s`."""
    found: str | None = None

    async def known() -> bool:
        nonlocal found
        found = await target.leader()
        return found is not None

    await until(known, within_s)
    return found


async def some(target: Target, rng: Random, whom: str) -> tuple[str, ...]:
    """Return nodes by role: leader, follower, one, minority, majority, all.

    If there is no leader even after LEADER_WITHIN_S, for example because of another fault, a random
    node takes its role.
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
