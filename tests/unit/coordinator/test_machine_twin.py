"""The machine against its dumb twin, over arbitrary commands: sensible ones, stale, foreign,
broken; with snapshots.
"""

from __future__ import annotations

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from coordinator.machine.commands import (
    Adopt,
    Amend,
    Command,
    Found,
    Rebase,
    Settle,
    Submit,
    decode,
    encode,
)
from coordinator.machine.effects import Effects
from coordinator.machine.limits import Limits
from coordinator.machine.machine import Machine
from coordinator.machine.pending import Mark
from coordinator.machine.snapshot import decode_state, encode_state
from kv.model import (
    Again,
    Applied,
    Cancel,
    Delete,
    Expired,
    Intent,
    LedgerRow,
    Mismatch,
    Ordered,
    Outcome,
    Put,
    Recorded,
    Refused,
    roll,
)
from tests.soundness import broken, fingerprint
from tests.unit.coordinator.twin import Twin

LIMITS = Limits(window_max=5, window_ms=400, recent_max=3)

OP_IDS = ["a", "b", "c", "d", "~n1"]
KEYS = [b"k", b"l", b"m", b"n", b"o"]

writes = st.lists(
    st.one_of(
        st.builds(Put, st.sampled_from(KEYS), st.just(b"v"), st.sampled_from([None, 10])),
        st.builds(Delete, st.sampled_from(KEYS)),
    ),
    max_size=2,
    unique_by=lambda write: write.key,
).map(tuple)
intents = st.one_of(
    st.builds(
        Intent,
        st.sampled_from(OP_IDS),
        st.sampled_from([150, 1 << 50]),
        writes=writes,
        otherwise=st.one_of(st.none(), writes),
    ),
    st.builds(Cancel, st.sampled_from(OP_IDS)),
)
outcomes: st.SearchStrategy[Outcome] = st.sampled_from(
    [Applied(), Applied("otherwise"), Refused(0, 1), Expired(), Again(1, Applied()), Mismatch()]
)
digests = st.sampled_from([bytes(32), b"x" * 32])


class World:
    """Both machines, and the commands that were there already."""

    def __init__(self) -> None:
        self.machine, self.twin = Machine(LIMITS), Twin(LIMITS)
        self.stamp = 100
        self.said: list[Command] = []
        self.verdicts: set[str] = set()
        self.marks = [Mark()]

    def apply(self, command: Command) -> Effects:
        command = decode(encode(command))
        self.said.append(command)
        effects = self.machine.apply(command, self.stamp)
        verdict, told, fed = self.twin.apply(command, self.stamp)
        assert effects.verdict == verdict
        self.verdicts.add(verdict + (" and told" if told else ""))
        assert [(t.op_id, t.body_hash, t.answer) for t in effects.answered] == told
        assert [
            (
                s.previous,
                s.last,
                s.digest,
                s.records,
                None if s.versions is None else list(s.versions),
                s.log_time_ms,
            )
            for s in effects.settled
        ] == fed
        self.compare()
        self.marks.append(self.machine.settled)
        return effects

    def compare(self) -> None:
        machine, twin = self.machine, self.twin
        assert broken(machine) == ()
        assert machine.settled == Mark(twin.settled, twin.settled_digest)
        assert machine.revision == twin.revision
        assert machine.digest == twin.digest_at(twin.revision)
        assert [(p.intent, p.ordered_ms, p.late) for p in machine.pending.values()] == [
            (p.intent, p.ordered_ms, p.late) for p in twin.pending
        ]
        assert list(machine.recent.entries().items()) == twin.last
        assert machine.recent.floor == twin.floor
        assert (machine.log_time_ms, machine.namespace) == (twin.now, twin.namespace)
        assert (machine.limits, machine.founded) == (twin.limits, twin.founded)
        assert (machine.undone.after, machine.undone.to) == twin.undone
        for op_id in OP_IDS:
            row = twin.known(op_id, twin.now)
            known = machine.window.get(op_id, machine.log_time_ms)
            assert (known and (op_id, *astuple(known))) == row
            attempts = [p.attempt for p in twin.pending if p.intent.op_id == op_id]
            assert [(p.intent.op_id, p.body_hash) for p in machine.attempts(op_id)] == attempts

    def snapshot(self) -> None:
        """Let a machine that restored a snapshot go on in this one's place."""
        before = fingerprint(self.machine)
        snapshot = encode_state(self.machine.capture())
        self.machine = Machine(LIMITS)
        self.machine.restore(decode_state(snapshot))
        assert fingerprint(self.machine) == before


def keys_of(intent: Ordered, draw: st.DrawFn) -> tuple[bytes, ...]:
    keys = sorted(set(intent.touched))
    return tuple(key for key in keys if draw(st.booleans()))


def settle(world: World, draw: st.DrawFn) -> Command:
    twin = world.twin
    count = draw(st.integers(0, len(twin.pending)))
    first = twin.settled + 1
    records = tuple(
        Recorded(*p.attempt, draw(outcomes), keys_of(p.intent, draw)) for p in twin.pending[:count]
    )
    digest = twin.digest_at(twin.settled + count) or b""
    if draw(st.integers(0, 9)) == 0:
        digest = draw(digests)
    if records and draw(st.integers(0, 9)) == 0:
        first, records = first + 1, records[1:]
    last = first + len(records) - 1
    if draw(st.integers(0, 9)) == 0:
        last += draw(st.sampled_from([-1, 1]))
    if records and draw(st.integers(0, 9)) == 0:
        records = (Recorded("zz", b"", Expired()), *records[1:])
    return Settle(
        first, last, digest, world.stamp + draw(st.integers(-50, 50)), records, draw(st.booleans())
    )


def rebase(world: World, draw: st.DrawFn) -> Command:
    twin = world.twin
    base = draw(st.sampled_from([*world.marks[-3:], world.machine.settled, world.machine.settled]))
    at, digest, rows = base.revision, base.digest, []
    ahead = (
        [Recorded(*p.attempt, draw(outcomes)) for p in twin.pending] if draw(st.booleans()) else []
    )
    for seq in range(draw(st.integers(1, 3))):
        body = []
        for _ in range(draw(st.integers(1, 2))):
            own = draw(intents)
            record = ahead.pop(0) if ahead else Recorded(own.op_id, own.body_hash, draw(outcomes))
            body.append(record)
            digest = roll(digest, record.op_id, record.body_hash)
        first, at = at + 1, at + len(body)
        if draw(st.integers(0, 19)) == 0:
            first += 1
        said = draw(digests) if draw(st.integers(0, 19)) == 0 else digest
        rows.append(LedgerRow(seq, 1, "x", first, at, said, world.stamp, tuple(body)))
    return Rebase(base, tuple(rows))


def adopt(world: World, draw: st.DrawFn) -> Command:
    last = max(0, world.machine.revision + draw(st.integers(-2, 1)))
    digest = draw(st.sampled_from([world.machine.settled.digest, b"y" * 32]))
    body = (Recorded("a", b"", Expired()),) if draw(st.integers(0, 9)) == 0 else ()
    row = LedgerRow(9, 2, "x", last + draw(st.integers(-1, 2)), last, digest, world.stamp, body)
    return Adopt(row, draw(st.integers(1, 5)))


LIMITS_DRAWN = st.builds(
    Limits,
    window_max=st.integers(2, 8),
    window_ms=st.sampled_from([100, 400, 1000]),
    recent_max=st.integers(1, 4),
)


def found(draw: st.DrawFn) -> Command:
    return Found(
        draw(st.binary(min_size=1, max_size=2)), draw(st.integers(1, 5)), b"key", draw(LIMITS_DRAWN)
    )


@st.composite
def stories(draw: st.DrawFn) -> World:
    """Run a story of commands, comparing the two machines after each."""
    world = World()
    if draw(st.booleans()):
        world.apply(found(draw))
    for _ in range(draw(st.integers(1, 14))):
        world.stamp += draw(st.sampled_from([0, 1, 40, 300]))
        what = draw(
            st.sampled_from(
                ["submit"] * 4
                + ["settle"] * 4
                + ["rebase"] * 2
                + ["adopt", "repeat", "snapshot", "govern"]
            )
        )
        if what == "submit":
            world.apply(Submit(tuple(draw(st.lists(intents, max_size=4)))))
        elif what == "settle":
            world.apply(settle(world, draw))
        elif what == "rebase":
            world.apply(rebase(world, draw))
        elif what == "adopt":
            world.apply(adopt(world, draw))
        elif what == "repeat" and world.said:
            world.apply(draw(st.sampled_from(world.said)))
        elif what == "snapshot":
            world.snapshot()
        elif what == "govern":
            world.apply(found(draw) if draw(st.booleans()) else Amend(draw(LIMITS_DRAWN)))
    return world


@settings(max_examples=200, deadline=None)
@given(stories())
def test_machine_and_twin_say_and_know_the_same(world: World) -> None:
    world.compare()


@pytest.mark.parametrize(
    "verdict",
    [
        "ordered",
        "ordered and told",
        "settled",
        "rebased",
        "adopted",
        "founded",
        "amended",
        "stale",
        "foreign",
        "gap",
        "illegal",
    ],
)
def test_stories_reach_every_verdict(verdict: str) -> None:
    found = find(
        stories(),
        lambda world: verdict in world.verdicts,
        settings=settings(max_examples=2000, phases=[Phase.generate]),
    )
    assert verdict in found.verdicts


@settings(max_examples=50, deadline=None)
@given(stories())
def test_replaying_the_same_commands_gives_the_same_machine(world: World) -> None:
    machines = [Machine(LIMITS), Machine(LIMITS)]
    for machine in machines:
        for number, command in enumerate(world.said):
            machine.apply(command, 100 + number)
    assert fingerprint(machines[0]) == fingerprint(machines[1])


@settings(max_examples=50, deadline=None)
@given(stories(), st.data())
def test_snapshot_at_any_point_changes_nothing_after_it(world: World, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(world.said)))
    straight, restored = Machine(LIMITS), Machine(LIMITS)
    for number, command in enumerate(world.said):
        if number == cut:
            restored.restore(decode_state(encode_state(straight.capture())))
        effects = straight.apply(command, 100 + number)
        if number >= cut:
            assert restored.apply(command, 100 + number) == effects
    if cut < len(world.said):
        assert fingerprint(restored) == fingerprint(straight)
