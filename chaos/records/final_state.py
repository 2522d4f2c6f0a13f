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


class CopiedRow(msgspec.Struct, frozen=True, array_like=True):
    """One row of one member's ledger."""

    seq: int
    index: int
    term: int
    committer: str
    first: int
    last: int
    log_time_ms: int
    digest: str
    content: str
    body: str
    """Hash of its intents with their outcomes and keys."""


class CopiedKey(msgspec.Struct, frozen=True, array_like=True):
    """One present key of one member's contents."""

    key: str
    revision: int
    value: str
    """Hash of the value."""
    expires_ms: int = 0


class MemberCopy(msgspec.Struct, frozen=True):
    """Everything that one member answered by itself when nobody wrote."""

    node: str
    revision: int
    """The revision of its contents."""
    rows: tuple[CopiedRow, ...] = ()
    keys: tuple[CopiedKey, ...] = ()


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
    copies: tuple[MemberCopy, ...] = ()
    """Each member's ledger and contents; none in runs that did not collect them."""
