"""Bound what machines remember: what every replicated decision depends on besides the commands.

They are born with the history (`commands.Found`) and changed by the log alone (`commands.Amend`): a
member's own settings are a proposal, never what it goes by. Plain values.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """Bounds of what machines remember and of what may be pruned. Encoded by name; fields are only
    ever added.
    """

    window_max: int = 32_768
    """op_ids kept with their outcome, at most; at least half as many."""
    window_ms: int = 24 * 3600 * 1000
    """… and for how long, in log time: the published retention of op_ids, after which a key is free
    again.
    """
    recent_max: int = 65_536
    """Keys kept in `last`."""
    retention_revisions: int = 100_000
    retention_ms: int = 3_600_000
    """Superseded versions and ledger rows stay this many revisions and this long, whichever is
    more.
    """

    def differing(self, other: Limits) -> tuple[str, ...]:
        """Return the names of the bounds that the two do not have in common."""
        return tuple(
            name for name in self.__struct_fields__ if getattr(self, name) != getattr(other, name)
        )


DEFAULTS: Final = Limits()
