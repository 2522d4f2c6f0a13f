"""Describe what a command did to a machine, and what its member has to do afterwards.

Plain values. They hold only what is the same on every member.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from kv.model import Answer
from kv.ports import Settled

CommandVerdict: TypeAlias = Literal[
    "ordered",
    "settled",
    "rebased",
    "adopted",
    "founded",
    "amended",
    "noted",
    "stale",
    "foreign",
    "gap",
    "illegal",
]
"""What a command did. noted: a floor, cursor or level was raised. The last four mean that it did
nothing. stale: it brings nothing new. foreign: its digest is not that of this machine's order. gap:
it does not continue the settled revision. illegal: it contradicts itself.
"""


class Answered(msgspec.Struct, frozen=True, gc=False):
    """An attempt that was answered from the window, and so took no revision."""

    op_id: str
    body_hash: bytes
    answer: Answer


class Effects(msgspec.Struct, frozen=True, gc=False):
    """What a command did, and what the member that applied it has to do now."""

    verdict: CommandVerdict
    answered: tuple[Answered, ...] = ()
    settled: tuple[Settled, ...] = ()
