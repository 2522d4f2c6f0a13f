"""Keep track of the members: the configuration in force, the node that stands for each member, and
who was removed.

Never decides a change (rules/membership.py does) and never counts votes. A configuration is in
force from the moment its entry is appended until that entry is truncated (Ongaro 2014, section
4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pysyncobj.node import Node

from coordinator.log import PeerAddress
from coordinator.raft.core.durable_log import Record
from coordinator.raft.core.pysyncobj_library import MEMBERSHIP, Library
from coordinator.raft.core.rules.membership import (
    Configuration,
    ConfigurationHistory,
    bootstrap,
    decode_configuration,
)
from coordinator.raft.net.peer_identity import Origin
from kv.errors import NewerCommand


def configuration_at(index: int, command: bytes) -> Configuration:
    """Decode the configuration in a membership entry. Raises NewerCommand if it cannot be read: a
    later version wrote it.
    """
    try:
        return decode_configuration(command[1:])
    except ValueError as exc:
        raise NewerCommand(f"a configuration that this version cannot read, at {index}") from exc


class Roster:
    """The members according to this member's log, and the library's node for each of them."""

    def __init__(self, library: Library, configuration: Configuration | None, first: bytes) -> None:
        """Start from `configuration` (None: the members that the library knows); `first` is the
        digest of the list of first members that this member was given (membership.first_digest).
        """
        if configuration is None:
            ids = {library.selfNode.id, *(node.id for node in library.first_peers)}
            configuration = bootstrap(PeerAddress(member, member) for member in ids)
        self._library, self._bootstrap, self._first = library, configuration, first
        self.id = library.selfNode.id
        self.history = ConfigurationHistory(configuration)
        self._nodes: dict[str, Node] = {self.id: library.selfNode}
        for node in library.first_peers:
            self._nodes[node.id] = node
        self.voters: tuple[Node, ...] = ()
        """The other voters, sorted by id."""
        self.peers: tuple[Node, ...] = ()
        """All other members, sorted by id."""
        self.joined: frozenset[str] = frozenset()
        """The ids of the other members that have acknowledged the log at least once."""
        self.votes = False
        """Whether this member is a voter in the configuration in force."""
        self.voter_ids = configuration.voters
        """The ids of all voters, including this member if it is one."""
        self.all_joined = False
        """Whether all members have acknowledged the log at least once."""
        self.configured = 0
        """How often the configuration in force has changed."""
        self.on_added: Callable[[Node], None] = lambda node: None
        """Called for each peer that a new configuration adds."""

    # --------------------------------------------------------------------------- who is a member

    @property
    def configuration(self) -> Configuration:
        """The configuration in force."""
        return self.history.newest

    @property
    def committed(self) -> Configuration:
        """The newest configuration that is committed."""
        return self.history.at(self._library.commit_index)

    @property
    def pending(self) -> bool:
        """Say whether the configuration in force is not committed yet."""
        return self.history.newest_index > self._library.commit_index

    @property
    def addresses(self) -> tuple[PeerAddress, ...]:
        """The ids and addresses of the members."""
        return tuple(
            PeerAddress(seat.id, seat.address, seat.voter) for seat in self.configuration.seats
        )

    @property
    def begun(self) -> bool:
        """Say whether the log here names its members, so that a disagreement about the list of
        first members no longer matters.
        """
        return self.history.newest_index > 0

    @property
    def origin(self) -> Origin:
        """What this log began from, if that is committed; otherwise only the digest of the list of
        first members.

        A log that was begun before origins were recorded claims nothing.
        """
        committed = self.committed.origin
        if committed.history:
            return committed
        # The uncommitted entry may still be cut off, so its history is not claimed. The digest of
        # the first list may be: the leader that wrote the entry began with those members.
        return Origin(b"", self.configuration.origin.first if self.begun else self._first)

    @property
    def first(self) -> bytes:
        """The digest of the list of first members that this member was given."""
        return self._first

    def retired(self, member: str) -> bool:
        """Say whether a member was removed for good. Only a committed removal counts: an
        uncommitted one may still be cut off.
        """
        return member in self.committed.retired

    # --------------------------------------------------------------------------- how that changes

    def append(self, index: int, configuration: Configuration) -> None:
        """Put the configuration of the entry at `index` in force."""
        self.history.append(index, configuration)
        self.configure()

    def truncate(self, index: int) -> None:
        """Revoke the configurations of the entries from `index` on."""
        if self.history.truncate(index):
            self.configure()

    def replace(self, history: ConfigurationHistory) -> None:
        """Use the configurations of another log."""
        self.history = history
        self.configure()

    def compact(self, index: int) -> None:
        """Forget the configurations before the one in force at `index`, which a snapshot holds."""
        self.history.compact(index)

    def start_anew(self) -> None:
        """Return to the members that the cluster began with: the log was wiped."""
        self.replace(ConfigurationHistory(self._bootstrap))

    def read_from(self, entries: Iterable[Record]) -> None:
        """Rebuild the configurations from a whole log, and from nothing else."""
        history = ConfigurationHistory(
            self._bootstrap
        )  # the previous base may come from a snapshot that was overwritten
        for command, index, _ in entries:
            if command[:1] == MEMBERSHIP:
                history.append(index, configuration_at(index, command))
        self.replace(history)

    def configure(self) -> None:
        """Make voters, peers and connections follow the configuration in force.

        Removed members are no longer dialled. If the entry that removed them is cut off, they are
        dialled again.
        """
        seats = [seat for seat in self.configuration.seats if seat.id != self.id]
        before = {node.id for node in self.peers}
        added = []
        for seat in seats:
            if seat.id not in self._nodes:
                self._nodes[seat.id] = self._library.make_node(seat.id, seat.address)
            setattr(self._nodes[seat.id], "address", seat.address)  # noqa: B010 the library's Node takes any attribute
            if seat.id not in before:
                added.append(self._nodes[seat.id])
        self.peers = tuple(self._nodes[seat.id] for seat in seats)
        self.voters = tuple(self._nodes[seat.id] for seat in seats if seat.voter)
        self.votes = self.configuration.votes(self.id)
        self.joined = frozenset(seat.id for seat in seats if seat.joined)
        self.voter_ids = self.configuration.voters
        self.all_joined = all(seat.joined for seat in self.configuration.seats)
        self.configured += 1
        self._library.set_members(self.voters, set(self.peers) - set(self.voters))
        for node in added:
            self._library.transport.addNode(node)
            self.on_added(node)
        self._let_rest()

    # -------------------------------------------------------------------------- who is reached

    def node(self, member: str) -> Node | None:
        """Return the node that stands for a member; None if the id is unknown."""
        return self._nodes.get(member)

    @property
    def known(self) -> Iterable[tuple[str, Node]]:
        """All known (id, node) pairs, including this member, in the order they became known."""
        return self._nodes.items()

    def meet(self, node: Node) -> Node:
        """Return our node for the sender of a message or the other end of a connection."""
        return self._nodes.setdefault(node.id, node)

    def leave(self, member: str) -> Node | None:
        """Forget a removed member; return the node that stood for it, None if it was unknown."""
        return self._nodes.pop(member, None)

    def reach(self, member: str, address: str) -> None:
        """Dial a member and accept its connections, even if it is not in the configuration in
        force: our log may not have the entry yet that added the leader (section 4.1).

        Does nothing for this member itself and for removed members.
        """
        if member == self.id or self.retired(member):
            return
        if member not in self._nodes:
            self._nodes[member] = self._library.make_node(member, address)
        self._library.transport.addNode(self._nodes[member])
        self._let_rest()

    def _let_rest(self) -> None:
        """Stop dialling the members that the configuration in force lists as removed."""
        rest = getattr(self._library.transport, "rest", None)
        for member in self.configuration.retired:
            if rest is not None and member in self._nodes:
                rest(self._nodes[member])

    def contacts(self, configuration: Configuration) -> dict[str, Any]:
        """Return the message that tells peers the members' addresses."""
        seats = [(seat.id, seat.address) for seat in configuration.seats]
        return {"type": "contacts", "members": seats}

    def connected(self, member: str) -> bool:
        """Say whether a member is connected."""
        return self._nodes.get(member) in self._library.connected_nodes

    def reported_address(self, member: str) -> str:
        """Return the address that a connected member reports for itself; empty if unknown."""
        node, ask = self.node(member), getattr(self._library.transport, "reported_address", None)
        if member == self.id:
            return str(getattr(self._library.selfNode, "address", ""))
        return (
            ""
            if node is None or ask is None or node not in self._library.connected_nodes
            else ask(node)
        )

    def trouble(self, member: str) -> str:
        """Return a message that says why a member is not connected; empty if unknown."""
        node, ask = self.node(member), getattr(self._library.transport, "trouble", None)
        return "" if node is None or ask is None else ask(node)
