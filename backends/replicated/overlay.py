"""Keep what was settled and is not in the file yet, and lay it over what was read from the file.

Pure: it knows neither file nor thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple, TypeAlias

import msgspec

from kv.errors import BadRequest, Pruned
from kv.model import Digest, Head, LedgerRow, RecordedOperation, Reference, Version
from kv.ports import Step

STEP_BYTES: Final = 400
"""What a Step takes in memory besides keys and values, roughly; and likewise each version."""


class Entry(NamedTuple):
    """A version that is not in the file, and the one before it of the same key."""

    version: Version
    hash: bytes
    older: Entry | None


class Generation:
    """The Steps that go into the file in one transaction."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.rows: list[LedgerRow] = []
        self.versions: dict[bytes, Entry] = {}
        """The newest version of each key."""
        self.operations: dict[str, RecordedOperation] = {}
        """What was recorded last of each op_id."""
        self.floor = 0
        self.size = 0

    def add(self, step: Step) -> None:
        """Take one more Step. Raises BadRequest for a value that is not in the log."""
        group = step.group
        size = STEP_BYTES
        if group is not None:
            for version in group.versions:
                if type(version.value) is Reference:
                    raise BadRequest("reference", "large values travel in the log, not beside it")
            versions = self.versions
            for version, hash in zip(group.versions, step.hashes, strict=True):
                key, value = version.key, version.value
                versions[key] = Entry(version, hash, versions.get(key))
                size += STEP_BYTES + len(key) + (len(value) if type(value) is bytes else 0)
            for operation in group.operations:
                self.operations[operation.op_id] = operation
                size += STEP_BYTES
            self.rows.append(group.row)
        self.floor = max(self.floor, step.floor)
        self.steps.append(step)
        self.size += size


View: TypeAlias = tuple[Generation, ...]
"""Generations in order, oldest first: all that was not in the file when a read began. Later Steps
may be added while it lasts; then it shows a later moment.
"""


class Place(NamedTuple):
    """What a read of the file says besides its answer."""

    head: Head
    floor: int
    digest_at: Digest | None


class Overlay:
    """The Steps that are not in the file yet: one generation is being written, one is filling."""

    def __init__(self) -> None:
        self.writing: Generation | None = None
        self.filling = Generation()

    @property
    def size(self) -> int:
        """Roughly the memory that it takes."""
        return self.filling.size + (0 if self.writing is None else self.writing.size)

    @property
    def view(self) -> View:
        """What a read that begins now has to lay over the file."""
        if self.writing is None:
            return (self.filling,) if self.filling.steps else ()
        return (self.writing, self.filling)

    def turn(self) -> Generation:
        """Begin to write what has filled."""
        assert self.writing is None
        self.writing, self.filling = self.filling, Generation()
        return self.writing

    def newest(self, key: bytes) -> Entry | None:
        """Return the newest unwritten version of a key."""
        found = self.filling.versions.get(key)
        if found is None and self.writing is not None:
            return self.writing.versions.get(key)
        return found

    def operation(self, op_id: str) -> RecordedOperation | None:
        """Return what was recorded last of an op_id and is not written."""
        found = self.filling.operations.get(op_id)
        if found is None and self.writing is not None:
            return self.writing.operations.get(op_id)
        return found


# A read of the file may already have found Steps that the view holds too, or even later ones. So
# only what is newer than the head that it found is laid over it, and all of it is: the answer is
# that of one moment, the later of the file's and the view's.


def place_of(view: View, found: Place, settled: int) -> Place:
    """Return head, floor and digest of the moment that a read shows."""
    newest = next((each.rows[-1] for each in reversed(view) if each.rows), None)
    head = found.head if newest is None or newest.seq <= found.head.seq else newest.head
    floor = max([found.floor, *(each.floor for each in view)])
    ending = row_ending(view, settled)
    return Place(head, floor, found.digest_at if ending is None else ending.digest)


def check_floor(place: Place, at: int | None) -> None:
    """Refuse a read at a revision that is no longer kept. Raises Pruned."""
    if at is not None and at < place.floor:
        raise Pruned(place.floor)


def newest(view: View, key: bytes, at: int | None, after: int) -> Version | None:
    """Return the newest version of a key ≤ `at` and > `after` in the view."""
    for generation in reversed(view):
        entry = generation.versions.get(key)
        while entry is not None and entry.version.revision > after:
            if at is None or entry.version.revision <= at:
                return entry.version
            entry = entry.older
    return None


def exactly(view: View, key: bytes, revision: int) -> Version | None:
    """Return the version that a revision made of a key, if it is in the view."""
    found = newest(view, key, revision, revision - 1)
    return found


def keys_between(view: View, start: bytes, end: bytes, after: int) -> Iterator[bytes]:
    """Yield the keys in these bounds that have a version > `after` in the view."""
    for generation in view:
        for key, entry in generation.versions.items():
            if start <= key < end and entry.version.revision > after:
                yield key


def rows_behind(view: View, seq: int) -> list[LedgerRow]:
    """Return the ledger rows of the view behind that one, oldest first."""
    return [row for generation in view for row in generation.rows if row.seq > seq]


def row_ending(view: View, last: int) -> LedgerRow | None:
    """Return the newest row of the view with this `last`."""
    for generation in reversed(view):
        for row in reversed(generation.rows):
            if row.last <= last:
                return row if row.last == last else None
    return None


def due(
    view: View, found: Sequence[tuple[int, int, bytes]], log_time_ms: int, after: int
) -> tuple[tuple[bytes, int], ...]:
    """Lay the view over the (expires, revision, key) that the file has due."""
    all_of_them = {key: (expires, revision, key) for expires, revision, key in found}
    for generation in view:
        for key, entry in generation.versions.items():
            version = entry.version
            if version.revision > after:
                all_of_them.pop(key, None)
                if version.expires_ms is not None and version.expires_ms <= log_time_ms:
                    all_of_them[key] = (version.expires_ms, version.revision, key)
    return tuple((key, revision) for _, revision, key in sorted(all_of_them.values()))


def merged(
    view: View,
    page: tuple[Sequence[Version], bool],
    bounds: tuple[bytes, bytes],
    at: int | None,
    after: int,
    *,
    limit: int,
    keys_only: bool,
) -> tuple[tuple[Version, ...], bool]:
    """Lay the view over a page of present versions that the file's `bounds` begin with; return a
    page, and whether there are more. What the view has of them begins behind the revision `after`.
    """
    found, more = page
    start, end = bounds
    if more:
        end = found[-1].key + b"\0"
    all_of_them = {version.key: version for version in found}
    for key in keys_between(view, start, end, after):
        version = newest(view, key, at, after)
        if version is None:
            continue
        if version.present:
            all_of_them[key] = msgspec.structs.replace(version, value=b"") if keys_only else version
        else:
            all_of_them.pop(key, None)
    whole = [all_of_them[key] for key in sorted(all_of_them)]
    return tuple(whole[:limit]), more or len(whole) > limit
