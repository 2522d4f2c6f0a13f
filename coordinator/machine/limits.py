"""Define the limits: what every replicated decision depends on besides the commands.

They are set when the history is founded (`commands.Found`) and changed only through the log
(`commands.Amend`). A member's own settings are a proposal and never decide. Plain values.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """The bounds of what machines remember and of what may be pruned. Encoded by name; fields are
    only ever added.
    """

    window_max: int = 32_768
    """The maximal number of op_ids kept with their outcome. At least half as many are kept."""
    window_ms: int = 24 * 3600 * 1000
    """How long op_ids are kept, in log time. This is the published retention, after which an op_id
    may be used again.
    """
    recent_max: int = 65_536
    """The maximal number of keys kept in `last`."""
    retention_revisions: int = 100_000
    retention_ms: int = 3_600_000
    """Superseded versions and ledger rows are kept for this many revisions and for this long,
    whichever is more.
    """
    level: int = 0
    """The feature level at which a history begins (R14): 0 on a shared store, from 1 on a
    replicated one. Later only `commands.Level` changes it.
    """

    def differing(self, other: Limits) -> tuple[str, ...]:
        """Return the names of the limits in which the two differ."""
        return tuple(
            name
            for name in self.__struct_fields__
            if name != "level" and getattr(self, name) != getattr(other, name)
        )


DEFAULTS: Final = Limits()
