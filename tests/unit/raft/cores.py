"""Do to a core from outside what tests need, and the product never does."""

from __future__ import annotations

from coordinator.raft.core.protocol import Core


def forget_leader(core: Core) -> None:
    """Let time pass for one member: it has heard of no leader, or, if it leads, of no voter."""
    library, silent_s = core.pysyncobj, core.pysyncobj.conf.raftMinTimeout
    core.terms.heard = float("-inf")
    for node, heard in library.last_response.items():
        library.last_response[node] = min(heard, core.now() - silent_s)


def note_nothing(core: Core) -> None:
    """Let this leader put nothing into the log of its own accord but the no-op of its term."""
    for name in ("found", "maybe_note_joined", "maybe_note_moved"):
        setattr(core.changes, name, lambda: None)
