"""A cut that wipes the log leaves nothing that the entries at hand could follow (found by the
simulation).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pysyncobj.node import Node

from coordinator.raft.core.following.follower import Follower
from coordinator.raft.core.log import RaftLog
from coordinator.raft.core.pysyncobj_library import NO_OP
from coordinator.raft.core.rules.replication import LogEntry


class Log:
    """Entries 5 to 10; refuse a gap, as the journal does."""

    synced_index, resting, frozen = 1, False, False

    def __init__(self) -> None:
        self.entries = [(NO_OP, index, 1) for index in range(5, 11)]

    @property
    def first_index(self) -> int:
        return self.entries[0][1]

    @property
    def last_index(self) -> int:
        return self.entries[-1][1]

    def term_at(self, index: int) -> int:
        return self.entries[index - self.first_index][2]

    def append(self, command: bytes, index: int, term: int) -> None:
        if index != self.last_index + 1:
            raise ValueError(f"entry {index} does not follow {self.last_index}")
        self.entries.append((command, index, term))

    def cut_from(self, index: int) -> None: ...

    def maybe_sync(self, *, at_once: bool = False) -> None: ...


class Nothing:
    """Parts that have nothing to do with it."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def test_a_wiped_log_asks_for_everything_and_takes_nothing() -> None:
    """The log is wiped by any cut, as it is when no snapshot serves."""
    log, sent = Log(), list[dict[str, Any]]()
    library = SimpleNamespace(
        term=2,
        leads=False,
        commit_index=10,
        leader=None,
        applied_index=10,
        send=lambda node, message: sent.append(message),
    )

    def wipe(conflict: int) -> bool:
        log.entries[:] = [(NO_OP, 1, 0)]
        library.commit_index = library.applied_index = 1
        return False

    nothing = Nothing()
    state = SimpleNamespace(
        pysyncobj=library,
        environment=SimpleNamespace(count=nothing.count, wake=nothing.count, member="A"),
        log=log,
        roster=SimpleNamespace(id="A", truncate=nothing.truncate),
        eligibility=SimpleNamespace(blank=False, disk_lost=False),
    )
    elections = SimpleNamespace(follow=lambda node, term: True)
    rebuild = SimpleNamespace(start_again=wipe)
    follower = Follower(cast("Any", state), cast("Any", elections), cast("Any", rebuild))
    entries = [tuple(LogEntry(NO_OP, index, 2)) for index in (8, 9)]
    message = {
        "term": 2,
        "entries": entries,
        "prevLogIdx": 7,
        "prevLogTerm": 1,
        "commit_index": 9,
        "answer": True,
        "joined": False,
    }
    follower.on_append_entries(Node("B"), message)
    assert [entry[1] for entry in log.entries] == [1]
    assert [(said["next_node_idx"], said["reset"]) for said in sent] == [(2, True)]


def test_what_an_old_leader_verified_is_forgotten_before_the_new_term_is_stored() -> None:
    """A sync that ends while the term is stored must acknowledge nothing to the new leader."""
    old, new = Node("B"), Node("C")
    library = SimpleNamespace(term=1, leads=False, leader=old)
    nothing = Nothing()
    state = SimpleNamespace(
        pysyncobj=library,
        environment=nothing,
        log=nothing,
        roster=SimpleNamespace(id="A"),
        eligibility=SimpleNamespace(blank=False, disk_lost=False),
    )
    seen: list[int] = []

    def follow(node: Node, term: int) -> None:
        seen.append(follower._verified)

    elections = SimpleNamespace(follow=follow)
    follower: Follower = Follower(cast("Any", state), cast("Any", elections), cast("Any", nothing))
    for node, term in ((old, 1), (old, 2), (new, 1)):
        follower._verified = 7
        assert follower.follow(node, {"term": term, "joined": False})
    assert seen == [7, 0, 0]


class _ListJournal(list[Any]):
    first_index = 5

    def getRaftCommitIndex(self) -> int:
        return 7


def test_entries_below_the_base_are_none() -> None:
    journal = _ListJournal((NO_OP, index, 1) for index in (5, 6, 7))
    log = RaftLog(cast("Any", SimpleNamespace()), cast("Any", journal), 0.0)
    assert [entry[1] for entry in log.entries(6, 9)] == [6, 7]
    assert log.entries(4, 9) == log.entries(3, 1) == []
