"""Commands and snapshots: the same in and out, and nothing but ValueError for what is none."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.machine.commands import (
    VERSION,
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
from coordinator.machine.limits import Limits
from coordinator.machine.machine import Machine
from coordinator.machine.pending import Mark
from coordinator.machine.snapshot import SNAPSHOT_VERSION, decode_state, encode_state
from kv.errors import NewerCommand
from kv.model import (
    Absent,
    Again,
    Applied,
    AtRevision,
    Cancel,
    Compare,
    Delete,
    DeleteRange,
    Equals,
    Exists,
    Expired,
    Intent,
    LedgerRow,
    Mismatch,
    Nested,
    Put,
    PutWith,
    Recorded,
    Reference,
    Refused,
)

INTENT = Intent(
    "op",
    77,
    (Absent(b"a"), Exists(b"b"), AtRevision(b"c", (1, 2)), Equals(b"d", b"h")),
    (Put(b"k", b"v", 5), Put(b"l", Reference("op", b"h", 9)), Delete(b"m")),
    (),
    (b"r",),
)
RECORDS = tuple(
    Recorded("op", b"h", outcome, (b"k",))
    for outcome in (
        Applied("otherwise", (1,)),
        Refused(1, 2, (3,)),
        Expired(),
        Again(4, Expired()),
        Mismatch(),
    )
)
ROW = LedgerRow(1, 2, "a", 3, 7, b"d" * 32, 9, RECORDS)
COMMANDS: list[Command] = [
    Submit((INTENT, Cancel("op"))),
    Submit(()),
    Settle(3, 7, b"d" * 32, 9, RECORDS, True),
    Rebase(Mark(2, b"d" * 32), (ROW, ROW)),
    Adopt(LedgerRow(1, 2, "a", 3, 7, b"d" * 32, 9), 1 << 40),
    Found(b"h" * 16, 1 << 40, b"k" * 32, Limits(window_ms=5), b"m"),
    Amend(Limits(retention_ms=7)),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_round_trip(command: Command) -> None:
    assert decode(encode(command)) == command
    assert encode(command)[0] == 1


@pytest.mark.parametrize(
    "intent",
    [
        Intent("op", 7, (Compare(b"k", b"", "mod", "=", 3),), (Put(b"k", b"v"),)),
        Intent("op", 7, (), (Put(b"j", b"v"), PutWith(b"k", b"v", lease=3))),
        Intent("op", 7, (), (Put(b"j", b"v"),), (DeleteRange(b"k", b"l"),)),
        Intent("op", 7, (), (Nested((Absent(b"k"),), (Nested((), (Delete(b"k"),)),)),)),
    ],
)
def test_what_version_1_would_skip_is_of_version_2(intent: Intent) -> None:
    command = Submit((Cancel("first"), intent))
    assert decode(encode(command)) == command
    assert encode(command)[0] == VERSION == 2


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
def test_every_cut_is_refused(command: Command) -> None:
    whole = encode(command)
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="command"):
            decode(whole[:end])


@given(st.binary(max_size=64), st.sampled_from([b"", bytes([VERSION]), bytes([VERSION + 1])]))
def test_garbage_is_refused(garbage: bytes, prefix: bytes) -> None:
    with pytest.raises((ValueError, NewerCommand), match="command"):
        decode(prefix + garbage)


def test_text_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="command"):
        decode(b"\x01\xdd\x00\x00\x00\x01\xa3\x00\x00\x80")


def test_what_was_written_before_histories_is_read() -> None:
    row = LedgerRow(1, 2, "a", 3, 7, b"d" * 32, 9)
    assert decode(bytes([VERSION]) + msgspec.msgpack.encode(["a", row])) == Adopt(row)
    machine = Machine()
    machine.apply(Submit((INTENT,)), 5)
    wire = msgspec.msgpack.decode(encode_state(machine.capture())[1:])
    wire[0] = wire[0][:10]  # a snapshot without the fields that came with histories
    state = decode_state(bytes([SNAPSHOT_VERSION]) + msgspec.msgpack.encode(wire))
    assert (state.founded, state.limits) == (None, None)
    restored = Machine(Limits(window_max=4))
    restored.restore(state)
    assert (restored.revision, restored.founded, restored.limits) == (1, None, Limits(window_max=4))


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ValueError, match="command"):
        decode(bytes([VERSION]) + b"\x91" * 100_000)


def test_unknown_version_is_named() -> None:
    with pytest.raises(ValueError, match="unknown version 00"):
        decode(b"\x00" + encode(COMMANDS[0])[1:])
    with pytest.raises(ValueError, match="unknown version 09"):
        decode_state(b"\x09")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (bytes([VERSION + 1]) + b"whatever", f"version {VERSION + 1} of commands"),
        (bytes([VERSION]) + msgspec.msgpack.encode(["zz", {"a": 1}]), "kind 'zz'"),
        (
            bytes([VERSION]) + msgspec.msgpack.encode(["s", [], "one field more"]),
            "kind 's' with 2 fields",
        ),
    ],
)
def test_what_a_later_version_has_ordered_is_told_from_what_is_broken(
    command: bytes, says: str
) -> None:
    with pytest.raises(NewerCommand, match=says):
        decode(command)


@given(st.binary(max_size=64), st.sampled_from([b"", bytes([SNAPSHOT_VERSION])]))
def test_garbage_is_no_snapshot(garbage: bytes, prefix: bytes) -> None:
    with pytest.raises(ValueError, match="snapshot"):
        decode_state(prefix + garbage)


def test_snapshot_is_checked_before_it_is_believed() -> None:
    machine = Machine()
    machine.apply(Submit((INTENT, Cancel("op2"))), 5)
    whole = encode_state(machine.capture())
    for end in range(len(whole)):
        with pytest.raises(ValueError, match="snapshot"):
            decode_state(whole[:end])
    state = machine.capture()
    del state.pending[0]
    with pytest.raises(ValueError, match="do not continue"):
        decode_state(encode_state(state))
