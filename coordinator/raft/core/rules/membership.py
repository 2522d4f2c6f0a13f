"""Decide membership changes: one server at a time (Ongaro 2014, chapter 4), and none while it is
unsafe.

Never sends anything and never changes a configuration in place. A configuration is in force from
the moment its entry is in the log, committed or not, until that entry is truncated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias, assert_never

import msgspec

from coordinator.log import PeerAddress
from coordinator.raft.core.rules.replication import majority
from coordinator.raft.net.peer_identity import Origin, digest_of_voters

MEMBERS_MAX = 32
RETIRED_MAX = 1024
LAG_MAX = 1000
"""Number of entries that an observer may be behind when it is promoted."""


class Seat(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A member. `joined` says that it has acknowledged the log once, so that an empty disk under
    this id means that its disk was lost.
    """

    id: str
    address: str
    voter: bool = True
    joined: bool = False


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """All members, sorted by id, and the removed ids, which are never used again.

    `origin` says what this log began from. The first leader sets it (`founded`), and it never
    changes.
    """

    seats: tuple[Seat, ...]
    retired: tuple[str, ...] = ()
    origin: Origin = Origin()

    @property
    def voters(self) -> tuple[str, ...]:
        """The ids of the voters, sorted."""
        return tuple(seat.id for seat in self.seats if seat.voter)

    def seat(self, member: str) -> Seat | None:
        """Return the seat of a member; None if it is not one."""
        return next((seat for seat in self.seats if seat.id == member), None)

    def votes(self, member: str) -> bool:
        """Say whether a member is a voter."""
        seat = self.seat(member)
        return seat is not None and seat.voter


def bootstrap(members: Iterable[PeerAddress]) -> Configuration:
    """Return the configuration that a cluster begins with; all members must be given the same."""
    return Configuration(tuple(sorted(Seat(m.id, m.address, m.voter) for m in members)))


def founded(now: Configuration, history: bytes, first: bytes) -> Configuration:
    """Return the configuration `now` with the origin (history, first) added."""
    return msgspec.structs.replace(now, origin=Origin(history, first))


def first_digest(members: Iterable[PeerAddress], own: str) -> bytes:
    """Return the digest of the list of first members that the member `own` was given. It is empty
    for one that joins as an observer, which claims nothing about the first list.
    """
    listed = tuple(members)
    if not any(m.id == own and m.voter for m in listed):
        return b""
    return digest_of_voters(m.id for m in listed if m.voter)


class Add(msgspec.Struct, frozen=True, tag="a"):
    """Add a new member as an observer."""

    id: str
    address: str


class Promote(msgspec.Struct, frozen=True, tag="p"):
    """Make an observer a voter."""

    id: str


class Remove(msgspec.Struct, frozen=True, tag="r"):
    """Remove a member for ever."""

    id: str


class Move(msgspec.Struct, frozen=True, tag="m"):
    """Record a member's new address. The leader requests this itself when the member has connected
    from there; it does not change the set of voters.
    """

    id: str
    address: str


class Join(msgspec.Struct, frozen=True, tag="j"):
    """Record that members have acknowledged the log. The leader requests this itself; it does not
    change the set of voters.
    """

    ids: tuple[str, ...]


Change: TypeAlias = Add | Promote | Remove | Move | Join
_change_decoder: msgspec.msgpack.Decoder[Change] = msgspec.msgpack.Decoder(
    Add | Promote | Remove | Move | Join
)
_decode_configuration = msgspec.msgpack.Decoder(Configuration).decode
encode = msgspec.msgpack.Encoder().encode


def decode_change(change: bytes) -> Change:
    """Decode a change. Raises ValueError if the bytes are no change."""
    try:
        return _change_decoder.decode(change)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(f"no membership change: {exc}") from exc


def decode_configuration(configuration: bytes) -> Configuration:
    """Decode a configuration. Raises ValueError if the bytes are no configuration."""
    try:
        return _decode_configuration(configuration)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError(f"no configuration: {exc}") from exc


class Situation(NamedTuple):
    """What the leader knows when it judges a change."""

    leader: str
    pending: bool
    """Whether the configuration in force is not committed yet."""
    own_term_committed: bool
    live: frozenset[str]
    """The members heard within one election time-out, including the leader."""
    lag: Mapping[str, int]
    """Number of entries that each other member is behind, where known."""
    troubles: Mapping[str, str] = {}
    """A message that says why a member is not connected, where known."""


class Refusal(NamedTuple):
    """A refused change. `reason` is for an operator; `later` says that the same request may succeed
    later without any other action.
    """

    reason: str
    later: bool = False


class Already(NamedTuple):
    """A change that would change nothing, because the configuration is already as requested."""


def decide(
    now: Configuration, change: Change, situation: Situation
) -> Configuration | Already | Refusal:
    """Return the configuration that a change leads to, or why it is refused or not needed.

    Invariant: the new configuration differs from `now` by at most one voter, so that every majority
    of one intersects every majority of the other; and if its voters differ, a majority of them is
    alive, so that the change can commit.
    """
    if not situation.own_term_committed:
        return Refusal("the leader has not yet committed an entry of its own term", later=True)
    if situation.pending:
        return Refusal("the previous membership change is not committed yet", later=True)
    match change:
        case Add():
            return _add(now, change)
        case Promote():
            return _promote(now, change, situation)
        case Remove():
            return _remove(now, change, situation)
        case Join():
            seats = tuple(
                Seat(seat.id, seat.address, seat.voter, seat.joined or seat.id in change.ids)
                for seat in now.seats
            )
            return Already() if seats == now.seats else msgspec.structs.replace(now, seats=seats)
        case Move():
            return _move(now, change)
        case _:
            assert_never(change)


def _add(now: Configuration, change: Add) -> Configuration | Already | Refusal:
    seat = now.seat(change.id)
    if seat is not None:
        if seat.address == change.address:
            return Already()
        return Refusal(
            f"{change.id} is a member already, at {seat.address}; one that has moved is found "
            "when it is started with its new address"
        )
    if change.id in now.retired:
        return Refusal(
            f"{change.id} was removed; a removed id never comes back, add the member under a new id"
        )
    for other in now.seats:
        if other.address == change.address:
            return Refusal(
                f"{change.address} is the address of {other.id}; remove that member first"
            )
    if len(now.seats) >= MEMBERS_MAX:
        return Refusal(f"there are {MEMBERS_MAX} members already, which is the most allowed")
    return _replace(now, Seat(change.id, change.address, voter=False))


def _move(now: Configuration, change: Move) -> Configuration | Already | Refusal:
    seat = now.seat(change.id)
    if seat is None:
        return Refusal(f"{change.id} is not a member")
    if seat.address == change.address:
        return Already()
    for other in now.seats:
        if other.address == change.address:
            return Refusal(f"{change.address} is the address of {other.id}")
    return _replace(now, msgspec.structs.replace(seat, address=change.address))


def _promote(
    now: Configuration, change: Promote, situation: Situation
) -> Configuration | Already | Refusal:
    seat = now.seat(change.id)
    if seat is None:
        return Refusal(f"{change.id} is not a member")
    if seat.voter:
        return Already()
    lag = situation.lag.get(change.id)
    if change.id not in situation.live or lag is None:
        why = situation.troubles.get(change.id) or "it has not connected"
        return Refusal(
            f"{change.id} is a member, not yet a voter: it is not heard ({why})", later=True
        )
    if lag > LAG_MAX:
        behind = f"it is {lag} entries behind, more than {LAG_MAX}"
        return Refusal(f"{change.id} is a member, not yet a voter: {behind}", later=True)
    return _if_alive(
        _replace(now, Seat(seat.id, seat.address, voter=True, joined=seat.joined)), situation
    )


def _remove(
    now: Configuration, change: Remove, situation: Situation
) -> Configuration | Already | Refusal:
    seat = now.seat(change.id)
    if seat is None:
        return Already() if change.id in now.retired else Refusal(f"{change.id} is not a member")
    if change.id == situation.leader:
        return Refusal(f"{change.id} leads; transfer the leadership first", later=True)
    if len(now.retired) >= RETIRED_MAX:
        return Refusal(
            f"{RETIRED_MAX} members have been removed already, which is the most remembered"
        )
    rest = tuple(other for other in now.seats if other.id != change.id)
    retired = (*now.retired, change.id)
    if not seat.voter:
        return Configuration(rest, retired, now.origin)
    return _if_alive(Configuration(rest, retired, now.origin), situation)


def _if_alive(following: Configuration, situation: Situation) -> Configuration | Refusal:
    voters = following.voters
    live = sum(voter in situation.live for voter in voters)
    needed = majority(len(voters))
    if not voters or live < needed:
        return Refusal(
            f"only {live} of the then {len(voters)} voters are heard, {needed} are needed",
            later=True,
        )
    return following


def _replace(now: Configuration, seat: Seat) -> Configuration:
    others = (other for other in now.seats if other.id != seat.id)
    return msgspec.structs.replace(now, seats=tuple(sorted((*others, seat))))


class ConfigurationHistory:
    """The configurations that the log holds, oldest first, with the index of each entry.

    Invariant: the first configuration (the base) is committed: it is a snapshot's, or the bootstrap
    list at index 0. The indexes rise.
    """

    def __init__(self, base: Configuration, index: int = 0) -> None:
        self._held: list[tuple[int, Configuration]] = [(index, base)]

    @property
    def newest(self) -> Configuration:
        """The configuration in force."""
        return self._held[-1][1]

    @property
    def newest_index(self) -> int:
        """The index of the entry of the configuration in force; 0: it is the bootstrap list."""
        return self._held[-1][0]

    def at(self, index: int) -> Configuration:
        """Return the configuration that was in force at `index`."""
        return next(
            (held for since, held in reversed(self._held) if since <= index), self._held[0][1]
        )

    @property
    def seats(self) -> tuple[Seat, ...]:
        """The seats of all configurations, sorted by id; of several seats of one id, the newest.

        All these members must be reachable, because an older configuration is in force again when
        the newest is truncated.
        """
        found: dict[str, Seat] = {}
        for _, configuration in reversed(self._held):
            for seat in configuration.seats:
                found.setdefault(seat.id, seat)
        return tuple(found[member] for member in sorted(found))

    def append(self, index: int, configuration: Configuration) -> None:
        """Put a configuration in force from the entry at `index` on."""
        self.truncate(index)
        self._held.append((index, configuration))

    def truncate(self, index: int) -> bool:
        """Forget the configurations at or above `index`, but never the base; say whether there were
        any.
        """
        kept = [held for held in self._held[1:] if held[0] < index]
        changed = len(kept) + 1 != len(self._held)
        self._held[1:] = kept
        return changed

    def compact(self, index: int) -> None:
        """Make the configuration in force at `index` the base, and forget older ones."""
        while len(self._held) > 1 and self._held[1][0] <= index:
            del self._held[0]
