"""Say how far long work has come. Never decides anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec


class Progress(msgspec.Struct, frozen=True):
    """How far long work has come: lines (or keys, or rows) done and bytes read (or written)."""

    lines: int
    bytes: int


OnProgress: TypeAlias = Callable[[Progress], None]


def ignore(progress: Progress) -> None:
    """Show nothing."""
