"""Each hazard of docs/pysyncobj-hazards.md that has a script, shown on the library's own class and
absent from ours.

Every scenario returns whether the hazard shows; a scenario that cannot be set up fails its own
assertions.
"""

from __future__ import annotations

import gzip
import itertools
import os
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pysyncobj.pickle
import pytest
from pysyncobj import SyncObj
from pysyncobj.journal import FileJournal
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from coordinator.raft.storage.journal import Journal
from tests.unit.raft.hand import OURS, STOCK, Net

both = pytest.mark.parametrize(
    ("base", "shows"), [(STOCK, True), (OURS, False)], ids=["stock", "ours"]
)


@both
def test_acknowledged_entries_are_truncated(base: type[SyncObj], shows: bool) -> None:
    net, acked = Net(base), list[str]()
    net.elect("A", "B")
    net.heartbeat("A", "B")
    for i in range(6):
        net.put("A", f"k{i}", "x" * 40_000, acked)
    net["A"].doTick(0)
    net.deliver("A", "B", 1)
    net.deliver("B", "A", 1)
    net["A"].doTick(0)
    net.deliver("A", "B", 5)
    net.deliver("B", "A")
    net["A"].doTick(0)
    assert len(acked) == 6
    held = net.last("B")
    net.deliver("A", "B", 1)
    shrank = net.last("B") < held
    for other in "BC":
        net.lose("A", other)
    net.elect("B", "C")
    net.heartbeat("B", "C", 8)
    assert net["B"]._isLeader()
    lost = [key for key in acked if key not in net["B"].data]
    assert shrank == bool(lost)
    assert bool(lost) == shows


@both
def test_an_ack_of_an_earlier_term_is_counted(base: type[SyncObj], shows: bool) -> None:
    net, acked = Net(base, "ABCDE"), list[str]()
    net.elect("A", "BCDE")
    net.heartbeat("A", "BCDE", 3)
    for i in range(8):
        net.put("A", f"old{i}", i)
    net["A"].doTick(0)
    net.deliver("A", "B")
    held = list(net.queues["B", "A"])
    assert held
    for x, y in itertools.product("AB", "CDE"):
        net.lose(x, y)
    net.queues["B", "A"].clear()
    net.elect("C", "DE")
    for x, y in itertools.product("AB", "CDE"):
        net.lose(x, y)
    net.queues["B", "A"].extend(held)  # slow, not lost: they come before anything newer
    for _ in range(12):
        net["C"]._SyncObj__newAppendEntriesTime = 0
        net["C"].doTick(0)
        for follower in "ABDE":
            net.deliver("C", follower)
            net.deliver(follower, "C")
        net["C"].doTick(0)
    assert len({net.last(name) for name in "ABCDE"}) == 1
    net.elect("A", "CDE")
    for i in range(3):
        net.put("A", f"new{i}", i, acked)
    net["A"].doTick(0)
    net.deliver("A", "D")
    net.deliver("D", "A")
    net["A"].doTick(0)
    assert net["A"]._isLeader()
    assert net.last("B") < net.last("A")
    net.deliver("B", "A")
    net["A"].doTick(0)
    net["A"].doTick(0)
    believed = net["A"]._SyncObj__raftMatchIndex[Node("B")]
    assert (believed > net.last("B")) == shows
    assert bool(acked) == shows  # two of five hold them


@both
def test_a_follower_with_a_stale_entry_never_rejoins(base: type[SyncObj], shows: bool) -> None:
    net = Net(base, appendEntriesBatchSizeBytes=1 << 16)
    net.elect("A", "BC")
    net.heartbeat("A", "BC", 3)
    net.connect("A", "B", False)
    net.connect("A", "C", False)
    net.put("A", "stale", 0)
    net["A"].doTick(0)
    net.elect("B", "C")
    for i in range(100):
        net.put("B", f"k{i}", "x" * 1000)
    net.heartbeat("B", "C", 5)
    assert len(net["C"].data) == 100
    net.connect("B", "A", False)
    net.connect("B", "C", False)
    net.connect("A", "C", True)
    net.elect("C", "A")
    assert net["C"]._isLeader()
    rounds = 0
    while net.last("A") != net.last("C") and rounds < 50:
        rounds += 1
        net.heartbeat("C", "A")
    assert (rounds == 50) == shows
    if not shows:
        assert rounds <= 3  # HAZ-3: a few round trips


@both
def test_a_raising_command_stops_the_cluster(base: type[SyncObj], shows: bool) -> None:
    net, answers = Net(base), list[Any]()
    net.elect("A", "BC")
    net.heartbeat("A", "BC", 3)
    net["A"].poison(callback=lambda result, error: answers.append(error))
    net["A"].add(1, callback=lambda result, error: answers.append(error))
    raised = 0
    for _ in range(10):
        try:
            net.heartbeat("A", "BC")
        except ValueError:
            raised += 1
    assert (raised > 0) == shows
    totals = [net[name].total for name in "ABC"]
    assert (totals == [1001, 1001, 1001] and len(answers) == 2) == (not shows)


@both
def test_a_raising_callback_applies_twice(base: type[SyncObj], shows: bool) -> None:
    net, calls = Net(base), 0
    net.elect("A", "BC")
    net.heartbeat("A", "BC", 3)

    def once(result: Any, error: int) -> None:
        nonlocal calls
        calls += 1
        raise RuntimeError("callback failed")

    net["A"].add(1, callback=once)
    for _ in range(5):
        try:
            net.heartbeat("A", "BC")
        except RuntimeError:
            continue
    assert calls == 1
    assert (net["A"].total != net["B"].total) == shows


@both
def test_entries_behind_a_dump_are_lost_when_the_journal_was_not_trimmed(
    base: type[SyncObj], shows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What kill -9 during a compaction leaves: the dump is in place, the log is not cut yet, and
    goes on after it.
    """
    net, acked = Net(base, folder=tmp_path), list[str]()
    net.elect("A", "BC")
    for i in range(20):
        net.put("A", f"k{i}", i, acked)
    net.heartbeat("A", "BC", 3)
    # it dies before that
    monkeypatch.setattr(net.kind, "_SyncObj__deleteEntriesTo", lambda self, index: None)
    net["B"].forceLogCompaction()
    net["B"].doTick(0)
    for i in range(20, 30):
        net.put("A", f"k{i}", i, acked)
    net.heartbeat("A", "B", 3)
    assert len(acked) == 30
    held = net.last("B")
    net["B"]._SyncObj__raftLog._destroy()
    again = net.start("B")
    again.doTick(0)
    assert (net.last("B") < held) == shows


@pytest.mark.parametrize(
    ("kind", "shows"), [(FileJournal, True), (Journal, False)], ids=["stock", "ours"]
)
def test_a_journal_is_cut_short_when_it_dies_while_it_drops_its_oldest(
    kind: Callable[[str], Any], shows: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "journal")
    journal = kind(path)
    for i in range(1, 2001):
        journal.add(b"x" * 200, i, 1)
    journal.flush()
    writes = 0

    def die(*args: Any) -> None:
        nonlocal writes
        writes += 1
        if writes > 100:
            raise KeyboardInterrupt

    original = kind.add  # type: ignore[attr-defined]

    def add(self: Any, *entry: Any) -> None:
        die()
        original(self, *entry)

    monkeypatch.setattr(kind, "add", add)
    died = False
    try:
        journal.deleteEntriesTo(10)
    except KeyboardInterrupt:
        died = True
    monkeypatch.undo()
    # What is on the disk now is what a killed process leaves: both write at once to the page cache.
    again = kind(path)
    assert died == shows
    assert (again[-1][1] != 2000) == shows


@both
def test_a_journal_without_a_dump_is_taken(
    base: type[SyncObj], shows: bool, tmp_path: Path
) -> None:
    from pysyncobj import SyncObjConf

    conf = SyncObjConf(autoTick=False, journalFile=str(tmp_path / "journal"))
    try:
        base(Node("A"), [], conf, nodeClass=Node, transport=Transport(None, None, None))
        taken = True
    except ValueError:
        taken = False
    assert taken == shows


@both
def test_a_superseded_leader_goes_on(base: type[SyncObj], shows: bool) -> None:
    net = Net(base)
    net.elect("A", "BC")
    net.heartbeat("A", "BC", 3)
    net.connect("A", "C", False)
    net.heartbeat("A", "B", 2)
    net.elect("C", "B", forget=False)
    elected = net["C"]._isLeader()
    assert elected == shows  # B hears from A
    if not elected:
        # However it comes about, the old leader learns of a newer term from whoever follows it.
        net.elect("C", "B")
        assert net["C"]._isLeader()
    for _ in range(3):
        net["A"]._SyncObj__newAppendEntriesTime = 0
        net["A"].doTick(0)
        net.deliver("A", "B")
        net.deliver("B", "A")
    assert net["A"]._isLeader() == shows


@both
def test_one_voter_elects_two_leaders_in_a_term(base: type[SyncObj], shows: bool) -> None:
    net = Net(base)
    for name in "AC":
        net[name]._SyncObj__raftElectionDeadline = 0
        net[name].doTick(0)
    for _ in range(3):
        net.deliver("A", "B")
        net.deliver("B", "A")
        net["A"].doTick(0)
    assert net["A"]._isLeader()
    net.queues["A", "B"].clear()
    net.start("B")
    for _ in range(3):
        net.deliver("C", "B")
        net.deliver("B", "C")
        net["C"].doTick(0)
    both_lead = net["A"]._isLeader() and net["C"]._isLeader()
    assert (both_lead and net["A"].raftCurrentTerm == net["C"].raftCurrentTerm) == shows


@both
def test_a_repeated_vote_is_counted_twice(base: type[SyncObj], shows: bool) -> None:
    net = Net(base, "ABCDE")
    net["A"]._SyncObj__raftElectionDeadline = 0
    net["A"].doTick(0)
    for _ in range(2):
        net.deliver("A", "B")
        replies = list(net.queues["B", "A"])
        net.queues["B", "A"].extend(replies)
        net.deliver("B", "A")
        net["A"].doTick(0)
    assert net["A"]._isLeader() == shows


@both
def test_membership_changes_overlap(base: type[SyncObj], shows: bool) -> None:
    net, answers = Net(base, dynamicMembershipChange=True), list[int]()
    net.elect("A", "BC")
    net.heartbeat("A", "BC", 3)
    for change, member in (
        ("addNodeToCluster", "D"),
        ("addNodeToCluster", "E"),
        ("removeNodeFromCluster", "B"),
    ):
        getattr(net["A"], change)(member, callback=lambda result, error: answers.append(error))
    net["A"].doTick(0)
    uncommitted = net.last("A") - net["A"].raftCommitIndex
    assert (uncommitted > 1) == shows
    assert (answers == [6, 6]) == (not shows)


@both
def test_a_reconnect_corrupts_a_snapshot(base: type[SyncObj], shows: bool, tmp_path: Path) -> None:
    net = Net(base, folder=tmp_path, logCompactionBatchSize=1000)
    net.elect("A", "BC")
    for i in range(20):
        net.put("A", f"a{i}", i)
    net.heartbeat("A", "BC", 4)
    net["C"].forceLogCompaction()
    net["C"].doTick(0)
    net["C"].doTick(0)
    net.connect("A", "C", False)
    for i in range(60):
        net.put("A", f"k{i}", os.urandom(40).hex())
    net.heartbeat("A", "B", 4)
    net["A"].forceLogCompaction()
    net.heartbeat("A", "B", 3)
    net.connect("A", "C", True)
    net["A"].conf.appendEntriesPeriod = 1e-9
    before, chunks, acked, dropped = net["C"].raftLastApplied, 0, False, False
    for _ in range(100):
        net["A"]._SyncObj__newAppendEntriesTime = 0
        net["A"].doTick(0)
        chunks += sum(bool(message.get("serialized")) for message in net.queues["A", "C"])
        if chunks == 3 and not dropped:
            net.connect("A", "C", False)
            net.connect("A", "C", True)
            dropped = True
            continue
        net.deliver("A", "C")
        acked = any(m["type"] == "next_node_idx" and m["success"] for m in net.queues["C", "A"])
        net.deliver("C", "A")
        if acked:
            break
    assert dropped
    try:
        with gzip.open(tmp_path / "C.dump") as file:
            file.read()
        readable = True
    except (OSError, EOFError, zlib.error):
        readable = False
    installed = net["C"].raftLastApplied > before
    assert (not readable or (acked and not installed)) == shows


@both
def test_a_large_entry_is_cut_wrongly(base: type[SyncObj], shows: bool) -> None:
    net, failures = Net(base), 0
    net.elect("A", "BC")
    net.heartbeat("A", "B", 2)
    limit = net["A"].conf.appendEntriesBatchSizeBytes
    fill = len(pysyncobj.pickle.dumps((0, ("k", "x" * 1000)))) + 1 - 1000
    for size in range(2 * limit - fill - 40, 2 * limit - fill + 10):
        net.put("A", "k", "x" * size)
        net["A"].doTick(0)
        while net.queues["A", "B"]:
            try:
                net.deliver("A", "B", 1)
            except Exception:  # noqa: BLE001 whatever leaves the receiving node
                failures += 1
        net.deliver("B", "A")
        net["A"].doTick(0)
    assert (failures > 0) == shows
    if not shows:
        assert net.last("B") == net.last("A")


@both
def test_a_submit_raises_although_it_was_queued(base: type[SyncObj], shows: bool) -> None:
    net = Net(base, "A")
    raised = False
    try:
        for _ in range(66_000):
            net["A"].add(1)
    except BlockingIOError:
        raised = True
    assert raised == shows
