"""Define the evidence collected after healing, when nobody writes: the content of `final.json`.

It judges nothing: `checkers/convergence` does.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

LEVELS: Final = ("linearizable", "session", "stale")


class MemberState(msgspec.Struct, frozen=True, omit_defaults=True):
    """The state that one member reported when nobody wrote."""

    node: str
    settled: int
    digest: str
    applied: int | None = None


class FinalRead(msgspec.Struct, frozen=True, omit_defaults=True):
    """A read of one key through one node at one level when nobody wrote."""

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
    """Whether a subscriber recorded the broker's stream."""
    wiped: bool = False
    """Whether a fault wiped the broker: messages that it had not delivered yet are gone."""
