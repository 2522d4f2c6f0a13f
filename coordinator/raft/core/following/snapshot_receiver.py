"""Receive a snapshot, from the leader, or from any member with the copy of its own store: collect
the chunks, verify the whole, and load it before it replaces the old one.

Never acknowledges a snapshot before it is in place, and refuses one that is older than what this
member holds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pysyncobj.node import Node

from coordinator.log import Position
from coordinator.raft.core.environment import log
from coordinator.raft.core.following.follower import Follower
from coordinator.raft.core.following.pull import Pull
from coordinator.raft.core.following.rebuild import Rebuild
from coordinator.raft.core.following.transfer import Transfer
from coordinator.raft.core.rules.membership import ConfigurationHistory, decode_configuration
from coordinator.raft.core.state import State
from coordinator.raft.storage.snapshot_stream import Chunk, Incoming
from kv.errors import InvariantViolated


class SnapshotReceiver:
    """The follower's side of a snapshot transfer."""

    def __init__(
        self,
        state: State,
        transfer: Transfer,
        pull: Pull,
        rebuild: Rebuild,
        follower: Follower,
        *,
        on_installed: Callable[[Position], None],
    ) -> None:
        """`on_installed` is called when a snapshot has replaced the log, with the snapshot's end:
        the outcome of commands that wait for an entry up to there is not known here.
        """
        self._library, self._environment, self._log = state.pysyncobj, state.environment, state.log
        self._eligibility, self._transfer, self._pull = state.eligibility, transfer, pull
        self._rebuild, self._follower, self._on_installed = rebuild, follower, on_installed
        self._sender: tuple[Node | None, int] = None, 0
        """The leader that sent the snapshot that is being put in place, or that said that its log
        goes on from there, and its term.
        """

    def on_install_snapshot(self, node: Node, message: dict[str, Any]) -> None:
        """Accept a chunk; after the last one, verify the snapshot in a task."""
        raft_log, transfer = self._log, self._transfer
        if not self._follower.follow(node, message) or raft_log.resting:
            return
        promised = Position(message["index"], message["index_term"])
        inside, held = raft_log.holds(promised.index), raft_log.agrees(promised)
        committed = promised.index <= self._library.commit_index
        if inside and not held and committed:
            # Our committed entries differ from the leader's, so our log is not the cluster's. The
            # snapshot is taken even though it ends before our log does.
            self._environment.count("overwrites")
            self._follower.wipe()
        elif (committed or held) and not (transfer.fetching and held):
            # We hold all of it: its end is committed here, or the same entry is in our log, so our
            # log equals the leader's up to there.
            self._follower.verify_to(promised.index)
            transfer.drop()
            self._follower.acknowledge(node)
            transfer.want(node, message["id"], message["total"])
            return
        incoming = transfer.begin(message["id"])
        chunk = Chunk(message["id"], message["offset"], message["total"], message["serialized"])
        wanted = incoming.accept(chunk)
        transfer.want(node, chunk.id, wanted)
        if wanted >= chunk.total:
            self._verify(node, incoming, promised)

    def on_state_offer(self, node: Node, message: dict[str, Any]) -> None:
        """Begin to pull a state, unless our log reaches the leader's."""
        raft_log = self._log
        if not self._follower.follow(node, message):
            return
        self._pull.tell_leader()
        if raft_log.resting:
            return
        begin = Position(message["index"], message["index_term"])
        inside, held = raft_log.holds(begin.index), raft_log.agrees(begin)
        committed = begin.index <= self._library.commit_index
        if inside and not held and committed:
            # Our committed entries differ from the leader's, so our log is not the cluster's.
            self._environment.count("overwrites")
            self._follower.wipe()
        elif committed or held:
            self._follower.verify_to(begin.index)
            self._pull.withdraw()
            self._follower.acknowledge(node)
            return
        self._pull.offer(begin.index)

    def on_state_chunk(self, node: Node, message: dict[str, Any]) -> None:
        """Accept a chunk of a state that is pulled, and ask for what follows."""
        pull, end = self._pull, Position(message["index"], message["index_term"])
        if not pull.arrived(node, end, message["total"]):
            return
        chunk = Chunk(
            message["id"],
            message["offset"],
            message["total"],
            message["content"],
            message["dump_bytes"],
        )
        incoming = self._transfer.begin(chunk.id)
        before = incoming.offset
        wanted = incoming.accept(chunk)
        if not incoming.possible(chunk):
            pull.avoid("what it sends is no state", refused=True)
        elif not wanted and (before or not chunk.offset):
            pull.pause("there is no room for it")
        else:
            pull.taken(wanted)
            self.maybe_use()

    def on_state_vetted(self, node: Node, message: dict[str, Any]) -> None:
        """Take the leader's word on where a state ends that is pulled."""
        self._pull.on_vetted(node, message)
        self.maybe_use()

    def maybe_use(self) -> None:
        """Put a pulled state in place if all of it is here, and a log goes on from its end."""
        pull, incoming, end = self._pull, self._transfer.incoming, self._pull.promised
        if incoming is None or end is None or self._log.resting or not pull.usable:
            return
        self._verify(None if pull.vetted is None else pull.vetted.leader, incoming, end)

    def _verify(self, node: Node | None, incoming: Incoming, promised: Position) -> None:
        # A log that holds the snapshot's end stays, and goes on growing meanwhile.
        self._log.rest(keep=self._log.agrees(promised))
        self._sender = node, self._library.term
        self._environment.spawn(
            self._load(incoming, promised),
            lambda history, exc: self._on_loaded(node, incoming, promised, history, exc),
        )

    async def _load(self, incoming: Incoming, promised: Position) -> ConfigurationHistory:
        """Verify what was received, and let the replica take it: its own store first, then its
        machine. Return the configuration in the snapshot.

        Raises ValueError, OSError or BackendUnavailable, with the replica as it was.
        """
        found = await incoming.finish()
        if Position(found.header.index, found.header.term) != promised:
            raise ValueError("the snapshot is not the one that was announced")
        configuration = decode_configuration(found.header.config)
        state = incoming.attached()
        try:
            await self._environment.replica.install(found.body, state)
        finally:
            if state is not None:
                state.close()
        if self._log.agrees(promised):
            # The replica is there now, and may have been further: what it had applied above does
            # not count for those who read before the snapshot is in place.
            self._log.apply_to(promised)
        return ConfigurationHistory(configuration, found.header.index)

    def _on_loaded(
        self,
        node: Node | None,
        incoming: Incoming,
        promised: Position,
        history: ConfigurationHistory,
        exc: BaseException | None,
    ) -> None:
        """Put the snapshot in place behind the replica that has taken it. If it has not, the old
        one stays, nothing is acknowledged, and the transfer starts over.
        """
        if exc is not None:
            self._log.go_on()
            self._refuse(node, exc)
            self._environment.wake()
            return
        self._environment.spawn(
            incoming.install(),
            lambda _, failed: self._on_in_place(node, promised, history, failed),
        )

    def _refuse(self, node: Node | None, exc: BaseException) -> None:
        """Drop what could not be used. A state that is none is wanted of another member; one that
        finds no room here, later.
        """
        source = self._pull.source or node
        sender = "" if source is None else source.id
        log.warning(
            "snapshot refused", member=self._environment.member, sender=sender, error=str(exc)
        )
        self._environment.count("snapshots_refused")
        if self._pull.source is None:
            assert node is not None
            self._transfer.refuse(node)
        elif isinstance(exc, ValueError):
            self._pull.avoid(str(exc), refused=True)
        else:
            self._pull.pause(str(exc))

    def _on_in_place(
        self,
        node: Node | None,
        base: Position,
        history: ConfigurationHistory,
        failed: BaseException | None,
    ) -> None:
        self._log.go_on()
        self._transfer.end()
        if failed is not None:
            raise InvariantViolated(
                "a snapshot was restored but could not be put in place"
            ) from failed
        self._transfer.stop_fetching()
        self._pull.end()
        if self._log.agrees(base):
            self._go_on_from(node, base)
            return
        self._rebuild.begin_at(base, history)
        self._eligibility.hold_something()
        # Under the policies interval and off, a leader elected meanwhile may lack entries that are
        # in this snapshot. Its log is therefore compared afresh, entry by entry.
        same = (self._library.leader, self._library.term) == self._sender
        self._follower.verify_only(base.index if same else 0)
        self._environment.count("snapshots_installed")
        member = self._environment.member
        log.info("snapshot installed", member=member, index=base.index, term=base.term)
        self._on_installed(base)
        if same and node is not None and self._log.synced_index >= base.index:
            self._follower.acknowledge(node)
        self._log.maybe_sync()
        self._environment.wake()

    def _go_on_from(self, node: Node | None, base: Position) -> None:
        """Continue from a fetched snapshot: keep the log, which holds the snapshot's last entry,
        and apply it again from there.
        """
        if base.index > self._library.commit_index:
            self._log.commit_to(base.index)
        self._log.apply_to(base)
        self._on_installed(base)
        self._environment.count("snapshots_fetched")
        log.info(
            "machine built anew from another member's snapshot",
            member=self._environment.member,
            index=base.index,
        )
        if node is not None and self._library.leader == node:
            self._follower.acknowledge(node)
        self._environment.wake()
