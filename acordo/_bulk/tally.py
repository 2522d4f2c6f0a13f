"""Count the outcomes of the lines of a load, and stop the load at a line that can never be
loaded.
"""

from __future__ import annotations

from collections.abc import Callable

from acordo._errors import BadRequest
from acordo._results import Item


class Rejected(BadRequest):
    """A line that can never be loaded. Lines before it may be written; the checkpoint stays."""

    maybe_applied = True
    advice = (
        "other lines may be in: mend this one and run again, "
        "or leave such lines out with --keep-going"
    )


class Tally:
    """The outcomes of the lines of a load so far."""

    def __init__(self, *, keep_going: bool, on_rejected: Callable[[int, str], None]) -> None:
        """Start with all counts at 0.

        `keep_going`: a line that can never be loaded is passed to `on_rejected` and skipped.
        """
        self._keep_going, self._on_rejected = keep_going, on_rejected
        self.lines = 0
        """Lines that need no more work."""
        self.again = 0
        """Lines written by an earlier, interrupted run."""
        self.rejected = 0
        self.expired = 0
        """Lines whose expiry time had passed before the load began."""
        self.revision = 0
        """The highest revision of a line."""

    def applied(self, item: Item) -> None:
        """Count a line that was written."""
        self.again += item.again
        self.revision = max(self.revision, item.revision)

    def reject(self, number: int, why: str) -> None:
        """Count a line that can never be loaded. Raises Rejected unless the load keeps going."""
        if not self._keep_going:
            raise Rejected(f"line {number}: {why}", code="rejected")
        self.rejected += 1
        self._on_rejected(number, why)
