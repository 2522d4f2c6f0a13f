"""Count what becomes of the lines of a load, and stop it at one that can never be loaded."""

from __future__ import annotations

from collections.abc import Callable

from acordo._errors import BadRequest
from acordo._results import Item


class Rejected(BadRequest):
    """A line that can never be loaded; lines before it may be in, the checkpoint stays."""

    maybe_applied = True
    advice = (
        "other lines may be in: mend this one and run again, "
        "or leave such lines out with --keep-going"
    )


class Tally:
    """What has become of the lines of a load so far."""

    def __init__(self, *, keep_going: bool, on_rejected: Callable[[int, str], None]) -> None:
        """Begin at nothing.

        `keep_going`: a line that can never be loaded is given to `on_rejected`, and left out.
        """
        self._keep_going, self._on_rejected = keep_going, on_rejected
        self.lines = 0
        """Lines that are done with."""
        self.again = 0
        """Lines that an earlier, interrupted run had written."""
        self.rejected = 0
        self.expired = 0
        """Lines whose moment had come before the load began."""
        self.revision = 0
        """Highest revision of a line."""

    def applied(self, item: Item) -> None:
        """Count a line that is in."""
        self.again += item.again
        self.revision = max(self.revision, item.revision)

    def reject(self, number: int, why: str) -> None:
        """Count a line that can never be loaded. Raises Rejected unless the load keeps going."""
        if not self._keep_going:
            raise Rejected(f"line {number}: {why}", code="rejected")
        self.rejected += 1
        self._on_rejected(number, why)
