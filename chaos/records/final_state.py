"""Hold what members and readers said after healing, once nobody writes: what is in `final.json`.

It judges nothing: `checkers/convergence` does.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

LEVELS: Final = ("linearizable", "session", "stale")


class MemberState(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one member said of itself once all was quiet."""

    node: str
    settled: int
    digest: str
    applied: int | None = None


class FinalRead(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key read through one node at one level, with nobody writing."""

    node: str
    level: str
    key: str
    value: Any = None
    version: int = 0


class Evidence(msgspec.Struct, frozen=True, omit_defaults=True):
    """Everything that was collected after healing."""

    nodes: tuple[str, ...] = ()
    """Every node that should have answered."""
    members: tuple[MemberState, ...] = ()
    reads: tuple[FinalRead, ...] = ()
    levels: tuple[str, ...] = LEVELS
    broker: bool = False
    """A subscriber recorded the broker's stream."""
    wiped: bool = False
    """The broker lost all that it held, on purpose: what it had not delivered yet is gone."""
