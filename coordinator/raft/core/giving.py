"""Give this member's state to members that ask for it: the dump in place, and behind it a copy of
the own store (R6). Any member does that, not the leader alone.

Never gives a state that the replica is not sure of, and holds a member's other messages up behind
no chunk: the transport carries them on a connection of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from pysyncobj.node import Node

from coordinator.raft.core.environment import log
from coordinator.raft.core.state import State
from coordinator.raft.storage.snapshot_stream import Outgoing

CHUNK_BYTES: Final = 256 << 10
"""Bytes of one chunk: the loop does nothing else while it reads one and computes its digest."""
WINDOW_CHUNKS: Final = 4
"""Chunks that are sent ahead of what the other member has acknowledged."""
BURST_S: Final = 0.1
"""Seconds of the allowed rate that may be made up for when chunks were late: ticks are not more
punctual.
"""
PARK_S: Final = 30.0
"""Seconds that a copy of the store stays open for a member that asks for nothing more."""
GIVES_MAX: Final = 2
"""Members that may be given the state at once: each needs room for a copy of the store here."""


class Give:
    """The state that one other member is given."""

    def __init__(self, node: Node, now: float) -> None:
        self.node, self.heard_at = node, now
        self.least = 0
        """The index at which the state must end, or later."""
        self.outgoing: Outgoing | None = None
        self.opening: object | None = None
        """A token of the attempt to copy the store; None: none is being copied."""
        self.asked = -1
        """The offset that was asked for last."""
        self.next = 0
        """The offset of the next chunk."""
        self.next_chunk_at = float("-inf")
        """The monotonic time before which the rate limit allows no further chunk."""

    @property
    def waits_for_dump(self) -> bool:
        """Whether the dump in place ends too early for what was asked."""
        return self.outgoing is None and self.opening is None

    def drop(self) -> None:
        """Release the copy, or the attempt to make one."""
        if self.outgoing is not None:
            self.outgoing.close()
        self.outgoing, self.opening = None, None
        self.asked, self.next, self.next_chunk_at = -1, 0, float("-inf")


class Giving:
    """The giving side of all transfers of a state."""

    def __init__(self, state: State, lacks: Callable[[], bool], *, bytes_per_s: float) -> None:
        """`lacks` says whether this member itself is without a usable state. `bytes_per_s` bounds
        the rate at which one member is given the state.
        """
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._eligibility, self._lacks, self._rate = state.eligibility, lacks, bytes_per_s
        self.gives: dict[str, Give] = {}

    @property
    def load(self) -> int:
        """How much this member has to do for others: what they choose by whom to ask."""
        return 2 * len(self.gives) + self._library.leads

    def wanted_beyond(self, index: int) -> bool:
        """Say whether a member waits for a dump that ends after `index`."""
        return any(give.waits_for_dump and give.least > index for give in self.gives.values())

    # ------------------------------------------------------------------------------------ asked

    def on_wanted(self, node: Node, message: dict[str, Any]) -> None:
        """Go on with a transfer, begin one, or say why there is none."""
        give, id = self.gives.get(node.id), message["id"]
        if id and (give is None or give.outgoing is None or give.outgoing.id != id):
            self._answer(node, problem="it is not held here any more", id=id)
            return
        if give is None:
            problem = self._problem(message["least"])
            if problem:
                self._answer(node, problem=problem)
                return
            give = self.gives[node.id] = Give(node, self._environment.now())
        elif not id and self._library.applied_index < message["least"]:
            self._answer(node, problem="its state ends too early")
            return
        give.heard_at = self._environment.now()
        if give.outgoing is None or (not id and give.outgoing.header.index < message["least"]):
            self._prepare(give, message["least"])
            return
        offset = message["offset"] if id else 0
        if offset >= give.outgoing.total:
            give.drop()  # it has all of it
            del self.gives[node.id]
            return
        if offset <= give.asked or offset > give.next:
            give.next = offset  # what followed was lost, or is here already
        give.asked = offset
        self._send(give)

    def _problem(self, least: int) -> str:
        """Return why a state that ends at `least` or later cannot be given; empty if it can."""
        if self._log.resting or self._lacks() or self._eligibility.unfit is not None:
            return "it has no usable state itself"
        if self._library.applied_index < least:
            return "its state ends too early"
        return "it is busy with others" if len(self.gives) >= GIVES_MAX else ""

    def _prepare(self, give: Give, least: int) -> None:
        """Open the dump in place with a copy of the store, or wait for a dump that ends late
        enough; tell the other member which it will be.
        """
        if give.outgoing is not None:
            give.drop()
        environment, newest = self._environment, self._environment.snapshots.newest
        give.least = least
        if newest is None or newest.index < least:
            environment.wake()  # for one to be made
            self._answer(give.node)
            return
        self._answer(give.node, index=newest.index, term=newest.term)
        if give.opening is not None:
            return
        attempt = give.opening = object()
        environment.spawn(
            environment.snapshots.outgoing_with(environment.replica.attach),
            lambda outgoing, exc: self._on_open(give, attempt, outgoing, exc),
        )

    def _on_open(
        self, give: Give, attempt: object, outgoing: Outgoing | None, exc: BaseException | None
    ) -> None:
        """Begin to send, unless the other member was given up meanwhile."""
        if give.opening is not attempt:
            if outgoing is not None:
                outgoing.close()
            return
        give.opening = None
        if outgoing is None:
            log.warning("state not given", member=self._environment.member, error=str(exc))
            del self.gives[give.node.id]
            self._answer(give.node, problem=str(exc) or type(exc).__name__)
            return
        self._environment.count("states_given")
        give.outgoing, give.heard_at = outgoing, self._environment.now()
        give.asked = 0
        self._send(give)

    def _answer(
        self, node: Node, *, index: int = 0, term: int = 0, problem: str = "", id: bytes = b""
    ) -> None:
        message = {"type": "state_answer", "id": id, "index": index, "index_term": term}
        self._library.send(node, {**message, "problem": problem[:1000]})

    # ------------------------------------------------------------------------------------- send

    def tick(self) -> None:
        """Send what the rate allows by now, and drop what nobody asks for any more."""
        now = self._environment.now()
        for give in list(self.gives.values()):
            if now > give.heard_at + PARK_S and give.opening is None:
                give.drop()
                del self.gives[give.node.id]
            elif give.outgoing is not None:
                self._send(give)

    def next_due(self) -> float:
        """Return the monotonic time at which a chunk is due; infinity: none is."""
        due = (give.next_chunk_at for give in self.gives.values() if self._has_more(give))
        return min(due, default=float("inf"))

    def _has_more(self, give: Give) -> bool:
        outgoing = give.outgoing
        if outgoing is None:
            return False
        return give.next < min(outgoing.total, give.asked + WINDOW_CHUNKS * self._chunk_bytes)

    @property
    def _chunk_bytes(self) -> int:
        return min(CHUNK_BYTES, self._library.conf.logCompactionBatchSize)

    def _send(self, give: Give) -> None:
        now, outgoing = self._environment.now(), give.outgoing
        while outgoing is not None and self._has_more(give) and now >= give.next_chunk_at:
            chunk = outgoing.chunk(give.next, self._chunk_bytes)
            message = {
                "type": "state_chunk",
                "index": outgoing.header.index,
                "index_term": outgoing.header.term,
                "id": chunk.id,
                "offset": chunk.offset,
                "total": chunk.total,
                "content": chunk.content,
                "dump_bytes": chunk.dump_bytes,
            }
            give.next += len(chunk.content)
            begin = max(give.next_chunk_at, now - BURST_S)
            give.next_chunk_at = begin + len(chunk.content) / self._rate
            if not self._library.send(give.node, message):
                return  # it will ask again, and say from where

    def close(self) -> None:
        """Release all copies, because this member stops."""
        for give in self.gives.values():
            give.drop()
        self.gives.clear()
