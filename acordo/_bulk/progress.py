"""Report the progress of a long operation. Never decides anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """The progress of a long operation: lines (or keys, or rows) done, and bytes read (or
    written).
    """

    lines: int
    bytes: int


OnProgress: TypeAlias = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Ignore progress."""
