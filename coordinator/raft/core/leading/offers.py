"""Tell a peer that the log here no longer reaches back to its own, so that it pulls a state from a
member that it chooses; say whether the log goes on from the end of such a state.

Never vouches for an end that is not committed here.
"""

from __future__ import annotations

from typing import Any

from pysyncobj.node import Node

from coordinator.log import Position
from coordinator.raft.core.leading.progress import PULL_S, Progress, Pulled
from coordinator.raft.core.state import State


class Offers:
    """The leader's part in the transfers of states between members."""

    def __init__(self, state: State) -> None:
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._roster = state.roster

    def offer(self, node: Node) -> None:
        """Tell a peer where the log here begins. This is its heartbeat too."""
        first = self._log.first_index
        message = {
            "type": "state_offer",
            "term": self._library.term,
            "index": first,
            "index_term": self._log.term_at(first),
            "joined": node.id in self._roster.joined,
        }
        self._library.send(node, message)

    def on_underway(self, node: Node, progress: Progress, message: dict[str, Any]) -> None:
        """Note which state a peer pulls, and say whether the log here goes on from its end."""
        end, library = Position(message["index"], message["index_term"]), self._library
        if not end.index:
            return
        fits = self._goes_on_from(end)
        if fits:
            until = self._environment.now() + PULL_S
            progress.pulled = Pulled(end.index, message["total"], until)
        vetted = {"type": "state_vetted", "term": library.term, "index": end.index}
        library.send(node, {**vetted, "index_term": end.term, "fits": fits})

    def _goes_on_from(self, end: Position) -> bool:
        return self._log.agrees(end) and end.index <= self._library.commit_index
