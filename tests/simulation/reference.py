"""Say what a replicated log makes: evaluate its committed entries once more, in the simplest way.

It shares nothing with what members evaluate by: no machine, no facts, no window. What every member
keeps has to be what stands here, row by row. A log whose suffix a quorum lost has branches.
"""

from __future__ import annotations

import asyncio
import operator
from bisect import bisect_right
from collections import ChainMap
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from coordinator.machine.commands import Amend, Found, Submit, decode
from coordinator.machine.limits import Limits
from kv.content import content_digest, hash_of
from kv.leases import LEASE_KEYS_MAX, SYSTEM_PREFIX, lease_key
from kv.model import (
    GENESIS_DIGEST,
    NODE_OP_ID_PREFIX,
    RANGE_KEYS_MAX,
    RANGE_VALUES_MAX,
    Absent,
    Again,
    Applied,
    AtRevision,
    Cancel,
    Compare,
    DeleteRange,
    EndLease,
    Equals,
    Exists,
    Expired,
    Group,
    Head,
    Intent,
    LedgerRow,
    Mismatch,
    Nested,
    Outcome,
    Put,
    PutWith,
    Recorded,
    RecordedOperation,
    Refused,
    Version,
    roll,
    value_hash,
)

if TYPE_CHECKING:
    from kv.ports import Step
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

SAME: Final = "Replica: same ledger"


@dataclass(frozen=True)
class Made:
    """What the log up to one command has made."""

    index: int = 0
    term: int = 0
    before: Made | None = None
    command: bytes = b""
    stamp_ms: int = 0
    log_time_ms: int = 0
    known_since_ms: int = 0
    """Operations recorded before this are not known: a shorter retention was in force once."""
    revision: int = 0
    digest: bytes = GENESIS_DIGEST
    seq: int = 0
    content: bytes = b""
    found: Found | None = None
    limits: Limits = field(default_factory=Limits)
    floor: int = 0
    cursor: int = 0
    level: int = 1
    row: LedgerRow | None = None
    versions: tuple[Version, ...] = ()
    operations: tuple[RecordedOperation, ...] = ()
    """What is first heard of an op_id in this command, of nodes' op_ids too."""
    made_s: float = 0.0
    """When it was applied first, anywhere."""

    @property
    def recorded(self) -> tuple[RecordedOperation, ...]:
        """Return the operations that a store keeps."""
        return tuple(o for o in self.operations if not o.op_id.startswith(NODE_OP_ID_PREFIX))

    def path(self) -> list[Made]:
        """Return all commands up to this one, oldest first."""
        path: list[Made] = []
        made: Made | None = self
        while made is not None:
            path.append(made)
            made = made.before
        return path[::-1]


class State:
    """What is true after one command."""

    def __init__(self, made: Made) -> None:
        self.made = made
        self.keys: dict[bytes, Version] = {}
        """The newest version of each key, tombstones too."""
        self.operations: dict[str, RecordedOperation] = {}
        """By op_id the newest that was recorded."""
        for each in made.path():
            self.take(each)

    def take(self, made: Made) -> None:
        """Go on to the next command."""
        self.made = made
        self.keys |= {version.key: version for version in made.versions}
        self.operations |= {operation.op_id: operation for operation in made.operations}


class Broken(Exception):
    """What a member made of a command is not what the command says."""


class _Refusal(Exception):
    """An intent that cannot be done."""


class Evaluator:
    """One command on what was made before it."""

    def __init__(self, state: State, now_ms: int, term: int = 0) -> None:
        before = state.made
        self._now_ms, self._term = now_ms, term
        self._since_ms = max(before.known_since_ms, now_ms - before.limits.window_ms)
        self._keys, self._operations = ChainMap({}, state.keys), ChainMap({}, state.operations)
        self.digest, self.revision = before.digest, before.revision
        self.records: list[Recorded] = []
        self.versions: list[Version] = []
        self.operations: list[RecordedOperation] = []

    def known(self, op_id: str) -> RecordedOperation | None:
        """Return how an op_id ended, if its retention is not over."""
        found = self._operations.get(op_id)
        if found is None or found.log_time_ms < self._since_ms:
            return None
        return found

    def add(self, intent: Intent | Cancel, *, dated: bool) -> None:
        """Give an intent its revision and its outcome."""
        self.revision += 1
        self.digest = roll(self.digest, intent.op_id, intent.body_hash)
        known = self.known(intent.op_id)
        keys: tuple[bytes, ...] = ()
        outcome: Outcome
        if known is not None and not intent.op_id.startswith(NODE_OP_ID_PREFIX):
            same = known.body_hash == intent.body_hash or not (known.body_hash and intent.body_hash)
            outcome = Again(known.revision, known.outcome) if same else Mismatch()
        else:
            first, keys = self._end(intent, dated=dated)
            outcome = first
            operation = RecordedOperation(
                intent.op_id, intent.body_hash, self.revision, first, self._now_ms
            )
            self._operations[intent.op_id] = operation
            self.operations.append(operation)
        self.records.append(Recorded(intent.op_id, intent.body_hash, outcome, keys))

    def _end(
        self, intent: Intent | Cancel, *, dated: bool
    ) -> tuple[Applied | Refused | Expired, tuple[bytes, ...]]:
        if isinstance(intent, Cancel) or not dated or self._now_ms > intent.deadline_ms:
            return Expired(), ()
        if any(isinstance(w, EndLease) and w.term not in {0, self._term} for w in intent.writes):
            return Expired(), ()  # a leader of another term has given the lease its ttl since
        seen = tuple(self._at(key) for key in intent.reads)
        try:
            branch: Literal["then", "otherwise"] = "then"
            for number, guard in enumerate(intent.guards):
                if not self._holds(guard):
                    if intent.otherwise is None:
                        return Refused(number, self._at(guard.key), seen), ()
                    branch = "otherwise"
                    break
            writes = intent.writes if branch == "then" else intent.otherwise or ()
            path, taken = self._path(writes)
            return Applied(branch, seen, taken), self._write(path)
        except _Refusal as refusal:
            return Refused(-1, 0, seen, str(refusal)), ()

    def _at(self, key: bytes) -> int:
        version = self._keys.get(key)
        return version.revision if version is not None and version.present else 0

    def _there(self, key: bytes, end: bytes) -> list[Version]:
        """Return what is present in a range."""
        return [
            version
            for there, version in sorted(self._keys.items())
            if version.present
            and (there == key if not end else key <= there and (end == b"\0" or there < end))
            and not (end and there.startswith(SYSTEM_PREFIX))
        ]

    def _holds(self, guard: Any) -> bool:
        if isinstance(guard, Compare):
            return self._compares(guard)
        at = self._at(guard.key)
        match guard:
            case Absent():
                return not at
            case Exists():
                return bool(at)
            case AtRevision():
                return bool(at) and at in guard.revisions
            case Equals():
                value = self._keys[guard.key].value if at else None
                return isinstance(value, bytes) and value_hash(value) == guard.hash
            case _:
                raise TypeError(guard)

    def _compares(self, guard: Compare) -> bool:
        there = self._there(guard.key, guard.end)
        by_order = guard.target == "value" and (guard.end or guard.relation in "<>")
        if len(there) > (RANGE_VALUES_MAX if by_order else RANGE_KEYS_MAX):
            raise _Refusal("too_many_keys")
        if not there:
            if guard.target == "value":
                return False
            there = [Version(guard.key, 0, None)]
        relation = {"=": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt}
        names = {"create": "create_revision", "mod": "revision"}
        field = names.get(guard.target, guard.target)
        holds = relation[guard.relation]
        return all(holds(getattr(version, field), guard.operand) for version in there)

    def _path(self, writes: tuple[Any, ...]) -> tuple[list[Any], tuple[bool, ...]]:
        """Return the writes on the path that is taken, and the branches."""
        path: list[Any] = []
        taken: tuple[bool, ...] = ()
        for write in writes:
            if isinstance(write, Nested):
                held = all(self._holds(guard) for guard in write.guards)
                inner, more = self._path(write.writes if held else write.otherwise)
                path += inner
                taken += (held, *more)
            else:
                path.append(write)
        return path, taken

    def _write(self, writes: list[Any]) -> tuple[bytes, ...]:
        made: dict[bytes, Version] = {}
        deleted = 0
        for write in writes:
            if isinstance(write, EndLease):
                ended = [each.key for each in self._keys.values() if each.lease == write.lease]
                if self._at(write.key):
                    for key in sorted([*ended, write.key]):
                        made[key] = Version(key, self.revision, None)
            elif isinstance(write, DeleteRange):
                there = self._there(write.key, write.end)
                deleted += len(there)
                if deleted > RANGE_KEYS_MAX:
                    raise _Refusal("too_many_keys")
                for version in there:
                    made.setdefault(version.key, Version(version.key, self.revision, None))
            elif isinstance(write, Put | PutWith):
                made[write.key] = self._put(write)
            elif self._at(write.key):
                made[write.key] = Version(write.key, self.revision, None)
        self._check_leases(made)
        self._keys.update(made)
        self.versions += made.values()
        return tuple(made)

    def _check_leases(self, made: dict[bytes, Version]) -> None:
        """Refuse to attach keys to a lease that is not there, or too many to one."""
        if not any(version.lease for version in made.values()):
            return
        after = {**self._keys, **made}
        for version in made.values():
            if version.lease and not self._at(lease_key(version.lease)):
                raise _Refusal("lease_not_found")
            if (
                version.lease
                and sum(each.lease == version.lease for each in after.values()) > LEASE_KEYS_MAX
            ):
                raise _Refusal("lease_full")

    def _put(self, write: Any) -> Version:
        before = self._keys.get(write.key)
        if before is None or not before.present:
            before = None
        value, lease = write.value, 0
        if isinstance(write, PutWith):
            if before is None and (write.keep_value or write.keep_lease):
                raise _Refusal("key_absent")
            value = before.value if before is not None and write.keep_value else value
            lease = before.lease if before is not None and write.keep_lease else write.lease
        if not isinstance(value, bytes):
            raise Broken(f"the log only refers to the value of {write.key!r} (R11)")
        ends_ms = None if write.ttl_ms is None else self._now_ms + write.ttl_ms
        created = self.revision if before is None else before.create_revision
        count = 1 if before is None else before.version + 1
        return Version(write.key, self.revision, value, ends_ms, created, count, lease)


def make(
    state: State, at: tuple[int, int], entry: tuple[int, bytes], row: LedgerRow | None
) -> Made:
    """Return what the entry (stamp and command) at an index and term makes.

    `row` tells only which intents were given a revision: whether an op_id is still in a machine's
    window is the machine's to say, if the op_id is known at all.

    Raises Broken.
    """
    (index, term), (stamp_ms, command) = at, entry
    before, decoded = state.made, decode(command)
    now_ms = max(before.log_time_ms, stamp_ms)
    made = replace(
        before,
        index=index,
        term=term,
        before=before,
        command=command,
        stamp_ms=stamp_ms,
        log_time_ms=now_ms,
        row=None,
        versions=(),
        operations=(),
        made_s=asyncio.get_running_loop().time(),
    )
    match decoded:
        case Submit() if before.found is not None:
            return _submitted(state, made, decoded, row, dated=stamp_ms > 0)
        case Found() if before.found is None:
            start = value_hash(command)  # of what no other history begins with
            return replace(made, found=decoded, limits=decoded.limits, content=start)
        case Amend() if before.found is not None:
            since_ms = max(before.known_since_ms, now_ms - before.limits.window_ms)
            return replace(made, limits=decoded.limits, known_since_ms=since_ms)
        case _:
            return _ordered(made, decoded)


def _ordered(made: Made, command: Any) -> Made:
    """Take what only a replicated log orders: floors, cursors, levels."""
    match type(command).__name__:
        case "Floor":
            if made.floor < command.revision <= made.revision:
                return replace(made, floor=command.revision)
            return made
        case "Cursor":
            return replace(made, cursor=max(made.cursor, command.position))
        case "Level":
            return replace(made, level=max(made.level, command.level))
        case _:
            return made


def _submitted(
    state: State, made: Made, command: Submit, row: LedgerRow | None, *, dated: bool
) -> Made:
    body = row.body if row is not None else ()
    evaluator = Evaluator(state, made.log_time_ms, made.term)
    given: set[tuple[str, bytes]] = set()
    for intent in command.intents:
        attempt = (intent.op_id, intent.body_hash)
        place = len(evaluator.records)
        if place < len(body) and (body[place].op_id, body[place].body_hash) == attempt:
            evaluator.add(intent, dated=dated)
            given.add(attempt)
        elif attempt not in given and evaluator.known(intent.op_id) is None:
            raise Broken(f"{intent.op_id} is new, and was given no revision")
    if not evaluator.records:
        if row is not None:
            raise Broken(f"a row {row.first}..{row.last}, and no intent of it was in the command")
        return made
    versions = tuple(evaluator.versions)
    wanted = LedgerRow(
        made.seq + 1,
        made.term,
        "",
        made.revision + 1,
        evaluator.revision,
        evaluator.digest,
        made.log_time_ms,
        tuple(evaluator.records),
        made.index,
    )
    hashes = tuple(hash_of(version) for version in versions)
    wanted = msgspec.structs.replace(
        wanted, content=content_digest(made.content, wanted, versions, hashes)
    )
    return replace(
        made,
        revision=evaluator.revision,
        digest=evaluator.digest,
        seq=wanted.seq,
        content=wanted.content,
        row=wanted,
        versions=versions,
        operations=tuple(evaluator.operations),
    )


class Reference:
    """What the log of one world makes, and what each member has made of it.

    Besides, it answers what the checks ask of a shared store: what landed, and when.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._begin = Made()
        self._made: dict[tuple[int, int], Made] = {}
        self._indexes: dict[int, Made] = {}
        """Those of the branch that is in force."""
        self._order: list[int] = []
        """Their indexes, rising."""
        self.tip = self._begin
        self._state = State(self._begin)
        self.landed: dict[int, LedgerRow] = {}
        self.landed_s: dict[int, float] = {}
        self.history: dict[bytes, list[Version]] = {}
        self.rows_ever: list[LedgerRow] = []

    # ------------------------------------------------------------------------------- what was made

    def applied(
        self,
        node: SimNode,
        place: tuple[tuple[int, int], tuple[int, int]],
        entry: tuple[int, bytes],
        *,
        step: Step | None,
        row: LedgerRow | None,
    ) -> None:
        """Hold what a member made of an entry (its stamp and command) against what the entry says.
        `place`: the position of the command before, and its own. Without a step the member did not
        evaluate it: its file has `row`.
        """
        before, at = place
        known = self._made.get(at)
        if before == (0, 0) and known is None and self.tip.found is None:
            # a dump from before the history is founded says nothing, not even where it is
            before = self.tip.index, self.tip.term
        elif before == (0, 0) and known is not None and known.before is not None:
            unfounded = known.before.found is None
            before = (known.before.index, known.before.term) if unfounded else before
        if step is not None:
            row = step.group.row if step.group is not None else None
        if known is None:
            known = self._first(node, (before, at), entry, row)
            if known is None:
                return
        elif known.before is not None and (known.before.index, known.before.term) != before:
            self._world.violate(
                SAME,
                f"{node.name} applies {at} behind {before}, others behind {known.before.index}",
            )
        if step is not None and node.file.hurt != "diverged":
            self._compare(node, known, step)
        elif step is None and row != known.row and not node.file.hurt:
            self._world.violate(SAME, f"{node.name} takes {row} from its file at {at}")

    def _first(
        self,
        node: SimNode,
        place: tuple[tuple[int, int], tuple[int, int]],
        entry: tuple[int, bytes],
        row: LedgerRow | None,
    ) -> Made | None:
        before, at = place
        behind = self._begin if before == (0, 0) else self._made.get(before)
        if behind is None:
            self._world.violate(
                SAME, f"{node.name} applies {at} on {before}, which no log ever had"
            )
            return None
        if self._state.made is not behind:
            self._state = State(behind)
        try:
            made = make(self._state, at, entry, row)
        except Broken as exc:
            self._world.violate(SAME, f"{node.name} at {at}: {exc}")
            return None
        self._state.take(made)
        self._made[at] = made
        self._extend(made)
        return made

    def _extend(self, made: Made) -> None:
        if made.before is self.tip:
            self.tip = made
            self._place(made)
            if made.row is not None:
                self._land(made)
            return
        if (made.term, made.index) < (self.tip.term, self.tip.index):
            return  # somebody still applies what a quorum has lost
        self._world.say("a suffix was lost", after=made.before.index if made.before else 0)
        self._world.counts["suffixes lost"] += 1
        self.tip = made
        self._again()

    def _again(self) -> None:
        """Go through the branch that is in force now from its beginning."""
        self.landed, self.landed_s, self.history, self.rows_ever = {}, {}, {}, []
        self._indexes, self._order = {}, []
        for made in self.tip.path():
            self._place(made)
            if made.row is not None:
                self._enter(made, made.row)

    def _place(self, made: Made) -> None:
        self._indexes[made.index] = made
        self._order.append(made.index)

    def _land(self, made: Made) -> None:
        row = made.row
        assert row is not None
        self._enter(made, row)
        group = Group(Head(), row, made.versions, made.recorded)
        self._world.times.landed(group, self._world.times.stamped_s(made.term, made.stamp_ms))
        self._world.leasing.landed(group)
        self._world.say("landed", first=row.first, last=row.last, term=row.term, at=row.index)

    def _enter(self, made: Made, row: LedgerRow) -> None:
        for revision in range(row.first, row.last + 1):
            self.landed[revision] = row
            # the stamp alone says whether it is late, however long a leader's entry takes
            stamped_s = self._world.times.stamped_s(made.term, made.stamp_ms)
            self.landed_s[revision] = made.made_s if stamped_s is None else stamped_s
        for version in made.versions:
            self.history.setdefault(version.key, []).append(version)
        self.rows_ever.append(row)

    def _compare(self, node: SimNode, made: Made, step: Step) -> None:
        group = step.group
        if group is None:
            if made.row is not None:
                self._world.violate(SAME, f"{node.name} makes no row of {made.index}")
            return
        wanted = (made.row, sorted_versions(made.versions), made.recorded)
        found = (group.row, sorted_versions(group.versions), tuple(group.operations))
        if wanted != found:
            parts = [
                f"{there} is to be {here}" for here, there in zip(wanted, found, strict=True)
                if here != there
            ]  # fmt: skip
            self._world.violate(SAME, f"{node.name} at {made.index}: {'; '.join(parts)[:600]}")

    # -------------------------------------------------------------------------------- what is asked

    def at(self, index: int, term: int) -> Made | None:
        """Return what the log up to a command made; None if no member ever applied that."""
        return self._made.get((index, term))

    def in_force(self, index: int) -> Made | None:
        """Return the command at an index of the branch that is in force."""
        return self._indexes.get(index)

    def last_at(self, index: int) -> int:
        """Return the index of the newest command in force at or below an index of the log."""
        place = bisect_right(self._order, index)
        return self._order[place - 1] if place else 0

    def head(self) -> Head:
        return Head(
            self.tip.seq, self.tip.row.term if self.tip.row else 0, "", self.tip.revision,
            self.tip.digest,
        )  # fmt: skip

    def newest(self, key: bytes, at: int) -> Version | None:
        """Return the newest version ≤ `at`."""
        found = None
        for version in self.history.get(key, []):
            if version.revision <= at:
                found = version
        return found


def sorted_versions(versions: Any) -> list[Version]:
    """Return versions in one order: within a revision their order says nothing."""
    return sorted(versions, key=lambda version: (version.revision, version.key))
