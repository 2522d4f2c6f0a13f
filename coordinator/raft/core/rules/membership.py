"""Decide membership: one single-server change at a time (Ongaro 2014, chapter 4), refused while
unsafe.

Never talks to anyone and never changes a configuration in place. A configuration is in force from
the moment its entry is in the log, committed or not, and out of force when that entry is truncated.
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
"""Entries that an observer may be behind when it is promoted."""


class Seat(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A member. `joined`: it has acknowledged the log once, so an empty disk of that id is a lost
    one.
    """

    id: str
    address: str
    voter: bool = True
    joined: bool = False


class Configuration(msgspec.Struct, frozen=True, array_like=True):
    """All members, by id, and the ids that may never come back.

    `origin`: what this log began from; the first leader puts it in (`founded`), and it never
    changes.
    """

    seats: tuple[Seat, ...]
    retired: tuple[str, ...] = ()
    origin: Origin = Origin()

    @property
    def voters(self) -> tuple[str, ...]:
        """The ids of those who vote, in order."""
        return tuple(seat.id for seat in self.seats if seat.voter)

    def seat(self, member: str) -> Seat | None:
        """Return the seat of a member; None: it has none."""
        return next((seat for seat in self.seats if seat.id == member), None)

    def votes(self, member: str) -> bool:
        """Say whether a member votes."""
        seat = self.seat(member)
        return seat is not None and seat.voter


def bootstrap(members: Iterable[PeerAddress]) -> Configuration:
    """Return the configuration that a cluster begins with; every member must be given the same."""
    return Configuration(tuple(sorted(Seat(m.id, m.address, m.voter) for m in members)))


def founded(now: Configuration, history: bytes, first: bytes) -> Configuration:
    """Return the configuration with which a log says what it began from."""
    return msgspec.structs.replace(now, origin=Origin(history, first))


def first_digest(members: Iterable[PeerAddress], own: str) -> bytes:
    """Return what a member claims of the first list that it was given; who joins as an observer
    claims nothing.
    """
    listed = tuple(members)
    if not any(m.id == own and m.voter for m in listed):
        return b""
    return digest_of_voters(m.id for m in listed if m.voter)


class Add(msgspec.Struct, frozen=True, tag="a"):
    """Take a new member in as an observer."""

    id: str
    address: str


class Promote(msgspec.Struct, frozen=True, tag="p"):
    """Make an observer a voter."""

    id: str


class Remove(msgspec.Struct, frozen=True, tag="r"):
    """Take a member out for ever."""

    id: str


class Move(msgspec.Struct, frozen=True, tag="m"):
    """Note where a member is now (the leader's own request, once it was heard from there). It
    changes no voter.
    """

    id: str
    address: str


class Join(msgspec.Struct, frozen=True, tag="j"):
    """Note that members have acknowledged the log (the leader's own request). It changes no
    voter.
    """

    ids: tuple[str, ...]


Change: TypeAlias = Add | Promote | Remove | Move | Join
_change_decoder: msgspec.msgpack.Decoder[Change] = msgspec.msgpack.Decoder(
    Add | Promote | Remove | Move | Join
)
_decode_configuration = msgspec.msgpack.Decoder(Configuration).decode
encode = msgspec.msgpack.Encoder().encode


def decode_change(change: bytes) -> Change:
    """Return a change from its bytes. Raises ValueError."""
    try:
        return _change_decoder.decode(change)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ValueError(f"no membership change: {exc}") from exc


def decode_configuration(configuration: bytes) -> Configuration:
    """Return a configuration from its bytes. Raises ValueError."""
    try:
        return _decode_configuration(configuration)
    except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
        raise ValueError(f"no configuration: {exc}") from exc


class Situation(NamedTuple):
    """What the leader knows when it is asked."""

    leader: str
    pending: bool
    """A configuration lies above the commit index."""
    own_term_committed: bool
    live: frozenset[str]
    """Members heard within one election time-out, the leader included."""
    lag: Mapping[str, int]
    """Entries that each other member is known to be behind."""
    troubles: Mapping[str, str] = {}
    """Why there is no connection with a member, in words, where that is known."""


class Refusal(NamedTuple):
    """`reason` is for an operator; `later`: asking again may succeed without doing anything
    else.
    """

    reason: str
    later: bool = False


class Already(NamedTuple):
    """It is so already: nothing to change."""


def decide(
    now: Configuration, change: Change, situation: Situation
) -> Configuration | Already | Refusal:
    """Return the next configuration, or why not.

    Invariant: the next one differs by at most one voter, so its majorities and ours intersect; and
    a majority of its voters is alive, so the change can commit.
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

    Invariant: the first one is committed (a snapshot's, or the bootstrap at index 0); indexes rise.
    """

    def __init__(self, base: Configuration, index: int = 0) -> None:
        self._held: list[tuple[int, Configuration]] = [(index, base)]

    @property
    def newest(self) -> Configuration:
        """The configuration in force."""
        return self._held[-1][1]

    @property
    def newest_index(self) -> int:
        """Where the log holds the one in force; 0: it is the first list."""
        return self._held[-1][0]

    def at(self, index: int) -> Configuration:
        """Return the one in force for an entry at `index`."""
        return next(
            (held for since, held in reversed(self._held) if since <= index), self._held[0][1]
        )

    @property
    def seats(self) -> tuple[Seat, ...]:
        """All seats of all of them, by id, the newest first where an id has several.

        Whoever has one must be reachable: if the newest configuration is truncated, an older one is
        in force again.
        """
        found: dict[str, Seat] = {}
        for _, configuration in reversed(self._held):
            for seat in configuration.seats:
                found.setdefault(seat.id, seat)
        return tuple(found[member] for member in sorted(found))

    def append(self, index: int, configuration: Configuration) -> None:
        """Put one in force, from an entry on."""
        self.truncate(index)
        self._held.append((index, configuration))

    def truncate(self, index: int) -> bool:
        """Forget those at or above `index`; say whether there were any. The base stays."""
        kept = [held for held in self._held[1:] if held[0] < index]
        changed = len(kept) + 1 != len(self._held)
        self._held[1:] = kept
        return changed

    def compact(self, index: int) -> None:
        """Make the one in force at `index` the base."""
        while len(self._held) > 1 and self._held[1][0] <= index:
            del self._held[0]
