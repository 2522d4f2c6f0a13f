"""Encode the whole state of a machine as a snapshot, and decode it.

Pure. A captured state never changes afterwards, so it may be encoded in another thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

import msgspec

from coordinator.machine.book import Book
from coordinator.machine.commands import Found
from coordinator.machine.limits import Limits
from coordinator.machine.pending import Mark, Pending
from coordinator.machine.window import Known
from kv.ports import UndoneRange

_T = TypeVar("_T")

SNAPSHOT_VERSION: Final = 1


class MachineState(msgspec.Struct, frozen=True, array_like=True):
    """The whole state of a machine, as a snapshot carries it. Fields are only ever appended, with
    defaults.

    Two equal states may be split into parts differently: compare their
    `tests.soundness.fingerprint`s.
    """

    revision: int
    digest: bytes
    settled: Mark
    log_time_ms: int
    namespace: int
    floor: int
    pending: list[Pending]
    window_old: tuple[dict[str, Known], ...]
    window_young: tuple[dict[str, Known], ...]
    last: dict[bytes, int] | None
    """None: left out; a machine that restores the snapshot raises its floor to `revision`."""
    founded: Found | None = None
    limits: Limits | None = None
    """The limits in force; None: the snapshot is older than limits in the log."""
    undone: UndoneRange = UndoneRange()
    book: Book | None = None
    """Where a replicated store's ledger ends; None: the history is a shared store's."""
    ranges: tuple[tuple[bytes, bytes, int], ...] = ()
    """The ranges that were touched as a whole: (begin, end, revision), oldest first. A snapshot
    without `last` has none: its floor covers them.
    """


class _Wire(msgspec.Struct, frozen=True, array_like=True):
    """A MachineState split into parts. Encoded in a single call, a large state would hold the
    interpreter's lock so long that the event loop's thread stalls.
    """

    state: msgspec.Raw
    """The MachineState without its three collections."""
    pending: list[msgspec.Raw]
    window_old: list[msgspec.Raw]
    window_young: list[msgspec.Raw]
    last: list[msgspec.Raw] | None


_SNAPSHOT_PREFIX: Final = bytes([SNAPSHOT_VERSION])
_PART: Final = 2_000
"""Entries encoded by one call, which takes well below a millisecond."""
_encode = msgspec.msgpack.Encoder().encode
_decode_wire = msgspec.msgpack.Decoder(_Wire).decode
_decode_state = msgspec.msgpack.Decoder(MachineState).decode
_decode_pending = msgspec.msgpack.Decoder(list[Pending]).decode
_decode_window = msgspec.msgpack.Decoder(dict[str, Known]).decode
_decode_last = msgspec.msgpack.Decoder(dict[bytes, int]).decode


def encode_state(state: MachineState) -> bytes:
    """Encode a snapshot. Safe in another thread, because a captured state never changes."""
    bare = msgspec.structs.replace(state, pending=[], window_old=(), window_young=(), last={})
    wire = _Wire(
        state=msgspec.Raw(_encode(bare)),
        pending=[msgspec.Raw(_encode(part)) for part in _parts(state.pending)],
        window_old=[msgspec.Raw(_encode(dict(part))) for part in _parts(flat(state.window_old))],
        window_young=[
            msgspec.Raw(_encode(dict(part))) for part in _parts(flat(state.window_young))
        ],
        last=None
        if state.last is None
        else [msgspec.Raw(_encode(dict(part))) for part in _parts(state.last.items())],
    )
    return _SNAPSHOT_PREFIX + _encode(wire)


def decode_state(snapshot: bytes) -> MachineState:
    """Decode a snapshot. Raises ValueError for an unknown version, a broken body, or a state whose
    pending intents do not continue the settled revision.
    """
    if snapshot[:1] != _SNAPSHOT_PREFIX:
        raise ValueError(f"machine snapshot of unknown version {snapshot[:1].hex() or 'none'}")
    try:
        wire = _decode_wire(memoryview(snapshot)[1:])
        state = msgspec.structs.replace(
            _decode_state(wire.state),
            pending=[entry for part in wire.pending for entry in _decode_pending(part)],
            window_old=tuple(_decode_window(part) for part in wire.window_old),
            window_young=tuple(_decode_window(part) for part in wire.window_young),
            last=None
            if wire.last is None
            else {
                key: revision for part in wire.last for key, revision in _decode_last(part).items()
            },
        )
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as exc:
        raise ValueError(f"broken machine snapshot: {exc}") from exc
    if [p.revision for p in state.pending] != list(
        range(state.settled.revision + 1, state.revision + 1)
    ):
        raise ValueError(
            "broken machine snapshot: pending intents do not continue the settled revision"
        )
    return state


def flat(parts: Iterable[dict[str, Known]]) -> Iterator[tuple[str, Known]]:
    """Yield the entries of a collection that is kept in parts."""
    for part in parts:
        yield from part.items()


def _parts(entries: Iterable[_T]) -> Iterator[list[_T]]:
    rest = iter(entries)
    while part := list(islice(rest, _PART)):
        yield part
