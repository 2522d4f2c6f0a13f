"""Say which steps Acordo's write and read protocol can take from a state, and which states break a promise.

The protocol is a set of named rules (`Rules`); a variant is the same model with a rule changed. It never explores by
itself (`acordo_model.py` does) and never talks to a network, a clock or a store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Iterator, NamedTuple

# ----------------------------------------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Rules:
    """The protective rules. The defaults are the protocol of DESIGN.md."""

    fence: bool = True  # a group lands only where the ledger ends at (first - 1)
    fence_digest: bool = True  # ... with the digest that the committer built on
    fence_row: bool = True  # ... and only at the place right behind the very row it was built on; taking over (and
    # resolving an unknown commit) appends an empty row, which takes that place
    fence_ordered: bool = True  # ... if that row's term is not above its own
    digest_check: bool = True  # head and Settle are compared by digest, not by revision alone
    reads_head: bool = True  # taking over reads the head
    waits_noop: bool = True  # taking over first applies the no-op of the leader's own term
    ledger_outcomes: bool = True  # a resolved commit takes outcomes from the ledger, not from the evaluation in hand
    rebase_rows: bool = True  # Rebase carries op_id and outcome of every ledger row after the settled revision
    rebase_floor: bool = True  # Rebase raises the floor to the head
    rebase_touch: bool = True  # intents that Rebase orders again are entered in last[key] with their new revision
    rebase_stale: bool = True  # a Rebase or Settle at or below the settled revision is ignored
    rebase_base: bool = True  # a Rebase whose rows do not continue the machine's settled revision is ignored
    rebase_feeds: bool = True  # watchers get the ledger rows that a Rebase steps over
    judge_floor: bool = True  # an entry holds iff max(last[key], floor) <= as_of (also when the key is known)
    readindex_taken: bool = True  # a leader answers ReadIndex only once it has taken over
    readindex_entry: bool = True  # a reader checks that its log holds the very entry (term too) at the read index
    as_of: str = "head"  # head (of the read's own snapshot) | settled_start | settled_end | applied_start | row_only
    range_touch: bool = True  # a delete of a range touches the range when it is ordered, not its keys when it settles
    range_floor: bool = True  # a range that is forgotten raises the floor
    touch: str = "submit"  # last[key] is raised when the intent is ordered (submit) or settled (settle)
    dedupe: bool = True  # the machine keeps op_id -> outcome
    store_dedupe: bool = True  # the store keeps op_id unique: a known op_id lands without effect
    reset: bool = True  # a node whose applied log is not the leader's throws its machine away, replays
    publish: str = "cursor"  # cursor: the leader publishes ledger rows in order; own: what it committed itself
    refuse_behind: bool = True  # a node whose settled revision is above the head refuses reads of the store


class Op(NamedTuple):
    """One intent: put `value` (None: delete) under `key`, if `guard` (key, expected value) holds."""

    key: str
    value: str | None
    guard: tuple[str, str | None] | None = None
    deadline: bool = False  # the committer's clock may call it expired
    ranged: tuple[str, ...] = ()  # delete what is there of these keys, a range: which are, the ledger alone can say


@dataclass(frozen=True)
class Scenario:
    """Bounds: how often each thing may happen on one path."""

    name: str
    ops: dict[str, Op]
    submits: dict[str, int]
    nodes: int = 2
    elections: int = 1
    losses: int = 0  # elections in which Raft loses committed entries
    lost_max: int = 2  # how many at once
    ambiguous: int = 0  # commits whose answer is lost (the transaction may land later)
    crashes: int = 0
    reads: int = 0  # reads that wait for a lagging node (others are checked in every state)
    restores: int = 0  # the store loses its newest row
    window: int = 99  # op_ids kept by the machine
    recent: int = 99  # keys kept in last[]
    ranges: int = 99  # ranges kept beside it
    publishes: bool = False
    lazy: bool = False  # followers apply only when elected (a reduction, see README)
    start: tuple[str, ...] = ()  # steps taken before exploring (each is the beginning of a step's name)
    states_max: int = 400_000


# ----------------------------------------------------------------------------------------- state and its two tries


class Machine(NamedTuple):
    """The replicated state machine after one log prefix, and what applying the newest entry made the node say."""

    rev: int = 0
    dig: int = 0
    pending: tuple = ()  # (revision, op_id, digest)
    settled: tuple = (0, 0)  # (revision, digest)
    done: tuple = ()  # (op_id, outcome, revision), oldest first, at most Scenario.window
    last: tuple = ()  # (key, revision), oldest first, at most Scenario.recent
    ranges: tuple = ()  # (keys, revision), oldest first, at most Scenario.ranges
    floor: int = 0
    term: int = 0  # newest no-op applied
    answers: tuple = ()  # (op_id, outcome, revision) told to waiting clients by the newest entry
    fed: tuple = ()  # (op_id, outcome, revision) told to watchers by the newest entry
    refreshed: tuple = ()  # cache entries written by the newest entry


class Store(NamedTuple):
    """What one ledger means: head of the chain, rows per key, outcome per op_id."""

    head: tuple = (0, 0)
    rows: tuple = ()  # (key, value, revision, op_id)
    ops: tuple = ()  # (op_id, outcome, revision)
    ledger: tuple = ()  # (revision, op_id, outcome, digest)


class Txn(NamedTuple):
    status: str  # sent | landed | fenced
    term: int  # the committer's term
    row: int  # place in the chain of the row it builds on
    prev: tuple  # (revision, digest) there
    items: tuple  # (revision, op_id, digest)
    expired: str | None  # op_id that this committer's clock calls expired


class Node(NamedTuple):
    hist: int = 0  # the log prefix it has applied (id in the log trie)
    stage: str = "follower"  # follower | elected | waits | taken
    term: int = 0
    head: tuple = (0, 0)  # the committer's head; in `waits`: what it has proposed to adopt
    row: int = 0  # place in the chain of the row that it builds on
    txn: Txn | None = None
    plan: tuple | None = None  # proposal not yet in the log
    mine: str | None = None  # only without ledger_outcomes: its own verdict "expired" of an unresolved commit


class State(NamedTuple):
    log: int
    leader: int
    term: int
    nodes: tuple
    store: int
    chain: tuple  # (place, term) of the newest ledger row, empty rows included
    orphans: tuple  # transactions whose committer no longer waits; may land at any time
    cache: tuple  # (key, version, as_of): every entry that any cache could ever hold
    seen: int  # newest revision that some client knows of (acknowledged or read)
    read: tuple | None  # (node, log at the read index, seen at its start): a read that waits
    published: int
    left: tuple  # what may still happen: submits per op, then elections, losses, ...


LEFT = ("elections", "losses", "ambiguous", "crashes", "reads", "restores")


class Broken(Exception):
    """A promise does not hold in the state being built."""


class Trie:
    """Give each sequence a small number, so that states compare fast; 0 is the empty one."""

    def __init__(self, root: Any) -> None:
        self.parent, self.entry, self.depth, self.meaning = [0], [None], [0], [root]
        self.path: list[tuple] = [(0,)]
        self._child: dict[tuple, int] = {}

    def find(self, at: int, entry: Any) -> int | None:
        return self._child.get((at, entry))

    def add(self, at: int, entry: Any, meaning: Any) -> int:
        new = len(self.entry)
        self._child[(at, entry)] = new
        self.parent.append(at)
        self.entry.append(entry)
        self.depth.append(self.depth[at] + 1)
        self.meaning.append(meaning)
        self.path.append(self.path[at] + (new,))
        return new

    def holds(self, longer: int, shorter: int) -> bool:
        """Say whether `shorter` is a prefix of `longer`."""
        depth = self.depth[shorter]
        return depth <= self.depth[longer] and self.path[longer][depth] == shorter

    def common(self, a: int, b: int) -> int:
        return max(x for x in self.path[a] if self.holds(b, x))


def version(store: Store, key: str, at: int) -> tuple:
    """Return (revision, op_id) of the newest change of `key` at or below revision `at`."""
    found = (0, "")
    for rev, op_id, outcome, _, changed in store.ledger:
        if key in changed and outcome == "applied" and rev <= at:
            found = (rev, op_id)
    return found


# ----------------------------------------------------------------------------------------------------------- model


class Model:
    """Successor function of the protocol under `rules` within the bounds of `scenario`."""

    def __init__(self, rules: Rules, scenario: Scenario) -> None:
        self.rules, self.scenario = rules, scenario
        self.keys = sorted({key for op in scenario.ops.values() for key in (op.ranged or (op.key,))})
        self.op_ids = sorted(scenario.ops)
        self.logs, self.stores = Trie(Machine()), Trie(Store())
        self._digests: dict[tuple, int] = {}

    def initial(self) -> State:
        sc = self.scenario
        left = tuple(sc.submits.get(op_id, 1) for op_id in self.op_ids) + tuple(getattr(sc, name) for name in LEFT)
        leader = Node(stage="taken", term=0)
        return State(
            0,
            0,
            0,
            (leader,) + (Node(),) * (sc.nodes - 1),
            0,
            (0, 0),
            (),
            tuple((key, (0, ""), 0) for key in self.keys),
            0,
            None,
            0,
            left,
        )

    # -- the replicated state machine -------------------------------------------------------------------------------

    def digest(self, before: int, op_id: str) -> int:
        """Roll the digest over one more intent (exact: equal numbers mean equal histories)."""
        return self._digests.setdefault((before, op_id), len(self._digests) + 1)

    def append(self, log: int, entry: tuple) -> int:
        found = self.logs.find(log, entry)
        return found if found is not None else self.logs.add(log, entry, self.apply(self.logs.meaning[log], entry))

    def apply(self, m: Machine, entry: tuple) -> Machine:
        m = m._replace(answers=(), fed=(), refreshed=())
        match entry:
            case ("noop", term):
                return m._replace(term=term)
            case ("submit", op_id):
                return self._apply_submit(m, op_id)
            case ("settle", rev, dig, rows):
                return self._apply_settle(m, rev, dig, rows)
            case ("rebase", rev, dig, rows):
                return self._apply_rebase(m, rev, dig, rows)
        raise AssertionError(entry)

    def _apply_submit(self, m: Machine, op_id: str) -> Machine:
        if self.rules.dedupe:
            for known, outcome, rev in m.done:
                if known == op_id:
                    return m._replace(answers=((op_id, outcome, rev),))
            if any(p[1] == op_id for p in m.pending):
                return m
        rev, dig = m.rev + 1, self.digest(m.dig, op_id)
        m = m._replace(rev=rev, dig=dig, pending=m.pending + ((rev, op_id, dig),))
        return self._touch(m, op_id, rev) if self.rules.touch == "submit" else m

    def _touch(self, m: Machine, op_id: str, rev: int) -> Machine:
        op = self.scenario.ops[op_id]
        if op.ranged:
            return self._touch_range(m, op.ranged, rev) if self.rules.range_touch else m
        return self._touch_key(m, op.key, rev)

    def _touch_range(self, m: Machine, keys: tuple, rev: int) -> Machine:
        ranges, floor = m.ranges + ((keys, rev),), m.floor
        while len(ranges) > self.scenario.ranges:
            floor, ranges = max(floor, ranges[0][1]) if self.rules.range_floor else floor, ranges[1:]
        return m._replace(ranges=ranges, floor=floor)

    def _touch_key(self, m: Machine, key: str, rev: int) -> Machine:
        last = tuple(x for x in m.last if x[0] != key) + ((key, rev),)
        floor = m.floor
        while len(last) > self.scenario.recent:
            floor, last = max(floor, last[0][1]), last[1:]
        return m._replace(last=last, floor=floor)

    def _apply_settle(self, m: Machine, rev: int, dig: int, rows: tuple) -> Machine:
        rules = self.rules
        if rev <= m.settled[0] and rules.rebase_stale:
            return m
        if rules.digest_check and not any(p[0] == rev and p[2] == dig for p in m.pending):
            return m  # not our order: the leader has to take over again
        rows = tuple(r for r in rows if r[0] > m.settled[0])
        if [r[0] for r in rows] != list(range(m.settled[0] + 1, rev + 1)):
            return m  # built for an older settled revision
        by_rev = {r[0]: r for r in rows}
        ours = tuple(p for p in m.pending if p[0] <= rev)
        said = tuple((p[1], by_rev[p[0]][2], p[0]) for p in ours)
        if rules.touch == "settle":
            for op_id, _, at in said:
                m = self._touch(m, op_id, at)
        ops = self.scenario.ops
        for op_id, _, at in () if rules.range_touch else said:
            for key in ops[op_id].ranged:
                m = self._touch_key(m, key, at)
        newest = {
            key: (at, op_id) for op_id, outcome, at in said if outcome == "applied" for key in by_rev[at][3]
        }
        return m._replace(
            pending=tuple(p for p in m.pending if p[0] > rev),
            settled=(rev, dig),
            fed=said,
            answers=said,
            done=(m.done + said)[-self.scenario.window :],
            refreshed=tuple((key, ver, rev) for key, ver in newest.items()),
        )

    def _apply_rebase(self, m: Machine, rev: int, dig: int, rows: tuple) -> Machine:
        rules = self.rules
        if rev <= m.settled[0] and rules.rebase_stale:
            return m
        if any(p[0] == rev and p[2] == dig for p in m.pending):
            return self._apply_settle(m, rev, dig, rows)  # by now the log does hold that order
        rows = tuple(r for r in rows if r[0] > m.settled[0])
        if rules.rebase_base and [r[0] for r in rows] != list(range(m.settled[0] + 1, rev + 1)):
            return m  # read against a settled revision that Raft then lost
        ours = {p[1] for p in m.pending}
        said = tuple((r[1], r[2], r[0]) for r in rows if r[1] in ours)
        told = tuple((r[1], r[2], r[0]) for r in rows)
        rest = [p[1] for p in m.pending if p[1] not in {r[1] for r in rows}]
        done = m.done + (told if rules.rebase_rows else said)
        m = m._replace(
            settled=(rev, dig),
            answers=said,
            fed=told if rules.rebase_feeds else said,
            done=done[-self.scenario.window :],
            floor=max(m.floor, rev) if rules.rebase_floor else m.floor,
        )
        pending = []
        for op_id in rest:
            rev, dig = rev + 1, self.digest(dig, op_id)
            pending.append((rev, op_id, dig))
            m = self._touch(m, op_id, rev) if rules.rebase_touch else m
        return m._replace(rev=rev, dig=dig, pending=tuple(pending))

    # -- the store --------------------------------------------------------------------------------------------------

    def land(self, store_id: int, chain: tuple, txn: Txn) -> int | None:
        """Run one store transaction; return the new ledger, or None when the fence holds it off."""
        rules, store = self.rules, self.stores.meaning[store_id]
        if rules.fence and store.head[0] != txn.prev[0]:
            return None
        if rules.fence_digest and store.head != txn.prev and rules.fence:
            return None
        if rules.fence_row and (txn.row != chain[0] or (rules.fence_ordered and txn.term < chain[1])):
            return None
        for rev, op_id, dig in txn.items:
            store = self.stores.meaning[store_id]
            op, rows = self.scenario.ops[op_id], {r[0]: r for r in store.rows}
            known = next((o for o in store.ops if o[0] == op_id), None)
            if known and rules.store_dedupe:
                outcome = "again"
            elif op_id == txn.expired:
                outcome = "expired"
            elif op.guard and rows.get(op.guard[0], (None, None))[1] != op.guard[1]:
                outcome = "refused"
            else:
                outcome = "applied"
            if rev != store.head[0] + 1:
                raise Broken(f"INV-6: {op_id}@{rev} is appended to a ledger that ends at {store.head[0]}")
            if known and outcome != "again":
                raise Broken(f"INV-3: {op_id} recorded twice ({known[1]} at {known[2]}, {outcome} at {rev})")
            there = tuple(key for key in op.ranged if rows.get(key, (None, None))[1] is not None)
            changed = there if op.ranged else (op.key,)
            row = (rev, op_id, outcome, dig, changed)
            found = self.stores.find(store_id, row)
            if found is None:
                if outcome == "applied":
                    rows |= {key: (key, op.value, rev, op_id) for key in changed}
                ops = store.ops if known else store.ops + ((op_id, outcome, rev),)
                found = self.stores.add(
                    store_id, row, Store((rev, dig), tuple(sorted(rows.values())), ops, store.ledger + (row,))
                )
            store_id = found
        return store_id

    def rows_after(self, store: Store, rev: int) -> tuple:
        """Ledger rows as a Settle carries them; "again" becomes the outcome that the op_id already has."""
        return tuple((r[0], r[1], r[2], r[4]) for r in store.ledger if r[0] > rev)

    def restored(self, s: State) -> bool:
        """After a restore acknowledged rows are gone, whoever did it: only the refusals are still checked."""
        return self.scenario.restores > 0 and not self._has(s, "restores")

    # -- checks -----------------------------------------------------------------------------------------------------

    def answered(self, s: State, answers: tuple) -> State:
        """Check answers to clients against the ledger (INV-2, 3, 4) and note what clients now know."""
        store = self.stores.meaning[s.store]
        if self.restored(s):
            return s
        for op_id, outcome, rev in answers:
            if outcome == "again":
                continue  # answered from the first record, checked there
            if (op_id, outcome, rev) not in store.ops:
                real = next((o[1:] for o in store.ops if o[0] == op_id), "nothing")
                raise Broken(f"INV-2/4: a client is told {op_id} {outcome} at {rev}, the ledger has {real}")
            s = s._replace(seen=max(s.seen, rev))
        return s

    def check_read(self, s: State, node: Node, need: int) -> None:
        """Check every value that a judged read on `node` could return now against INV-1 and INV-5."""
        m, store = self.logs.meaning[node.hist], self.stores.meaning[s.store]
        if self.restored(s):
            return
        last = dict(m.last)
        for keys, rev in m.ranges:
            last |= {key: max(last.get(key, 0), rev) for key in keys}
        for key, ver, as_of in s.cache:
            if self.rules.judge_floor:
                holds = max(last.get(key, 0), m.floor) <= as_of
            else:
                holds = last[key] <= as_of if key in last else m.floor <= as_of
            if holds:
                if ver != version(store, key, ver[0]):
                    raise Broken(f"INV-5: a read of {key} returns {ver}, which was never committed")
                newest = version(store, key, need)
                if ver < newest:
                    raise Broken(
                        f"INV-1: a read of {key} returns {ver}, a client already knows {newest}; "
                        f"entry as_of {as_of}, last {last.get(key)}, floor {m.floor}"
                    )

    def read_index(self, s: State) -> bool:
        """Say whether some leader answers ReadIndex (its index is the whole log: the log here is the committed one)."""
        if s.leader < 0:
            return False
        leader = s.nodes[s.leader]
        return leader.stage == "taken" or (not self.rules.readindex_taken and leader.stage != "follower")

    def may_serve(self, node: Node, index: int) -> bool:
        if self.rules.readindex_entry and self.rules.reset:
            return self.logs.holds(node.hist, index)  # without reset its log is right but its machine is not
        return self.logs.depth[node.hist] >= self.logs.depth[index]

    def finish(self, s: State) -> State:
        """Check the reads that can complete in this state and let every cache fill that can happen, happen."""
        s = self.fill(s)
        if s.read and self.may_serve(s.nodes[s.read[0]], s.read[1]):
            self.check_read(s, s.nodes[s.read[0]], s.read[2])
            s = s._replace(read=None)
        if self.read_index(s):
            for node in s.nodes:
                if self.may_serve(node, s.log):
                    self.check_read(s, node, s.seen)
        store = self.stores.meaning[s.store]
        if not self.rules.refuse_behind and store.head[0] < s.seen:
            for node in s.nodes:
                if self.logs.meaning[node.hist].settled[0] > store.head[0]:
                    raise Broken("INV-1: a node reads a store whose head is below what the node knows to be settled")
        return s

    def fill(self, s: State) -> State:
        """Add the entries that fills can produce. For one version the largest as_of is the most dangerous: keep it."""
        store, rule = self.stores.meaning[s.store], self.rules.as_of
        machines = [self.logs.meaning[node.hist] for node in s.nodes]
        if self.rules.refuse_behind:
            machines = [m for m in machines if m.settled[0] <= store.head[0]]
        reach = max((m.rev if rule == "applied_start" else m.settled[0] for m in machines), default=0)
        reach = {"row_only": 0, "head": store.head[0] if machines else 0}.get(rule, reach)
        entries = {(key, ver): as_of for key, ver, as_of in s.cache}
        rows = {row[0]: row for row in store.rows}
        for key in self.keys:
            row = rows.get(key)
            ver = row[2:] if row else (0, "")
            own = ver[0] if row and row[1] is not None else 0  # an absent row has no revision of its own
            entries[key, ver] = max(entries.get((key, ver), 0), own, reach)
        if rule == "settled_end":
            entries = {at: max(as_of, reach) for at, as_of in entries.items()}
        return s._replace(cache=tuple(sorted((key, ver, as_of) for (key, ver), as_of in entries.items())))

    # -- steps ------------------------------------------------------------------------------------------------------

    def steps(self, s: State) -> Iterator[tuple[str, Any]]:
        """Yield (what happens, thunk that builds the next state or raises Broken)."""
        for i, node in enumerate(s.nodes):
            yield from self._log_steps(s, i, node)
            yield from self._committer_steps(s, i, node)
        for i, txn in enumerate(s.orphans):
            yield f"late transaction {_items(txn)} reaches the store", lambda i=i: self._orphan_lands(s, i)
        if s.leader >= 0:
            for i, op_id in enumerate(self.op_ids):
                if s.left[i]:
                    yield (
                        f"Submit({op_id}) is ordered",
                        lambda i=i, op_id=op_id: self._spend(s, i)._replace(log=self.append(s.log, ("submit", op_id))),
                    )
        yield from self._fault_steps(s)
        head = self.stores.meaning[s.store].head[0]
        if s.seen < head:
            yield f"a client reads the store directly and sees revision {head}", lambda: s._replace(seen=head)
        if self._has(s, "reads") and s.read is None and self.read_index(s):
            for i, node in enumerate(s.nodes):
                if not self.may_serve(node, s.log):
                    yield (
                        f"a read starts on n{i}, read index {self.logs.depth[s.log]}",
                        lambda i=i: self._use(s, "reads")._replace(read=(i, s.log, s.seen)),
                    )

    def _log_steps(self, s: State, i: int, node: Node) -> Iterator[tuple[str, Any]]:
        logs = self.logs
        if node.hist == s.log or (self.scenario.lazy and node.stage == "follower"):
            return
        if logs.holds(s.log, node.hist):
            entry = logs.entry[logs.path[s.log][logs.depth[node.hist] + 1]]
            yield f"n{i} applies {_show(entry)}", lambda: self._applies(s, i, entry)
        elif self.rules.reset:
            yield f"n{i} finds its log overwritten, starts again from the common part", lambda: self._resets(s, i)
        elif logs.depth[s.log] > logs.depth[node.hist]:
            entry = logs.entry[logs.path[s.log][logs.depth[node.hist] + 1]]
            yield f"n{i} (diverged) applies {_show(entry)}", lambda: self._applies(s, i, entry)

    def _applies(self, s: State, i: int, entry: tuple) -> State:
        node = s.nodes[i]
        before = self.logs.meaning[node.hist]
        node = node._replace(hist=self.append(node.hist, entry))
        m = self.logs.meaning[node.hist]
        if entry[0] in ("settle", "rebase"):
            if node.stage == "waits" and m.settled == node.head:
                node = node._replace(stage="taken")
            elif node.stage == "waits" and m.settled[0] >= entry[1] and m.settled[0] != node.head[0]:
                node = node._replace(stage="elected")
            elif node.stage == "taken" and m.settled[0] > node.head[0]:
                node = node._replace(head=m.settled)
            if not self.restored(s):
                self._check_feed(s, before, m)
        s = self.answered(self._with(s, i, node), m.answers)
        cache = {(key, ver): as_of for key, ver, as_of in s.cache}
        for key, ver, as_of in m.refreshed:
            cache[key, ver] = max(cache.get((key, ver), 0), as_of)
        return s._replace(cache=tuple((key, ver, as_of) for (key, ver), as_of in cache.items()))

    def _check_feed(self, s: State, before: Machine, m: Machine) -> None:
        """Watchers of a node get exactly the ledger rows up to its settled revision, in order (INV-6)."""
        ledger = {(r[1], r[2], r[0]) for r in self.stores.meaning[s.store].ledger}
        for row in m.fed:
            if row not in ledger:
                raise Broken(f"INV-6: watchers are told {row}, which is not in the ledger")
        if [row[2] for row in m.fed] != list(range(before.settled[0] + 1, m.settled[0] + 1)):
            raise Broken(f"INV-6: watchers jump from {before.settled[0]} to {m.settled[0]} with {m.fed}")

    def _resets(self, s: State, i: int) -> State:
        node = s.nodes[i]
        s = self._orphan(s, node)
        kept = Node(hist=self.logs.common(node.hist, s.log))
        read = None if s.read and s.read[0] == i and self.rules.readindex_entry else s.read
        return self._with(s, i, kept)._replace(read=read)

    def _committer_steps(self, s: State, i: int, node: Node) -> Iterator[tuple[str, Any]]:
        txn, m = node.txn, self.logs.meaning[node.hist]
        if node.stage == "elected" and node.plan is None and (m.term >= node.term or not self.rules.waits_noop):
            yield f"n{i} takes over: appends its row, reads the head", lambda: self._takes_over(s, i)
        if node.plan and s.leader >= 0:
            yield (
                f"n{i} proposes {_show(node.plan)}",
                lambda: self._with(s, i, node._replace(plan=None))._replace(log=self.append(s.log, node.plan)),
            )
        if node.stage == "taken" and txn is None:
            items = tuple(p for p in m.pending if p[0] > node.head[0])
            if (
                items
                and items[0][0] == node.head[0] + 1
                and (items[0][2] == self.digest(node.head[1], items[0][1]) or not self.rules.digest_check)
            ):
                for batch in {items[:1], items}:
                    for expired in (None, *(p[1] for p in batch if self.scenario.ops[p[1]].deadline)):
                        sent = Txn("sent", node.term, node.row, node.head, batch, expired)
                        late = f", {expired} past its deadline" if expired else ""
                        yield (
                            f"n{i} sends {_items(sent)}{late}",
                            lambda sent=sent: self._with(s, i, node._replace(txn=sent)),
                        )
        if txn and txn.status == "sent":
            yield f"transaction {_items(txn)} of n{i} runs", lambda: self._lands(s, i)
        if txn and txn.status == "landed" and node.plan is None:
            yield f"n{i} hears COMMIT of {_items(txn)}, answers its clients", lambda: self._committed(s, i)
        if txn and txn.status == "fenced":
            yield f"n{i} hears that {_items(txn)} was fenced off", lambda: self._with(s, i, self._must_read(node, txn))
        if txn and self._has(s, "ambiguous"):
            yield (
                f"n{i} loses the answer to {_items(txn)}",
                lambda: self._use(self._with(self._orphan(s, node), i, self._must_read(node, txn)), "ambiguous"),
            )

    def _must_read(self, node: Node, txn: Txn) -> Node:
        """A committer that does not know where the head is has to read it, exactly as when it takes over."""
        return node._replace(
            txn=None, stage="elected", plan=None, mine=None if self.rules.ledger_outcomes else txn.expired
        )

    def _lands(self, s: State, i: int) -> State:
        txn = s.nodes[i].txn
        landed = self.land(s.store, s.chain, txn)
        node = s.nodes[i]._replace(txn=txn._replace(status="fenced" if landed is None else "landed"))
        return self._appended(self._with(s, i, node), txn, landed)

    def _appended(self, s: State, txn: Txn, landed: int | None) -> State:
        """Put the ledger with the new row in place, after checking that it continues the one it was built on."""
        if landed is None:
            return s
        if self.stores.meaning[s.store].head != txn.prev:
            raise Broken(f"section 3: {_items(txn)} lands on a ledger whose head is not the one it was built on")
        return s._replace(store=landed, chain=(s.chain[0] + 1, txn.term))

    def _orphan_lands(self, s: State, i: int) -> State:
        landed = self.land(s.store, s.chain, s.orphans[i])
        return self._appended(s._replace(orphans=s.orphans[:i] + s.orphans[i + 1 :]), s.orphans[i], landed)

    def _committed(self, s: State, i: int) -> State:
        node, txn, store = s.nodes[i], s.nodes[i].txn, self.stores.meaning[s.store]
        landed = {row[0]: row for row in store.ledger}
        if any(p[0] not in landed for p in txn.items):  # restored in between
            return self._with(s, i, self._must_read(node, txn))
        s = self.answered(s, tuple((p[1], landed[p[0]][2], p[0]) for p in txn.items))
        rev, _, dig = txn.items[-1]
        rows = tuple(r for r in self.rows_after(store, self.logs.meaning[node.hist].settled[0]) if r[0] <= rev)
        s = self._with(s, i, node._replace(txn=None, head=(rev, dig), row=txn.row + 1, plan=("settle", rev, dig, rows)))
        if self.scenario.publishes and self.rules.publish == "own":
            if txn.items[0][0] > s.published + 1:
                raise Broken(f"INV-6: {_items(txn)} is broadcast, revision {s.published + 1} never was")
            s = s._replace(published=max(s.published, rev))
        return s

    def _takes_over(self, s: State, i: int) -> State:
        rules, node, store = self.rules, s.nodes[i], self.stores.meaning[s.store]
        m, head, mine = self.logs.meaning[node.hist], store.head, node.mine
        node = node._replace(mine=None)
        if rules.fence_row:
            place, term = s.chain
            if term > node.term and rules.fence_ordered:
                return self._with(s, i, node._replace(stage="follower"))
            s = s._replace(chain=(place + 1, node.term))
            node = node._replace(row=place + 1)
        if not rules.reads_head:
            return self._with(s, i, node._replace(stage="taken", head=m.settled))
        if head[0] < m.settled[0]:
            return self._with(s, i, node._replace(stage="follower"))  # store behind: refuse writes, ask an operator
        if head[0] == m.settled[0]:
            return self._with(s, i, node._replace(stage="taken", head=m.settled))
        rows = self.rows_after(store, m.settled[0])
        known = any(p[0] == head[0] and (p[2] == head[1] or not rules.digest_check) for p in m.pending)
        if known:
            rows = tuple((r[0], r[1], "expired" if r[1] == mine else r[2], r[3]) for r in rows)
        plan = ("settle" if known else "rebase", *head, rows)
        return self._with(s, i, node._replace(stage="waits", head=head, plan=plan))

    def _fault_steps(self, s: State) -> Iterator[tuple[str, Any]]:
        logs = self.logs
        for i, node in enumerate(s.nodes):
            if self._has(s, "elections") and s.leader != i:
                if logs.holds(s.log, node.hist) or not self.rules.reset:
                    yield f"n{i} is elected", lambda i=i: self._elects(self._use(s, "elections"), i, s.log)
                if self._has(s, "losses"):
                    depth = logs.depth[s.log]
                    for lost in range(1, min(self.scenario.lost_max, depth) + 1):
                        kept = logs.path[s.log][depth - lost]
                        yield (
                            f"n{i} is elected, Raft loses the last {lost} committed entries",
                            lambda i=i, kept=kept: self._elects(
                                self._use(self._use(s, "elections"), "losses"), i, kept
                            ),
                        )
            if self._has(s, "crashes") and (node.stage != "follower" or node.plan):
                yield (
                    f"n{i} crashes and restarts",
                    lambda i=i, node=node: self._use(
                        self._with(self._orphan(s, node), i, Node(hist=node.hist)), "crashes"
                    )._replace(leader=-1 if s.leader == i else s.leader),
                )
        if self._has(s, "restores") and s.store:
            yield (
                "the store is restored from a backup that lacks the newest row",
                lambda: self._use(s, "restores")._replace(
                    store=self.stores.parent[s.store], chain=(max(s.chain[0] - 1, 0), 0)
                ),
            )

    def _elects(self, s: State, i: int, log: int) -> State:
        s = self._orphan(s, s.nodes[i])
        hist = self.logs.common(s.nodes[i].hist, log) if self.rules.reset else s.nodes[i].hist
        node = Node(hist=hist, stage="elected", term=s.term + 1)
        return self._with(s, i, node)._replace(log=self.append(log, ("noop", s.term + 1)), leader=i, term=s.term + 1)

    # -- small change -----------------------------------------------------------------------------------------------

    def _with(self, s: State, i: int, node: Node) -> State:
        return s._replace(nodes=s.nodes[:i] + (node,) + s.nodes[i + 1 :])

    def _orphan(self, s: State, node: Node) -> State:
        if node.txn and node.txn.status == "sent":
            return s._replace(orphans=tuple(sorted(s.orphans + (node.txn,), key=repr)))
        return s

    def _has(self, s: State, name: str) -> bool:
        return s.left[len(self.op_ids) + LEFT.index(name)] > 0

    def _use(self, s: State, name: str) -> State:
        return self._spend(s, len(self.op_ids) + LEFT.index(name))

    def _spend(self, s: State, i: int) -> State:
        return s._replace(left=s.left[:i] + (s.left[i] - 1,) + s.left[i + 1 :])


def _items(txn: Txn) -> str:
    return "[" + " ".join(f"{op_id}@{rev}" for rev, op_id, _ in txn.items) + "]"


def _show(entry: tuple) -> str:
    match entry:
        case ("settle" | "rebase" as kind, rev, _, rows):
            return f"{kind.capitalize()}({rev}: {' '.join(f'{op_id}@{at}={outcome}' for at, op_id, outcome, _ in rows)})"
        case (kind, what):
            return f"{kind.capitalize()}({what})"
    raise AssertionError(entry)
