"""Say which steps Acordo's replicated store can take from a state, and which states break a promise.

The protocol is a set of named rules (`Rules`, R1 to R12 of the replicated store that is to come); a variant is the same model with a rule changed.
It never explores by itself (`replicated_model.py` does) and never talks to a network, a clock or a store.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Callable, Iterator, NamedTuple

from acordo_protocol import Broken, Trie

# ----------------------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Rules:
    """The protective rules. The defaults are the protocol as it should be (see README)."""

    row: str = "command"  # R1: one ledger row per command | batch: per local transaction
    row_stamp: str = "entry"  # R1: seq, term, log time are the entry's | own: the member's own clock
    late: str = "stamp"  # R2: late by the entry's stamp | clock: by the member's own clock
    order: str = "log"  # R2: as ordered | set: the order of a set
    known: str = "time"  # R2: an op_id is known by log time | table: by what pruning left in the own file
    settings: str = "ordered"  # R2: retention as ordered through the log | own: as configured at the member
    level: str = "ordered"  # R2: a new evaluation is switched on by an ordered command | own: by the member's own code
    level_all: bool = True  # R2: ... only once every member speaks it
    level_halt: bool = True  # (new) a member that does not speak an ordered level stops
    digest: frozenset = frozenset({"ops", "outcomes", "versions", "values", "expiry"})  # R3: what the digest covers
    compare: bool = True  # R3: members compare digests; who differs from the majority stops and fetches
    compare_guess: bool = False  # R3 away: without a majority the leader is believed
    stop_reads: bool = True  # (new) R3: ... and without a majority reads stop as well as writes
    source: str = "one"  # (new) R3: who has copied a state is no second witness beside its source until a
    # comparison with others has held | wait: the copy is used only then | blind: neither
    dump_durable: bool = True  # R4: a dump stands at a durable row
    head: str = "index"  # R5: own head H is the index of the last command in the file | row: its last ledger row
    agree: str = "once"  # R5: file and log are compared at H, by (index, term, log digest) | rows: row by row,
    # by (index, term, time) | body: row by row, by first, last, op_ids | none
    cut: bool = True  # (new) R5, R12: a file that is not of this log is cut back to where it is | kept aside
    head_wait: bool = True  # R5: a member serves nothing before its machine has reached H
    replay: str = "rows"  # R5: what is in the file is settled from it | again: is evaluated again
    file_old: bool = True  # R5: a file older than the dump is kept aside
    file_whole: bool = True  # (new) R5: a file that is torn inside is found at the start
    dump_entry: bool = True  # (new) R5: a dump whose (index, term) is not in the log is foreign too
    dump_file: bool = True  # R5: file and dump are compared where the dump stands
    keeps_log: bool = True  # (new) R5: keeping file and dump aside keeps log and votes
    copy_source: bool = True  # (new) R6: its dump is not below the base of the leader's log
    copy_base: bool = True  # (new) R6: ... nor below the base of the receiver's own log, which stays
    copy_order: bool = True  # R6: the database is copied after the dump it goes with
    copy_whole: bool = True  # R6: one read transaction, verified as a whole
    copy_log: bool = True  # R6: the log from the dump on is kept meanwhile
    copy_prune: bool = True  # (new) R6: ... and so are the rows
    readindex: bool = True  # R7: reads by ReadIndex
    read_touch: bool = True  # R7: a read waits until the key's newest ordered touch is settled here
    read_memory: bool = True  # R7: what is evaluated and not yet written is seen
    read_whole: bool = True  # R7: nothing of a command is visible before all of it is
    read_many: bool = True  # (new) R7: keys read together come from one point
    lookup_waits: bool = True  # (new) R7: look-ups and listings wait for the whole read index
    expiry: str = "ordered"  # R8: due keys go by an ordered delete | own: by the member's clock
    prune: str = "lagging"  # R8: lagging: the floor is ordered, a member deletes below it what its dump does not
    # need | entry: deletes where the entry stands | own: each member when it likes
    floor_read: bool = True  # (new) R8: a read checks the floor of the very file it reads
    prune_cursor: bool = True  # (new) R8: the floor does not pass the ordered cursor of the publisher
    bound: bool = True  # R9: what is not yet written is bounded
    cursor: str = "ordered"  # R10: a new leader publishes from the ordered cursor | own: from its own head
    cursor_after: bool = True  # R10: the cursor is ordered after publishing
    cursor_follows: bool = True  # (new) R10: its position is never below the ordered cursor that it has applied since
    watch: str = "ledger"  # feeds go by revision from the ledger | live: by what settles while attached
    values: str = "log"  # R11: values travel in the log | staged: beside it
    reset: bool = True  # R12: whose applied log is overwritten starts again from dump and file
    votes: bool = True  # (new) a member that comes back empty neither votes nor counts until it has caught up


class Op(NamedTuple):
    """One intent: put the writes (None: delete), if `guard` (key, value) holds."""

    writes: tuple
    guard: tuple | None = None
    deadline: bool = False  # late once log time is 1
    ttl: bool = False  # due once log time is 1
    newer: bool = False  # refused by the evaluation of level 2


@dataclass(frozen=True)
class Scenario:
    """Bounds: how often each thing may happen on one path."""

    name: str
    ops: dict[str, Op]
    commands: tuple  # (op_ids of one Submit, how often)
    members: int = 3
    ticks: int = 0  # log time moves on
    prunes: int = 0
    due: int = 0  # ordered deletes of due keys
    cursors: int = 0
    configs: int = 0  # the retention is ordered to be 2 (members are configured with their own)
    levels: int = 0
    upgrades: int = 0
    dumps: int = 0
    crashes: int = 0
    powers: int = 0  # power cuts of one member
    blackouts: int = 0  # power cuts of all
    wipes: int = 0
    tampers: int = 0  # a stopped member's file is torn, put back from a backup, or another's
    losses: int = 0  # a quorum loses acknowledged log entries
    plants: int = 0  # a member evaluates wrongly, once
    elections: int = 0
    reads: int = 0  # reads that wait
    lag: bool = False  # entries reach a quorum, the others later
    slow: bool = False  # evaluation is a step of its own
    publishes: bool = False
    watches: bool = False
    speaks: tuple = (2, 2, 2)
    differ: bool = False  # members are not alike: no symmetry
    floor_free: bool = False  # history reads are checked
    start: tuple[str, ...] = ()
    states_max: int = 80_000


BUDGETS = (
    "ticks",
    "prunes",
    "due",
    "cursors",
    "configs",
    "levels",
    "upgrades",
    "dumps",
    "crashes",
    "powers",
    "blackouts",
    "wipes",
    "tampers",
    "losses",
    "plants",
    "elections",
    "reads",
)
UNWRITTEN_MAX = 3


class Impossible(Exception):
    """A step leads where the model has no state."""


# ------------------------------------------------------------------------------------------------- state and tries


class Log(NamedTuple):
    """What a log prefix says by itself."""

    index: int = 0
    term: int = 0
    time: int = 0
    touched: dict = {}  # key -> index of its newest touch
    entry: tuple = ()


class Row(NamedTuple):
    index: int
    term: int
    time: int
    first: int
    last: int
    ops: tuple  # op_ids
    outcomes: tuple
    versions: tuple  # (key, revision, value, expires)
    odd: tuple = ()


class Facts(NamedTuple):
    """What one member's store (file and what is not yet written) and the machine beside it mean after a prefix."""

    rev: int = 0
    keys: dict = {}  # key -> (revision, value, expires)
    ops: dict = {}  # op_id -> (outcome, revision, time)
    floor: int = 0
    time: int = 0
    retention: int = 1
    level: int = 1
    cursor: int = 0
    ledger: tuple = ()
    digest: int = 0


class Copy(NamedTuple):
    source: int
    term: int
    dump: tuple | None
    rows: int | None
    gone: int


class Member(NamedTuple):
    up: str = "up"  # up | down | lost (needs a state) | halted
    log: int = 0  # newest entry its disk holds durably
    base: int = 0  # entries up to here are compacted
    at: int = 0  # log prefix that the machine has applied
    made: int = 0  # ... and evaluated
    rows: int = 0  # what the file holds
    safe: int = 0  # ... durably
    dump: tuple = (0, 0)  # (log, store)
    gone: int = 0  # rows up to this revision are not in the file (a copy's, or pruned by itself)
    head: int = 0  # to be reached before it serves; 0: reached
    counts: bool = True  # votes and counts in a quorum
    checked: int = 0  # its digest was compared up to this index
    torn: bool = False
    half: bool = False  # a part of the next command is visible
    swept: bool = False  # `known = table`: the op_ids that are due are deleted
    speaks: int = 2
    copy: Copy | None = None
    witness: int = -1  # whose state it has copied, until a comparison has held (scenarios with `plants`)


class State(NamedTuple):
    log: int
    leader: int
    term: int
    members: tuple
    seen: int  # newest index whose outcome a client knows
    lossy: bool  # a quorum lost entries, no leader since
    stopped: bool  # members differ without a majority
    published: int
    pub: int  # the leader's own position
    watch: tuple  # (member, revision)
    read: tuple | None
    left: tuple


# ----------------------------------------------------------------------------------------------------------- model


class Model:
    """Successor function of the protocol under `rules` within the bounds of `scenario`."""

    def __init__(self, rules: Rules, scenario: Scenario) -> None:
        self.rules, self.scenario = rules, scenario
        self.keys = sorted({w[0] for op in scenario.ops.values() for w in op.writes})
        self.logs, self.stores = Trie(Log()), Trie(Facts())
        self.quorum = scenario.members // 2 + 1
        self._truth = {0: 0}
        self._digests: dict[tuple, int] = {}

    def initial(self) -> State:
        sc = self.scenario
        members = tuple(Member(speaks=sc.speaks[i]) for i in range(sc.members))
        left = tuple(n for _, n in sc.commands) + tuple(getattr(sc, name) for name in BUDGETS)
        return State(0, 0, 0, members, 0, False, False, 0, 0, (-1, 0), None, left)

    def key(self, s: State) -> int:
        """Hash a state; members that are configured alike are interchangeable."""
        read = s.read
        if self.scenario.differ:
            return hash(s)
        alike = []
        for i, m in enumerate(s.members):
            said = m if m.copy is None else (m._replace(copy=m.copy._replace(source=0)), s.members[m.copy.source])
            alike.append(hash((said, i == s.leader, i == s.watch[0], read is not None and read[0] == i)))
        alike.sort()
        return hash(
            (
                s.log,
                s.leader < 0,
                s.term,
                tuple(alike),
                s.seen,
                s.lossy,
                s.stopped,
                s.published,
                s.pub,
                s.watch[1],
                read and read[1:],
                s.left,
            )
        )

    # -- log and evaluation -----------------------------------------------------------------------------------------

    def append(self, log: int, entry: tuple) -> int:
        found = self.logs.find(log, entry)
        if found is not None:
            return found
        was = self.logs.meaning[log]
        touched = dict(was.touched)
        names = entry[1] if entry[0] == "submit" else ()
        for key in [w[0] for name in names for w in self.scenario.ops[name].writes] + (
            [entry[1]] if entry[0] == "due" else []
        ):
            touched[key] = was.index + 1
        term = entry[1] if entry[0] == "noop" else was.term
        return self.logs.add(log, entry, Log(was.index + 1, term, was.time + (entry[0] == "tick"), touched, entry))

    def truth(self, log: int) -> int:
        """The store that this log makes, by the rules as they should be."""
        if log not in self._truth:
            before = self.truth(self.logs.parent[log])
            self._truth[log] = self.settle(before, log, self.judge(before, log))
        return self._truth[log]

    def known(self, facts: Facts, name: str, time: int, retention: int, swept: bool) -> bool:
        had = facts.ops.get(name)
        if had is None:
            return False
        return not swept if self.rules.known == "table" and swept is not None else time - had[2] < retention

    def judge(
        self, store: int, log: int, odd: tuple = (), swept: bool | None = None, retention: int = 0, level: int = 0
    ) -> Row | None:
        """Evaluate the entry at `log` on the facts of `store`; `odd` names what a rule taken away lets in."""
        facts, entry = self.stores.meaning[store], self.logs.meaning[log]
        what, retention, level = entry.entry, retention or facts.retention, level or facts.level
        rev, keys, names, outcomes, versions = facts.rev, dict(facts.keys), [], [], []
        if "due-gone" in odd:
            keys = {k: v for k, v in keys.items() if not v[2]}
        if what[0] == "due":
            if keys.get(what[1], (0, None, 0))[2] and entry.time >= 1:
                versions = [(what[1], rev + 1, None, 0)]
                return self._mark(
                    Row(entry.index, entry.term, entry.time, rev + 1, rev + 1, (), (), tuple(versions)), odd
                )
            return None
        if what[0] != "submit":
            return None
        ops = dict(facts.ops)
        for name in what[1]:
            op = self.scenario.ops[name]
            if self.known(facts._replace(ops=ops), name, entry.time, retention, swept):
                continue
            rev += 1
            late = entry.time >= 1 if "clock" not in odd else entry.time < 1
            if (op.deadline and late) or "unstaged" in odd:
                outcome = "expired"
            elif op.newer and level >= 2:
                outcome = "refused"
            elif op.guard and keys.get(op.guard[0], (0, None))[1] != op.guard[1]:
                outcome = "refused"
            else:
                outcome = "applied"
                for at, value in op.writes:
                    keys[at] = (rev, value, 1 if op.ttl else 0)
                    versions.append((at, *keys[at]))
            ops[name] = (outcome, rev, entry.time)
            names.append(name)
            outcomes.append(outcome)
        if not names:
            return None
        return self._mark(
            Row(
                entry.index, entry.term, entry.time, facts.rev + 1, rev, tuple(names), tuple(outcomes), tuple(versions)
            ),
            odd,
        )

    def _mark(self, row: Row, odd: tuple) -> Row:
        """Spoil a row as a rule taken away, or a planted fault, would."""
        if "plant-outcomes" in odd:
            row = row._replace(outcomes=tuple("expired" if o == "refused" else "refused" for o in row.outcomes))
        if "plant-values" in odd:
            row = row._replace(versions=tuple((k, r, "?", e) for k, r, _, e in row.versions))
        if "plant-expiry" in odd:
            row = row._replace(versions=tuple((k, r, v, 9) for k, r, v, e in row.versions))
        if "plant-keys" in odd:
            row = row._replace(versions=row.versions[:-1])
        tags = tuple(t for t in odd if t in ("batch", "stamped", "set"))
        return row._replace(odd=row.odd + tags) if tags else row

    def settle(self, store: int, log: int, row: Row | None) -> int:
        """Bring the entry at `log` with its row into the store."""
        found = self.stores.find(store, (log, row))
        if found is not None:
            return found
        f, what, time = self.stores.meaning[store], self.logs.meaning[log].entry, self.logs.meaning[log].time
        f = f._replace(time=time)
        if row is not None:
            keys, ops = dict(f.keys), dict(f.ops)
            for key, rev, value, expires in row.versions:
                keys[key] = (rev, value, expires)
            for i, (name, outcome) in enumerate(zip(row.ops, row.outcomes)):
                if name in ops and time - ops[name][2] < f.retention and self.scenario.plants == 0:
                    raise Broken(f"INV-3: {name} is recorded twice, {ops[name]} and {outcome} at {row.first + i}")
                ops[name] = (outcome, row.first + i, time)
            f = f._replace(
                rev=row.last, keys=keys, ops=ops, ledger=f.ledger + (row,), digest=self._digest(f.digest, row)
            )
        match what:
            case ("prune", rev):
                f = f._replace(floor=max(f.floor, rev))
            case ("config", retention):
                f = f._replace(retention=retention)
            case ("level", level):
                f = f._replace(level=level)
            case ("cursor", rev):
                f = f._replace(cursor=max(f.cursor, rev))
        return self.stores.add(store, (log, row), f)

    def _digest(self, before: int, row: Row) -> int:
        covers = self.rules.digest
        said: list = [before, row.first, row.last]
        if "ops" in covers:
            said += [row.index, row.term, row.time, row.ops, row.odd]
        if "outcomes" in covers:
            said += [row.outcomes]
        if "versions" in covers:
            said += [
                tuple(
                    (k, r, v if "values" in covers else 0, e if "expiry" in covers else 0)
                    for k, r, v, e in row.versions
                )
            ]
        return self._digests.setdefault(tuple(said), len(self._digests) + 1)

    # -- what a member is -------------------------------------------------------------------------------------------

    def facts(self, store: int) -> Facts:
        return self.stores.meaning[store]

    def reached(self, m: Member) -> bool:
        if self.rules.head == "index":
            return self.logs.depth[m.at] >= m.head and self.stores.depth[m.made] >= m.head
        return self.facts(m.made).rev >= m.head

    def serving(self, m: Member) -> bool:
        return m.up == "up" and (m.head == 0 or not self.rules.head_wait)

    def visible(self, m: Member) -> int:
        """The store that reads on this member see: its file, and (R7) what is evaluated and not yet written."""
        if not self.rules.read_memory:
            return m.rows
        return m.made if self.stores.depth[m.made] >= self.stores.depth[m.rows] else m.rows

    def gone(self, m: Member) -> int:
        """Newest revision whose rows are no longer in the file. The worst case: what may be deleted is."""
        rows = self.facts(m.rows)
        may = {"entry": rows.floor, "own": 0, "lagging": min(rows.floor, self.facts(m.dump[1]).rev)}[self.rules.prune]
        return max(m.gone, may)

    def file_fault(self, s: State, m: Member) -> str:
        """Say what a restart finds wrong with dump and file; empty: nothing."""
        rules, stores = self.rules, self.stores
        d = self.logs.depth[m.dump[0]]
        if rules.dump_entry and not self.logs.holds(s.log, m.dump[0]):
            return "the dump is not of this log"
        if m.torn and rules.file_whole:
            return "the file is torn"
        if stores.depth[m.rows] < d and rules.file_old:
            return "the file is older than the dump"
        if stores.depth[m.rows] >= d and rules.dump_file and not self._same(m.rows, m.dump[1], d):
            return "file and dump disagree"
        if not rules.cut and rules.agree == "once" and not s.lossy and not self._of_log(s, m.rows):
            return "file and log disagree"
        if any(r.index > d and r.first <= self.gone(m) for r in self.facts(m.rows).ledger):
            return "rows after the dump are pruned"
        return ""

    def _same(self, rows: int, dump: int, d: int) -> bool:
        if self.rules.agree == "once":
            return self.stores.path[rows][d] == dump
        return self.facts(self.stores.path[rows][d]).digest == self.facts(dump).digest

    def _of_log(self, s: State, store: int) -> bool:
        """Whether the newest command in this file stands in the log (so, by Raft, do all before it)."""
        return store == 0 or self.logs.holds(s.log, self.stores.entry[store][0])

    def sends(self, s: State, i: int, k: int) -> bool:
        """Whether entry k can reach member i: its own log, or the leader's."""
        m = s.members[i]
        if m.base < k <= self.logs.depth[m.log] and self.logs.holds(s.log, self.logs.path[m.log][k]):
            return True
        return s.members[s.leader].base < k

    def quorate(self, s: State) -> bool:
        return sum(m.counts and m.up != "down" for m in s.members) >= self.quorum

    # -- checks -----------------------------------------------------------------------------------------------------

    def normal(self, s: State) -> State:
        """Do what needs no step: a head is reached, a copy lost its source, a read can be answered."""
        for i, m in enumerate(s.members):
            if m.up == "up" and m.head and self.reached(m):
                s = self._with(s, i, m._replace(head=0))
            half = m.copy is not None and (m.copy.dump is None or m.copy.rows is None)
            if half and s.members[m.copy.source].up != "up":  # a copy goes on only with the same run of its source
                s = self._with(s, i, m._replace(copy=None))
        if s.read and self._may_read(s):
            s = self._finish_read(s)
        return s

    def check(self, s: State) -> None:
        """Check every promise in this state."""
        sc, rules = self.scenario, self.rules
        self._check_kept(s)
        led = s.leader >= 0 and self.quorate(s)
        for i, m in enumerate(s.members):
            unwritten = self.stores.depth[m.made] - self.stores.depth[m.rows]
            if m.up == "up" and unwritten > UNWRITTEN_MAX:
                raise Broken(f"R9: n{i} holds {unwritten} commands that are not written")
            if sc.plants:
                if self.serving(m) and m.checked and not self._checks_out(s, m):
                    raise Broken(f"R3: n{i} was compared and serves on, other than the log says")
                if self.serving(m) and s.stopped and not rules.stop_reads and self.logs.holds(s.log, m.at):
                    if m.made != self.truth(self.logs.path[m.at][self.stores.depth[m.made]]):
                        raise Broken(f"R3: members are known to differ, n{i} answers reads other than the log says")
                continue
            if m.up == "up" and self.logs.holds(s.log, m.at) and (m.head == 0 or not rules.head_wait):
                self._check_store(s, i, m)
                if self.serving(m) and (led or not rules.readindex) and not s.lossy:
                    self._check_reads(s, i, m)
        if sc.floor_free:
            self._check_floors(s)

    def end(self, s: State) -> None:
        """Check a state in which nothing more can happen."""
        for i, m in enumerate(s.members):
            if self.serving(m) and self.logs.holds(s.log, m.at) and not s.stopped:
                if m.made != self.truth(self.logs.path[m.at][self.stores.depth[m.made]]):
                    raise Broken(f"R3: n{i} serves on, other than the log says, and nobody will notice")

    def _checks_out(self, s: State, m: Member) -> bool:
        k = min(m.checked, self.stores.depth[m.made])
        at = self.logs.path[s.log][min(k, self.logs.depth[s.log])]
        return self.stores.path[m.made][k] == self.truth(at)

    def _check_kept(self, s: State) -> None:
        """Some member can rebuild the state, and every later entry of the log is on some disk (INV-2)."""
        if s.lossy:
            return
        end = self.logs.depth[s.log]
        held = set()
        for m in s.members:
            held |= set(range(m.base + 1, 1 + self.logs.depth[self.logs.common(m.log, s.log)]))
        for i, m in enumerate(s.members):
            starts = [0] if m.base == 0 else []
            if m.up in ("up", "halted") and self.logs.holds(s.log, m.at):
                starts.append(self.logs.depth[m.at])
            elif m.up == "down" and not self.file_fault(s, m):
                starts.append(self.logs.depth[m.dump[0]])
            if m.copy and m.copy.rows is not None and m.copy.dump is not None:
                starts.append(self.logs.depth[m.copy.dump[0]])
            if any(held.issuperset(range(k + 1, end + 1)) for k in starts):
                return
        why = "; ".join(f"n{i} {m.up}: {self.file_fault(s, m) or 'log gone'}" for i, m in enumerate(s.members))
        raise Broken(f"INV-2: no member can rebuild what was acknowledged ({why})")

    def _check_store(self, s: State, i: int, m: Member) -> None:
        """Ledger, outcomes and facts of a member are what the log says (R1, R3, INV-2, INV-4)."""
        made = self.stores.depth[m.made]
        right = self.truth(self.logs.path[m.at][made])
        if right != m.made:
            mine, real = self.facts(m.made).ledger, self.facts(right).ledger
            pair = next(((a, b) for a, b in itertools.zip_longest(mine, real) if a != b), None)
            what = "its other state" if pair is None else f"{_row(pair[0])}, the log makes {_row(pair[1])}"
            raise Broken(f"R1: n{i} at index {made} has {what}")
        if self.serving(m):
            file = self.stores.depth[m.rows]
            if file <= self.logs.depth[s.log] and m.rows != self.truth(self.logs.path[s.log][file]):
                raise Broken(f"R5: n{i} serves from a file that the log did not make")

    def _touch_settled(self, m: Member, key: str) -> bool:
        return not self.rules.read_touch or self.stores.depth[m.made] >= self.logs.meaning[m.at].touched.get(key, 0)

    def _check_reads(self, s: State, i: int, m: Member) -> None:
        """Every read that could be answered now on member i (INV-1); history, snapshots and look-ups as well."""
        if self.rules.readindex and m.at != s.log:
            return
        for key in self.keys:
            if self._touch_settled(m, key):
                self._check_value(s, i, key, self.facts(self.visible(m)).keys.get(key, (0, None, 0)), s.seen)
        if self.rules.readindex and (not self.rules.lookup_waits or self.stores.depth[m.made] >= self.logs.depth[m.at]):
            known = self.facts(self.truth(self.logs.path[s.log][s.seen])).ops
            for name in known:
                if name not in self.facts(self.visible(m)).ops:
                    raise Broken(f"INV-4: n{i} knows nothing of {name}, a client knows its outcome")
        if m.half and len(self.keys) > 1:
            raise Broken(f"R7: a snapshot on n{i} sees a part of {_show(self._next(s, m))}")

    def _check_value(self, s: State, i: int, key: str, got: tuple, seen: int) -> None:
        need = self.facts(self.truth(self.logs.path[s.log][seen])).keys.get(key, (0, None, 0))
        real = {self.facts(self.truth(x)).keys.get(key, (0, None, 0)) for x in self.logs.path[s.log]}
        if got[0] < need[0]:
            raise Broken(f"INV-1: a read of {key} on n{i} returns {got[:2]}, a client already knows {need[:2]}")
        if got not in real:
            raise Broken(f"INV-1: a read of {key} on n{i} returns {got[:2]}, which the log did not make")

    def _check_floors(self, s: State) -> None:
        shown = {}
        for i, m in enumerate(s.members):
            if not self.serving(m):
                continue
            floor, gone = self.facts(m.made).floor, self.gone(m)
            if gone > floor and not self.rules.floor_read:
                raise Broken(f"R8: n{i} answers a read at revision {floor} from pruned rows")
            if shown.setdefault(m.made, max(floor, gone)) != max(floor, gone):
                raise Broken(f"R8: at one index n{i} says 410 up to {max(floor, gone)}, another {shown[m.made]}")

    def _may_read(self, s: State) -> bool:
        m = s.members[s.read[0]]
        return (
            self.serving(m) and self.logs.holds(m.at, s.read[1]) and all(self._touch_settled(m, k) for k in self.keys)
        )

    def _finish_read(self, s: State) -> State:
        """A read that waited, of all keys: by R7 from one point; else key by key, the first at its first chance."""
        i, index, seen, had = s.read
        m = s.members[i]
        now = {k: self.facts(self.visible(m)).keys.get(k, (0, None, 0)) for k in self.keys}
        if had is None:
            for key in self.keys:
                self._check_value(s, i, key, now[key], seen)
            if not self.rules.read_many and len(self.keys) > 1:
                return s._replace(read=(i, index, seen, now[self.keys[0]]))
            return s._replace(read=None)
        now[self.keys[0]] = had
        for x in self.logs.path[s.log]:
            facts = self.facts(self.truth(x))
            if all(facts.keys.get(k, (0, None, 0)) == now[k] for k in self.keys):
                return s
        raise Broken(f"R7: keys read together on n{i} are {now}: no moment had both")

    # -- steps ------------------------------------------------------------------------------------------------------

    def steps(self, s: State) -> Iterator[tuple[str, Callable[[], State]]]:
        """Yield (what happens, thunk that builds the next state or raises Broken)."""
        yield from self._orders(s)
        for i, m in enumerate(s.members):
            if m.up == "down":
                yield f"n{i} starts", lambda i=i: self._starts(s, i)
                yield from self._tampers(s, i, m)
                continue
            yield from self._log_steps(s, i, m)
            if m.up == "up":
                yield from self._up_steps(s, i, m)
            if m.up == "lost":
                yield from self._fetch_steps(s, i, m)
            yield from self._stops(s, i, m)
            if self._has(s, "elections") and s.leader != i and m.counts:
                yield from self._elections(s, i, m)
        yield from self._cluster_faults(s)
        yield from self._feeds(s)
        if self._has(s, "reads") and s.read is None and s.leader >= 0 and self.quorate(s):
            for i, m in enumerate(s.members):
                if m.up == "up" and m.at != s.log:
                    yield (
                        f"a read starts on n{i}, read index {self.logs.depth[s.log]}",
                        lambda i=i: self._use(s, "reads")._replace(read=(i, s.log, s.seen, None)),
                    )

    def _orders(self, s: State) -> Iterator[tuple[str, Callable[[], State]]]:
        """What the leader puts into the log: on the disks of a quorum at once, of the others now or later."""
        if s.leader < 0 or s.members[s.leader].up == "down" or s.stopped:
            return
        able = [i for i, m in enumerate(s.members) if m.up != "down" and m.log == s.log and m.counts]
        if len(able) < self.quorum:
            return
        facts = self.facts(self.truth(s.log))
        entries: list[tuple[tuple, int]] = []
        for n, (names, _) in enumerate(self.scenario.commands):
            if s.left[n]:
                entries.append((("submit", names), n))
        base = len(self.scenario.commands)

        def offer(name: str, entry: tuple) -> None:
            if self._has(s, name):
                entries.append((entry, base + BUDGETS.index(name)))

        offer("ticks", ("tick",))
        top = facts.cursor if self.rules.prune_cursor and self.scenario.publishes else facts.rev
        if top > facts.floor:
            offer("prunes", ("prune", top))
        if any(v[2] for v in facts.keys.values()) and facts.time >= 1:
            offer("due", ("due", next(k for k, v in facts.keys.items() if v[2])))
        done = s.pub if self.rules.cursor_after else self.facts(s.members[s.leader].made).rev
        if done > facts.cursor:
            offer("cursors", ("cursor", done))
        offer("configs", ("config", 2))
        if all(m.speaks >= 2 for m in s.members) or not self.rules.level_all:
            offer("levels", ("level", 2))
        for entry, n in entries:
            log = self.append(s.log, entry)
            for group in itertools.combinations(able, self.quorum) if self.scenario.lag else [able]:
                where = f" on the disks of {' '.join(f'n{i}' for i in group)}" if self.scenario.lag else ""
                yield (
                    f"{_show(entry)} is ordered{where}",
                    lambda log=log, group=group, n=n: self._spend(self._logged(s, group, log), n),
                )

    def _logged(self, s: State, group: Any, log: int) -> State:
        members = tuple(m._replace(log=log) if i in group else m for i, m in enumerate(s.members))
        return s._replace(log=log, members=members)

    def _log_steps(self, s: State, i: int, m: Member) -> Iterator[tuple[str, Callable[[], State]]]:
        if s.leader < 0 or m.log == s.log or s.members[s.leader].up == "down":
            return
        if self.logs.holds(s.log, m.log):
            ahead = m.up == "up" and self.logs.depth[m.at] > self.logs.depth[m.log] and self.logs.holds(s.log, m.at)
            if ahead or s.members[s.leader].base <= self.logs.depth[m.log]:  # ahead: it has received what it applied
                to = s.log if not self.scenario.lag else self.logs.path[s.log][self.logs.depth[m.log] + 1]
                yield (
                    f"n{i} has the log up to {self.logs.depth[to]} on its disk",
                    lambda: self._with(s, i, m._replace(log=to, counts=m.counts or to == s.log)),
                )
            elif m.up == "up" and self.logs.depth[m.at] < s.members[s.leader].base:
                yield f"n{i} hears that its next entry is compacted away", lambda: self._loses(s, i, m)
        else:
            yield f"n{i} finds its log overwritten", lambda: self._overwritten(s, i, m)

    def _overwritten(self, s: State, i: int, m: Member) -> State:
        common = self.logs.common(m.log, s.log)
        after = m._replace(log=common, base=min(m.base, self.logs.depth[common]))
        if self.rules.reset and m.up == "up" and not self.logs.holds(s.log, m.at):
            after = _stopped(after)
        elif not self.rules.reset and not self.logs.holds(s.log, m.at):
            depth = min(self.logs.depth[m.at], self.logs.depth[s.log])
            made = min(self.stores.depth[m.made], depth)
            after = after._replace(at=self.logs.path[s.log][depth], made=self.stores.path[m.made][made])
        return self._with(s, i, after)

    def _up_steps(self, s: State, i: int, m: Member) -> Iterator[tuple[str, Callable[[], State]]]:
        sc, rules = self.scenario, self.rules
        made, rows = self.stores.depth[m.made], self.stores.depth[m.rows]
        if (
            m.head
            and rules.cut
            and rules.agree == "once"
            and s.leader >= 0
            and not s.lossy
            and not self._of_log(s, m.rows)
        ):
            yield f"n{i} finds that the end of its file is not of this log", lambda: self._cuts(s, i, m)
            return
        follows = self.logs.holds(s.log, m.at)
        if follows and m.at != s.log and s.leader >= 0 and not s.lossy:
            k = self.logs.depth[m.at] + 1
            full = rules.bound and k - rows > UNWRITTEN_MAX
            if self.sends(s, i, k) and not full:
                log = self.logs.path[s.log][k]
                if sc.slow and m.head == 0:
                    yield f"n{i} applies {_show(self.logs.entry[log])}", lambda: self._with(s, i, m._replace(at=log))
                elif made == k - 1:
                    for said, build in self._evaluates(s, i, m._replace(at=log)):
                        yield f"n{i} applies{said}", build
            elif not full and s.members[s.leader].up != "down" and i != s.leader:
                yield f"n{i} hears that its next entry is compacted away", lambda: self._loses(s, i, m)
            elif not full and i == s.leader:
                yield f"n{i} leads and lacks entries: it needs a state", lambda: self._loses(s, i, m)
        if made < self.logs.depth[m.at] and follows and (sc.slow or m.half):
            for said, build in self._evaluates(s, i, m):
                yield f"n{i} evaluates{said}", build
            if not rules.read_whole and not m.half:
                yield f"n{i} shows a part of {_show(self._next(s, m))}", lambda: self._with(s, i, m._replace(half=True))
        if made > rows and self.stores.holds(m.made, m.rows):
            to = self.stores.path[m.made][rows + 1]
            yield f"n{i} writes index {rows + 1}", lambda to=to: self._with(s, i, m._replace(rows=to))
        if m.safe != m.rows and (sc.powers or sc.blackouts or sc.losses or sc.dumps):
            yield f"n{i} makes its file durable up to {rows}", lambda: self._with(s, i, m._replace(safe=m.rows))
        if self._has(s, "dumps") and m.head == 0:
            to = m.safe if rules.dump_durable else m.made
            d = self.stores.depth[to]
            if d > self.logs.depth[m.dump[0]] and d <= self.logs.depth[m.at]:
                yield (
                    f"n{i} dumps at {d} and compacts its log",
                    lambda to=to: self._use(self._dumps(s, i, m, to), "dumps"),
                )
        if (
            rules.known == "table"
            and not m.swept
            and any(
                self.facts(m.made).time - o[2] >= self.facts(m.made).retention for o in self.facts(m.made).ops.values()
            )
        ):
            yield f"n{i} prunes op_ids", lambda: self._with(s, i, m._replace(swept=True))
        if rules.prune == "own" and sc.prunes and self.gone(m) < self.facts(m.rows).rev:
            yield f"n{i} prunes by itself", lambda: self._with(s, i, m._replace(gone=self.facts(m.rows).rev))

    def _dumps(self, s: State, i: int, m: Member, to: int) -> State:
        d = self.stores.depth[to]
        base = d
        if self.rules.copy_log:
            base = min([d] + [self.logs.depth[x.copy.dump[0]] for x in s.members if x.copy and x.copy.dump])
        log = self.logs.path[m.at][d]
        held = m.log if self.logs.depth[m.log] >= d else log  # the dump takes the place of what the log lacks
        return self._with(s, i, m._replace(dump=(log, to), base=max(m.base, base), log=held))

    def _next(self, s: State, m: Member) -> tuple:
        return self.logs.entry[self.logs.path[m.at][self.stores.depth[m.made] + 1]]

    def _odds(self, s: State, i: int, m: Member, entry: tuple) -> list[tuple]:
        """What may go differently on this member because a rule is away, or because a fault is planted."""
        odds: list[tuple] = [()]
        rules = self.rules
        if entry[0] == "submit":
            ops = [self.scenario.ops[name] for name in entry[1]]
            for on, tag in (
                (rules.late == "clock" and any(op.deadline for op in ops), "clock"),
                (rules.row == "batch", "batch"),
                (rules.row_stamp == "own", "stamped"),
                (rules.order == "set" and len(entry[1]) + len(ops[0].writes) > 2, "set"),
                (rules.values == "staged", "unstaged"),
                (rules.expiry == "own" and any(v[2] for v in self.facts(m.made).keys.values()), "due-gone"),
            ):
                if on:
                    odds.append((tag,))
            if self._has(s, "plants"):
                odds += [("plant-outcomes",), ("plant-values",), ("plant-expiry",), ("plant-keys",)]
        return odds

    def _evaluates(self, s: State, i: int, m: Member) -> Iterator[tuple[str, Callable[[], State]]]:
        k = self.stores.depth[m.made] + 1
        log = self.logs.path[m.at][k]
        entry = self.logs.entry[log]
        if m.head:
            yield f" {_show(entry)} again", lambda: self._replays(s, i, m, log)
            return
        level = max(self.facts(m.made).level, entry[1] if entry[0] == "level" else 1)
        if level > m.speaks and self.rules.level_halt:
            yield (
                f" nothing: it does not speak level {level} and stops",
                lambda: self._with(s, i, m._replace(up="halted")),
            )
            return
        for odd in self._odds(s, i, m, entry):
            said = f" ({' '.join(odd)})" if odd else ""
            yield f" {_show(entry)}{said}", lambda odd=odd: self._evaluated(s, i, m, log, odd)

    def _evaluated(self, s: State, i: int, m: Member, log: int, odd: tuple) -> State:
        rules, facts = self.rules, self.facts(m.made)
        retention = 1 + i % 2 if rules.settings == "own" else 0
        level = m.speaks if rules.level == "own" else min(facts.level, m.speaks)
        row = self.judge(m.made, log, odd, m.swept, retention, level)
        made = self.settle(m.made, log, row)
        after = self._with(s, i, m._replace(made=made, half=False))
        if odd and odd[0].startswith("plant"):
            after = self._use(after, "plants")
        if rules.watch == "live" and row and s.watch[0] == i:
            after = self._watched(after, row)
        return after._replace(seen=max(s.seen, self.logs.depth[log]) if not s.lossy else s.seen)

    # -- restart ----------------------------------------------------------------------------------------------------

    def _starts(self, s: State, i: int) -> State:
        m = s.members[i]
        if self.file_fault(s, m):
            return self._loses(s, i, m)
        d = self.logs.depth[m.dump[0]]
        at, made = m.dump
        if not self.logs.holds(s.log, at):  # only without dump_entry: believed by its index
            d = min(d, self.logs.depth[s.log])
            at, made = self.logs.path[s.log][d], self.stores.path[made][d]
        rows = m.rows
        if m.torn:
            rows = self._hole(rows)
        if self.stores.depth[rows] < d:  # only without file_old: goes on with what is there
            made = rows = self._skipped(rows, at)
        elif self.rules.agree == "none" or m.torn:
            made = self.stores.path[rows][d]
        if not self.stores.holds(rows, made):  # the file says what the machine's rows are
            made = self.stores.path[rows][d]
        head = self.stores.depth[rows] if self.rules.head == "index" else self.facts(rows).rev
        m = m._replace(up="up", at=at, made=made, rows=rows, safe=rows, head=head, half=False, torn=False)
        return self._with(s, i, m._replace(head=0) if self.reached(m) else m)

    def _hole(self, rows: int) -> int:
        """The same file without its first row."""
        made, left = 0, False
        for x in self.stores.path[rows][1:]:
            log, row = self.stores.entry[x]
            made = self.settle(made, log, row if left or row is None else None)
            left = left or row is not None
        return made

    def _skipped(self, rows: int, at: int) -> int:
        for log in self.logs.path[at][self.stores.depth[rows] + 1 :]:
            rows = self.settle(rows, log, None)
        return rows

    def _cuts(self, s: State, i: int, m: Member) -> State:
        """Delete from the file what the log does not hold; versions are only ever added, so what was before is there."""
        kept = max(x for x in self.stores.path[m.rows] if self._of_log(s, x))
        return self._starts(self._with(s, i, _stopped(m)._replace(rows=kept, safe=kept)), i)

    def _replays(self, s: State, i: int, m: Member, log: int) -> State:
        """Bring one more entry into a machine whose file is ahead of it."""
        rules, k = self.rules, self.logs.depth[log]
        if rules.replay == "again":
            row = self.judge(m.rows, log, (), m.swept if rules.known == "table" else None)
            return self._with(s, i, m._replace(made=self.settle(m.made, log, row)))
        if rules.head == "index":
            if k > self.stores.depth[m.rows]:  # the file has nothing of it
                return self._evaluated(s, i, m, log, ())
            theirs = self.stores.path[m.rows][k]
            if rules.agree == "none":
                row = self.stores.entry[theirs][1]
                return self._with(s, i, self._joined(m._replace(made=self.settle(m.made, log, row))))
            if rules.agree == "once":
                if k == self.stores.depth[m.rows] and self.stores.entry[theirs][0] != log:
                    return self._loses(s, i, m)
                return self._with(s, i, m._replace(made=theirs))
        mine = self.judge(m.made, log)
        if mine is None:
            return self._with(s, i, self._joined(m._replace(made=self.settle(m.made, log, None))))
        row = next((r for r in self.facts(m.rows).ledger if r.first == mine.first), None)
        if row is None and self.facts(m.rows).rev < mine.first:
            return self._evaluated(s, i, m, log, ())
        same = row is not None and (row.first, row.last, row.ops) == (mine.first, mine.last, mine.ops)
        if same and rules.agree != "body":
            same = (row.index, row.term, row.time) == (mine.index, mine.term, mine.time)
        if not same:
            if rules.agree != "none":
                return self._loses(s, i, m)
            row = row or mine
        return self._with(s, i, self._joined(m._replace(made=self.settle(m.made, log, row))))

    def _joined(self, m: Member) -> Member:
        """The file is what the machine now says it is, once all its rows are taken."""
        if self.facts(m.made).rev >= self.facts(m.rows).rev and not self.stores.holds(m.made, m.rows):
            if not self.stores.holds(m.rows, m.made):
                return m._replace(rows=m.made, safe=m.made)
        return m

    def _loses(self, s: State, i: int, m: Member) -> State:
        """File and dump are kept aside; the member needs a state. Its log and votes stay (rule)."""
        kept = _stopped(m)._replace(
            up="lost", rows=0, safe=0, dump=(0, 0), gone=0, checked=0, torn=False, copy=None, witness=-1
        )
        if not self.rules.keeps_log:
            kept = kept._replace(log=0, base=0)
        return self._with(s, i, kept)

    # -- a state for others -----------------------------------------------------------------------------------------

    def _fetch_steps(self, s: State, i: int, m: Member) -> Iterator[tuple[str, Callable[[], State]]]:
        if s.leader < 0 or s.lossy:
            return
        if s.members[s.leader].base == 0 or (m.base == 0 and m.log == s.log):
            yield (
                f"n{i} begins anew from the whole log",
                lambda: self._with(
                    s, i, m._replace(up="up", at=0, made=0, rows=0, safe=0, dump=(0, 0), head=0, copy=None)
                ),
            )
        for j, source in enumerate(s.members):
            copy = m.copy
            if j == i or not self.serving(source) or source.head or not self.logs.holds(s.log, source.at):
                continue
            if copy and copy.source != j:
                continue
            need_dump, need_rows = copy is None or copy.dump is None, copy is None or copy.rows is None
            if (
                need_dump
                and (need_rows if self.rules.copy_order else True)
                and source.dump[0]
                and (self.logs.depth[source.dump[0]] >= s.members[s.leader].base or not self.rules.copy_source)
                and (self.logs.depth[source.dump[0]] >= m.base or not self.rules.copy_base)
            ):
                had = copy or Copy(j, s.term, None, None, 0)
                yield (
                    f"n{i} gets the dump of n{j} at {self.logs.depth[source.dump[0]]}",
                    lambda had=had, source=source: self._with(s, i, m._replace(copy=had._replace(dump=source.dump))),
                )
            if need_rows and (not need_dump or not self.rules.copy_order):
                had = copy or Copy(j, s.term, None, None, 0)
                gone = self.gone(source)
                if self.rules.copy_prune and had.dump:
                    gone = min(gone, self.facts(had.dump[1]).rev)
                got = had._replace(rows=source.rows, gone=gone)
                yield (
                    f"n{i} copies the database of n{j} at {self.stores.depth[source.rows]}",
                    lambda got=got: self._with(s, i, m._replace(copy=got)),
                )
                if not self.rules.copy_whole and had.dump and source.rows != had.dump[1]:
                    got = had._replace(rows=self._hole(source.rows), gone=gone)
                    yield (
                        f"n{i} copies parts of the database of n{j} at several moments",
                        lambda got=got: self._with(s, i, m._replace(copy=got)),
                    )
        copy = m.copy
        if copy and copy.dump is not None and copy.rows is not None:
            if self.rules.source != "wait" or not self.scenario.plants or self._agreed(s, i, copy.rows):
                yield f"n{i} puts the copy in place", lambda: self._installs(s, i, m)
        if copy and copy.term != s.term:
            yield f"n{i} drops a copy begun under another leader", lambda: self._with(s, i, m._replace(copy=None))

    def _agreed(self, s: State, i: int, rows: int) -> bool:
        """Whether a majority of the members, without the receiver, has this digest at the copy's head."""
        depth, want = self.stores.depth[rows], self.facts(rows).digest
        return (
            sum(
                j != i
                and m.up == "up"
                and self.stores.depth[m.made] >= depth
                and self.facts(self.stores.path[m.made][depth]).digest == want
                for j, m in enumerate(s.members)
            )
            >= self.quorum
        )

    def _installs(self, s: State, i: int, m: Member) -> State:
        copy = m.copy
        d = self.logs.depth[copy.dump[0]]
        own = self.logs.depth[m.log] >= d and self.logs.holds(m.log, copy.dump[0]) and m.base <= d
        m = m._replace(
            up="down",
            dump=copy.dump,
            rows=copy.rows,
            safe=copy.rows,
            gone=copy.gone,
            copy=None,
            witness=self._witness(s, copy.source) if self.scenario.plants else -1,
            log=m.log if own else copy.dump[0],
            base=d,
        )
        if not self.scenario.plants and self.logs.holds(s.log, copy.dump[0]):
            fault = self.file_fault(s, m)
            if fault:
                raise Broken(f"R6: n{i} has fetched a state that cannot be used: {fault}")
            if s.leader >= 0 and not own and s.members[s.leader].base > d and copy.term == s.term:
                raise Broken(f"R6: n{i} has fetched a state at {d}, the log behind it is gone")
        return self._with(s, i, m)

    def _witness(self, s: State, source: int) -> int:
        return source if s.members[source].witness < 0 else s.members[source].witness

    # -- faults -----------------------------------------------------------------------------------------------------

    def _stops(self, s: State, i: int, m: Member) -> Iterator[tuple[str, Callable[[], State]]]:
        if self._has(s, "crashes"):
            reach = (
                m.at
                if self.logs.holds(s.log, m.at) and self.logs.holds(m.at, m.log) and (m.base <= self.logs.depth[m.log])
                else m.log
            )
            yield (
                f"n{i} is killed",
                lambda: self._down(
                    self._use(self._with(s, i, _stopped(m)._replace(log=reach, speaks=m.speaks)), "crashes"), i
                ),
            )
        if self._has(s, "powers"):
            for to in self._after_power(m):
                yield (
                    f"n{i} loses power, its file falls back to {self.stores.depth[to]}",
                    lambda to=to: self._down(self._use(self._with(s, i, _stopped(m)._replace(rows=to)), "powers"), i),
                )
        if self._has(s, "wipes"):
            yield (
                f"n{i} loses its disk and comes back empty",
                lambda: self._down(
                    self._use(
                        self._with(s, i, Member(up="lost", counts=not self.rules.votes, speaks=m.speaks)), "wipes"
                    ),
                    i,
                ),
            )

    def _after_power(self, m: Member) -> tuple:
        if m.up != "up":
            return (m.rows,)
        low, high = self.stores.depth[m.safe], self.stores.depth[m.rows]
        return self.stores.path[m.rows][low : high + 1] if self.stores.holds(m.rows, m.safe) else (m.rows,)

    def _down(self, s: State, i: int) -> State:
        return s._replace(leader=-1 if s.leader == i else s.leader)

    def _tampers(self, s: State, i: int, m: Member) -> Iterator[tuple[str, Callable[[], State]]]:
        if self._has(s, "upgrades"):
            yield (
                f"n{i} gets a release that speaks level {3 - m.speaks}",
                lambda: self._use(self._with(s, i, m._replace(speaks=3 - m.speaks)), "upgrades"),
            )
        if not self._has(s, "tampers"):
            return
        rows = self.stores.depth[m.rows]
        if rows:
            yield f"the file of n{i} is torn", lambda: self._use(self._with(s, i, m._replace(torn=True)), "tampers")
        for to in self.stores.path[m.rows][:-1]:
            yield (
                f"the file of n{i} is put back to {self.stores.depth[to]}",
                lambda to=to: self._use(self._with(s, i, m._replace(rows=to, safe=to)), "tampers"),
            )
        if rows and any(self.stores.entry[x][1] for x in self.stores.path[m.rows][1:]):
            yield (
                f"the file of n{i} is that of another cluster",
                lambda: self._use(self._with(s, i, m._replace(rows=self._foreign(m.rows))), "tampers"),
            )

    def _foreign(self, rows: int) -> int:
        """As many commands as `rows`, of another history: each no-op of another term, each row of other values."""
        log = store = 0
        for x in self.stores.path[rows][1:]:
            at, row = self.stores.entry[x]
            log = self.append(log, (*self.logs.entry[at], "foreign"))
            if row is not None:
                row = row._replace(term=99, versions=tuple((k, r, "foreign", e) for k, r, _, e in row.versions))
            store = self.settle(store, log, row)
        return store

    def _elections(self, s: State, i: int, m: Member) -> Iterator[tuple[str, Callable[[], State]]]:
        """A quorum votes for a log that is not behind any of theirs."""

        def rank(x: Member) -> tuple:
            return self.logs.meaning[x.log].term, self.logs.depth[x.log]

        voters = [j for j, x in enumerate(s.members) if x.up != "down" and x.counts and rank(x) <= rank(m)]
        if len(voters) < self.quorum:
            return
        yield f"n{i} is elected", lambda: self._elects(s, i, m, voters)

    def _elects(self, s: State, i: int, m: Member, voters: list[int]) -> State:
        s = self._use(s, "elections")
        if not self.logs.holds(m.log, s.log):
            if not s.lossy:
                raise Broken(f"INV-2: n{i} is elected without entries that were acknowledged")
            s = s._replace(seen=min(s.seen, self.logs.depth[self.logs.common(m.log, s.log)]))
        facts = self.facts(self.truth(self.logs.common(m.log, s.log)))
        s = s._replace(published=min(s.published, facts.rev), watch=(s.watch[0], min(s.watch[1], facts.rev)))
        log, group = self.append(m.log, ("noop", s.term + 1)), []
        s = s._replace(log=m.log)
        for j in voters:
            x = s.members[j]
            if m.base <= self.logs.depth[self.logs.common(m.log, x.log)]:
                if not self.logs.holds(m.log, x.log):
                    s = self._overwritten(s, j, x)
                group.append(j)
        if len(group) >= self.quorum:
            s = self._logged(s, group, log)
        elif s.lossy:
            raise Impossible  # the model has no entry that is not committed
        s = s._replace(leader=i, term=s.term + 1, lossy=False)
        mine = self.facts(s.members[i].made)
        return s._replace(pub=mine.rev if self.rules.cursor == "own" else mine.cursor)

    def _cluster_faults(self, s: State) -> Iterator[tuple[str, Callable[[], State]]]:
        if self._has(s, "blackouts"):
            options = [self._after_power(m) if m.up == "up" else (m.rows,) for m in s.members]
            for fall in set(itertools.product(*[{o[0], o[-1]} for o in options])):
                said = " ".join(str(self.stores.depth[x]) for x in fall)
                yield f"all lose power, the files fall back to {said}", lambda fall=fall: self._blackout(s, fall)
        if self._has(s, "losses") and self.logs.depth[s.log]:
            for group in itertools.combinations(range(self.scenario.members), self.quorum):
                for lost in range(1, min(3, self.logs.depth[s.log]) + 1):
                    yield (
                        f"{' '.join(f'n{i}' for i in group)} lose power and the last {lost} entries of their logs",
                        lambda group=group, lost=lost: self._loss(s, group, lost),
                    )
        if self.rules.compare and self.scenario.plants:
            yield from self._compares(s)

    def _blackout(self, s: State, fall: tuple) -> State:
        members = tuple(
            m if m.up == "down" else _stopped(m)._replace(rows=rows, up="lost" if m.up == "lost" else "down")
            for m, rows in zip(s.members, fall)
        )
        return self._use(s._replace(members=members, leader=-1), "blackouts")

    def _loss(self, s: State, group: tuple, lost: int) -> State:
        members = list(s.members)
        for i in group:
            m = members[i]
            keep = max(self.logs.depth[s.log] - lost, self.logs.depth[m.dump[0]], m.base)
            log = m.log if self.logs.depth[m.log] <= keep else self.logs.path[m.log][keep]
            members[i] = _stopped(m)._replace(log=log, up=m.up if m.up == "lost" else "down")
        return self._use(s._replace(members=tuple(members), leader=-1, lossy=True), "losses")

    def _compares(self, s: State) -> Iterator[tuple[str, Callable[[], State]]]:
        up = [
            (i, m) for i, m in enumerate(s.members) if self.serving(m) and m.head == 0 and self.logs.holds(s.log, m.at)
        ]
        if len(up) < 2:
            return
        k = min(self.stores.depth[m.made] for _, m in up)
        if k == 0 or not self.facts(self.stores.path[up[0][1].made][k]).ledger or all(m.checked >= k for _, m in up):
            return
        yield f"n{' n'.join(str(i) for i, _ in up)} compare digests at {k}", lambda: self._compared(s, up, k)

    def _compared(self, s: State, up: list, k: int) -> State:
        at = {i: self.facts(self.stores.path[m.made][k]).digest for i, m in up}
        groups = {d: [i for i in at if at[i] == d] for d in at.values()}
        seen = {
            d: {i if self.rules.source != "one" or s.members[i].witness < 0 else s.members[i].witness for i in group}
            for d, group in groups.items()
        }
        right = next((d for d, group in seen.items() if len(group) >= self.quorum), None)
        if right is None and len(groups) > 1 and self.rules.compare_guess:
            right = at.get(s.leader, at[up[0][0]])
        for i, m in up:
            if right is None:
                continue
            if at[i] == right:
                s = self._with(s, i, m._replace(checked=k, witness=-1))
                continue
            if self.stores.path[m.made][k] == self.truth(self.logs.path[s.log][k]):
                raise Broken(f"R3: n{i} is right and throws its state away")
            s = self._loses(s, i, m)
        return s._replace(stopped=right is None and len(groups) > 1)

    # -- feeds ------------------------------------------------------------------------------------------------------

    def _feeds(self, s: State) -> Iterator[tuple[str, Callable[[], State]]]:
        if self.scenario.publishes and s.leader >= 0:
            m = s.members[s.leader]
            pos = max(s.pub, self.facts(m.made).cursor) if self.rules.cursor_follows else s.pub
            if self.serving(m) and pos < self.facts(m.made).rev:
                yield f"n{s.leader} publishes what follows {pos}", lambda m=m, pos=pos: self._published(s, m, pos)
        if not self.scenario.watches:
            return
        for i, m in enumerate(s.members):
            if self.serving(m) and s.watch[0] != i:
                yield f"the watcher at {s.watch[1]} goes to n{i}", lambda i=i: s._replace(watch=(i, s.watch[1]))
        i, pos = s.watch
        if i >= 0 and self.rules.watch == "ledger" and self.serving(s.members[i]):
            m = s.members[i]
            row = next((r for r in self.facts(m.made).ledger if r.last > pos), None)
            if row and pos >= max(self.facts(m.made).floor, 0):
                yield f"n{i} feeds the watcher what follows {pos}", lambda m=m: self._fed(s, m, row)

    def _fed(self, s: State, m: Member, row: Row) -> State:
        if row.first <= self.gone(m) and row.index <= self.stores.depth[m.rows]:
            raise Broken(f"INV-6: the rows that a watcher at {s.watch[1]} needs are pruned, and no 410 says so")
        return self._watched(s, row)

    def _watched(self, s: State, row: Row) -> State:
        if row.first != s.watch[1] + 1:
            raise Broken(f"INV-6: a watcher at {s.watch[1]} gets revisions {row.first} to {row.last}")
        return s._replace(watch=(s.watch[0], row.last))

    def _published(self, s: State, m: Member, pos: int) -> State:
        row = next(r for r in self.facts(m.made).ledger if r.last > pos)
        if row.first <= self.gone(m) and row.index <= self.stores.depth[m.rows]:
            raise Broken(f"INV-6: the publisher is at {pos}, the rows after it are pruned")
        if row.first > s.published + 1:
            raise Broken(f"INV-6: {row.first} is published, {s.published + 1} never was")
        return s._replace(pub=row.last, published=max(s.published, row.last))

    # -- small change -----------------------------------------------------------------------------------------------

    def _with(self, s: State, i: int, m: Member) -> State:
        return s._replace(members=s.members[:i] + (m,) + s.members[i + 1 :])

    def _has(self, s: State, name: str) -> bool:
        return s.left[len(self.scenario.commands) + BUDGETS.index(name)] > 0

    def _use(self, s: State, name: str) -> State:
        return self._spend(s, len(self.scenario.commands) + BUDGETS.index(name))

    def _spend(self, s: State, i: int) -> State:
        return s._replace(left=s.left[:i] + (s.left[i] - 1,) + s.left[i + 1 :])


def _stopped(m: Member) -> Member:
    """A member without its memory."""
    return m._replace(up="lost" if m.up == "lost" else "down", at=0, made=0, head=0, half=False, checked=0, copy=None)


def _row(row: Row | None) -> str:
    if row is None:
        return "no row"
    said = " ".join(f"{n}={o}" for n, o in zip(row.ops, row.outcomes))
    odd = f" {row.odd}" if row.odd else ""
    return f"row {row.index}/{row.term} ({row.first}-{row.last} {said}{odd})"


def _show(entry: tuple) -> str:
    match entry:
        case ("submit", names, *_):
            return f"Submit({' '.join(names)})"
        case (kind, what):
            return f"{kind.capitalize()}({what})"
        case (kind,):
            return kind.capitalize()
    raise AssertionError(entry)
