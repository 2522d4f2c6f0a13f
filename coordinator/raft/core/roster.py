"""Know the members: the configuration in force, who of them is reached, and who once was one.

Never decides a change (rules/membership.py does) and never counts anybody: a configuration is in
force from the append of its entry to its truncation (Ongaro 2014, section 4.1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pysyncobj.node import Node

from coordinator.log import PeerAddress
from coordinator.raft.core.library import MEMBERSHIP, Library, Record
from coordinator.raft.core.rules.membership import (
    Configuration,
    ConfigurationHistory,
    decode_configuration,
)
from coordinator.raft.net.peer_identity import Origin
from kv.errors import NewerCommand


def configuration_at(index: int, command: bytes) -> Configuration:
    """Return what an entry of membership says. Raises NewerCommand: a later version wrote it, in a
    log or on a disk.
    """
    try:
        return decode_configuration(command[1:])
    except ValueError as exc:
        raise NewerCommand(f"a configuration that this version cannot read, at {index}") from exc


class Roster:
    """The members as this member's log has them, and the nodes that stand for them."""

    def __init__(self, library: Library, configuration: Configuration, first: bytes) -> None:
        """`first`: the digest of the list of first members that this one was given
        (rules.membership.first_digest).
        """
        self._library, self._bootstrap, self._first = library, configuration, first
        self.id = library.selfNode.id
        self.history = ConfigurationHistory(configuration)
        self._nodes: dict[str, Node] = {self.id: library.selfNode}
        for node in library.first_peers:
            self._nodes[node.id] = node
        self.voters: tuple[Node, ...] = ()
        """The other voters, by id."""
        self.peers: tuple[Node, ...] = ()
        """All other members, by id."""
        self.joined: frozenset[str] = frozenset()
        """Who of them has acknowledged the log once."""
        self.votes = False
        """This member is a voter by the configuration in force."""
        self.on_added: Callable[[Node], None] = lambda node: None
        """Called for each member that comes into force."""

    # --------------------------------------------------------------------------- who is a member

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
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
    def voter_ids(self) -> tuple[str, ...]:
        """The ids of all voters, this member among them if it is one."""
        return self.configuration.voters

    @property
    def addresses(self) -> tuple[PeerAddress, ...]:
        """Who the members are, and where."""
        return tuple(
            PeerAddress(seat.id, seat.address, seat.voter) for seat in self.configuration.seats
        )

    @property
    def begun(self) -> bool:
        """Say whether a log is held that says who its members are: it is past any doubt about first
        lists.
        """
        return self.history.newest_index > 0

    @property
    def origin(self) -> Origin:
        """What this log began from, as far as that is committed; else what this member was told of
        the first list.

        A log that is older than origins are claims nothing.
        """
        committed = self.committed.origin
        if committed.history:
            return committed
        # What is held and not known to be committed may still be cut off; whoever wrote it began
        # with those members.
        return Origin(b"", self.configuration.origin.first if self.begun else self._first)

    @property
    def first(self) -> bytes:
        """The digest of the list of first members that this one was given."""
        return self._first

    def retired(self, member: str) -> bool:
        """Say whether a member was removed for good: a removal that may still be cut off removes
        nobody.
        """
        return member in self.committed.retired

    # --------------------------------------------------------------------------- how that changes

    def append(self, index: int, configuration: Configuration) -> None:
        """Put in force what an entry at `index` says."""
        self.history.append(index, configuration)
        self.configure()

    def truncate(self, index: int) -> None:
        """Put out of force what the entries from `index` on said."""
        if self.history.truncate(index):
            self.configure()

    def replace(self, history: ConfigurationHistory) -> None:
        """Go by another log's configurations."""
        self.history = history
        self.configure()

    def compact(self, index: int) -> None:
        """Forget what was in force before `index`: a snapshot says what is there."""
        self.history.compact(index)

    def start_anew(self) -> None:
        """Go by the members that the cluster began with: nothing of the log is left."""
        self.replace(ConfigurationHistory(self._bootstrap))

    def read_from(self, entries: Iterable[Record]) -> None:
        """Go by a whole log, and by nothing that is not in it."""
        history = ConfigurationHistory(
            self._bootstrap
        )  # the base that was may be an overwritten snapshot's
        for command, index, _ in entries:
            if command[:1] == MEMBERSHIP:
                history.append(index, configuration_at(index, command))
        self.replace(history)

    def configure(self) -> None:
        """Count and reach the members of the configuration in force.

        Who is none of its members is not dialled any more. If the entry is cut off, it is dialled
        again.
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
        self._library.set_members(self.voters, set(self.peers) - set(self.voters))
        for node in added:
            self._library.transport.addNode(node)
            self.on_added(node)
        self._let_rest()

    # -------------------------------------------------------------------------- who is reached

    def node(self, member: str) -> Node | None:
        """Return the node that stands for a member; None: nobody is known by that id."""
        return self._nodes.get(member)

    @property
    def known(self) -> Iterable[tuple[str, Node]]:
        """All that a connection may be with, this member included, in the order they were met."""
        return self._nodes.items()

    def meet(self, node: Node) -> Node:
        """Return the node that stands for whoever a message or a connection is from."""
        return self._nodes.setdefault(node.id, node)

    def leave(self, member: str) -> Node | None:
        """Forget a removed member; return the node that stood for it."""
        return self._nodes.pop(member, None)

    def reach(self, member: str, address: str) -> None:
        """Let a member connect with us, in force or not: a leader may be none of ours yet (section
        4.1).
        """
        if member == self.id or self.retired(member):
            return
        if member not in self._nodes:
            self._nodes[member] = self._library.make_node(member, address)
        self._library.transport.addNode(self._nodes[member])
        self._let_rest()

    def _let_rest(self) -> None:
        """Do not dial who is removed by what the log says now; if that is cut off, it is dialled
        again.
        """
        rest = getattr(self._library.transport, "rest", None)
        for member in self.configuration.retired:
            if rest is not None and member in self._nodes:
                rest(self._nodes[member])

    def contacts(self, configuration: Configuration) -> dict[str, Any]:
        """Return the message that says where members are."""
        seats = [(seat.id, seat.address) for seat in configuration.seats]
        return {"type": "contacts", "members": seats}

    def connected(self, member: str) -> bool:
        """Say whether a member is connected."""
        return self._nodes.get(member) in self._library.connected_nodes

    def reported_address(self, member: str) -> str:
        """Return where a connected member says it is reached; empty: it does not say."""
        node, ask = self.node(member), getattr(self._library.transport, "reported_address", None)
        if member == self.id:
            return str(getattr(self._library.selfNode, "address", ""))
        return (
            ""
            if node is None or ask is None or node not in self._library.connected_nodes
            else ask(node)
        )

    def trouble(self, member: str) -> str:
        """Return why a member is not connected, in words, as far as is known."""
        node, ask = self.node(member), getattr(self._library.transport, "trouble", None)
        return "" if node is None or ask is None else ask(node)
