"""Break a member's own file on purpose: what the contract of members' stores has to notice."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from backends.replicated import copies, facts, files, overlay, pruning, reads, rows, writer, writes
from backends.replicated.overlay import Generation, Overlay, Place, View
from backends.replicated.rows import Row, Rows
from backends.replicated.schema import REVISION_SHIFT
from backends.replicated.writer import Writer
from kv.model import Version
from kv.ports import Facts, LocalRetention, Pruning, Span, Step
from tests.planted.registry import Patches, fault


@fault("R7")
def file_reads_written() -> Patches:
    """Reads see only what is in the file."""

    def view(self: Overlay) -> View:
        return ()

    yield Overlay, "view", property(view)


@fault("R2")
def file_facts_written() -> Patches:
    """Facts see only the versions that are in the file."""

    def newest(self: object, key: bytes) -> None:
        return None

    yield Overlay, "newest", newest
    yield facts.Newest, "get", newest


@fault("R2")
def file_operations_written() -> Patches:
    """Facts see only the op_ids that are in the file."""

    def operation(self: Overlay, op_id: str) -> None:
        return None

    yield Overlay, "operation", operation


@fault("R2")
def file_known_for_ever() -> Patches:
    """An op_id counts as known as long as its record is there."""
    real = facts.facts

    def known(
        settled: facts.Settled,
        op_ids: Sequence[str],
        keys: Sequence[bytes],
        hashed: Sequence[bytes],
        *,
        spans: Sequence[Span],
        recorded_since_ms: int,
    ) -> Facts:
        return real(settled, op_ids, keys, hashed, spans=spans, recorded_since_ms=0)

    yield facts, "facts", known


@fault("R2")
def file_first_record() -> Patches:
    """Of two records of an op_id the older one counts."""
    yield facts, "_ONE_OPERATION", facts._ONE_OPERATION.replace("DESC", "ASC")


@fault("R7")
def file_later_view() -> Patches:
    """What is not written hides what the file has found later."""
    real = overlay.newest

    def newest(view: View, key: bytes, at: int | None, after: int) -> Version | None:
        return real(view, key, None, after)

    yield overlay, "newest", newest


@fault("R7")
def file_stale_view() -> Patches:
    """What was not written when a read began hides what the file has found since."""
    real = overlay.newest

    def newest(view: View, key: bytes, at: int | None, after: int) -> Version | None:
        return real(view, key, at, 0)

    yield overlay, "newest", newest


@fault("R8")
def file_floor_written() -> Patches:
    """A floor counts once it is in the file."""

    def add(self: Generation, step: Step) -> None:
        real(self, msgspec.structs.replace(step, floor=0))

    real = Generation.add
    yield Generation, "add", add


@fault("R12")
def file_cut_versions() -> Patches:
    """Cutting back leaves the versions."""

    def nothing(connection: sqlite3.Connection, end: int) -> None: ...

    yield pruning, "_cut_versions", nothing


@fault("R12")
def file_cut_due() -> Patches:
    """Cutting back brings no key back among those that expire."""
    real = pruning._cut_versions

    def cut(connection: sqlite3.Connection, end: int) -> None:
        real(connection, end)
        connection.execute("DELETE FROM due")

    yield pruning, "_cut_versions", cut


@fault("R12")
def file_cut_term() -> Patches:
    """The note after cutting back has the term of the newest row."""

    def term_at(connection: sqlite3.Connection) -> int:
        found = connection.execute("SELECT term FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
        return int(found[0]) if found else 0

    yield pruning, "term_at", term_at


@fault("R8")
def file_prune_rows() -> Patches:
    """Ledger rows above the dump are pruned."""
    yield from _pruning_with(index=2**60)


@fault("R8")
def file_prune_versions() -> Patches:
    """Versions are pruned up to the ordered floor, whatever the dump's is."""
    yield from _pruning_with(floor=2**50)


@fault("R2")
def file_prune_operations() -> Patches:
    """Op_ids are pruned within their retention."""
    yield from _pruning_with(operations_before_ms=2**50)


@fault("bounds")
def file_prune_at_once() -> Patches:
    """Pruning is one large step."""
    yield from _pruning_with(rows_max=10**6)


def _pruning_with(**changes: int) -> Patches:
    real = pruning.prune

    def prune(connection: sqlite3.Connection, retention: LocalRetention) -> Pruning:
        return real(connection, msgspec.structs.replace(retention, **changes))

    yield pruning, "prune", prune


@fault("R8")
def file_prune_unordered() -> Patches:
    """A dump's floor is believed although nothing ordered it."""
    real = pruning.prune

    def prune(connection: sqlite3.Connection, retention: LocalRetention) -> Pruning:
        (ordered,) = connection.execute("SELECT floor FROM state").fetchone()
        connection.execute("UPDATE state SET floor = ?", (retention.floor,))
        done = real(connection, retention)
        connection.execute("UPDATE state SET floor = ?", (ordered,))
        return done

    yield pruning, "prune", prune


@fault("R8")
def file_prune_lone_tombstone() -> Patches:
    """A tombstone goes before what it hides."""
    real = pruning._prune_versions

    def prune(
        connection: sqlite3.Connection, walked: int, below: int, limit: int
    ) -> tuple[int, bool]:
        connection.execute("DELETE FROM versions WHERE kind = 0 AND id <= ?", (below,))
        return real(connection, walked, below, limit)

    yield pruning, "_prune_versions", prune


@fault("R5")
def file_drops_what_failed() -> Patches:
    """What could not be written is dropped."""
    real = Writer._ends

    def ends(self: Writer, generation: Generation, error: BaseException | None) -> None:
        if error is not None:
            self.overlay.writing = Generation()
            self.overlay.writing.steps = generation.steps[-1:]
        real(self, generation, error)

    yield Writer, "_ends", ends


@fault("R4")
def file_durable_early() -> Patches:
    """Whatever was settled counts as durable."""

    async def make_durable(self: Writer, index: int) -> None: ...

    yield Writer, "make_durable", make_durable


@fault("R5")
def file_note_apart() -> Patches:
    """The note is not in the transaction of the rows."""
    real = rows.rows_of

    def rows_of(steps: Sequence[Step], term: int) -> Rows:
        made = real(steps, term)
        note = msgspec.structs.replace(made.note, index=made.note.index - 1)
        return made._replace(note=note)

    yield writer, "rows_of", rows_of


@fault("R6")
def file_installs_unchecked() -> Patches:
    """Another member's bytes are put in place unchecked."""

    def nothing(path: str) -> None: ...

    yield copies, "check", nothing


@fault("R5")
def file_shared() -> Patches:
    """Two stores have one file open."""

    def take(self: files.Lock) -> None: ...

    yield files.Lock, "take", take


@fault("R3")
def file_serves_damaged() -> Patches:
    """A value that is not what was written is served."""

    def version_of(key: bytes, row: Row) -> Version:
        id_, kind, *said, _, value = row
        return Version(key, id_ >> REVISION_SHIFT, value if kind else None, *said)

    yield rows, "version_of", version_of


@fault("R3")
def file_scrub_blind() -> Patches:
    """The scrub finds every row sound."""

    def is_sound(*_: Any) -> tuple[bool, int]:
        return True, 0

    yield reads, "_is_sound", is_sound


@fault("R3")
def file_scrub_pruned() -> Patches:
    """The scrub takes what was pruned for damaged."""
    real = reads._is_sound

    def is_sound(connection: sqlite3.Connection, walked: int, *row: Any) -> tuple[bool, int]:
        return real(connection, 0, *row)

    yield reads, "_is_sound", is_sound


@fault("INV-1")
def file_due_superseded() -> Patches:
    """A key stays due although a newer version does not expire."""
    real = writes.write

    def write(connection: sqlite3.Connection, new: Rows, *, forget_due: bool) -> None:
        if not new.expires:
            real(connection, new, forget_due=False)
        else:
            real(connection, new, forget_due=forget_due)

    yield writes, "write", write


@fault("R5")
def file_term_forgotten() -> Patches:
    """The first command of a term leaves no trace if it gives no revision."""

    real = rows.rows_of

    def rows_of(steps: Sequence[Step], term: int) -> Rows:
        made = real(steps, term)
        return made._replace(marks=[mark for mark in made.marks if mark[2]])

    yield writer, "rows_of", rows_of


@fault("R7")
def file_head_written() -> Patches:
    """A read says the head of the file, whatever lies over it."""

    def place_of(view: View, found: Place, settled: int) -> Place:
        return found

    yield overlay, "place_of", place_of
