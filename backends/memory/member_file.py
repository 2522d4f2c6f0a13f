"""Keep what a member's store in memory has on its "disk", with all that can happen to it there.

It outlives the store objects that open it, and never changes by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from backends.memory.member_tables import Image, MemberTables
from kv.errors import BackendUnavailable

Transaction: TypeAlias = Callable[[MemberTables], object]
"""A change of the tables. It may be made several times, on tables of equal content."""

_MAGIC: Final = b"acordo member store 1\n"
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Image).decode


class MemoryFile:
    """The file of one member's store: what a power cut leaves, and what was written since."""

    def __init__(self) -> None:
        self.durable = MemberTables()
        """The content that survives a power cut."""
        self.written = MemberTables()
        """The content that survives the process."""
        self.aside: list[tuple[str, MemberTables]] = []
        """(Why, content) of the files that were put aside."""
        self.refusal = ""
        """"foreign_store" or "newer_schema": opening is refused."""
        self.damage = ""
        """Why the file is damaged; empty: it is not."""
        self.trouble = ""
        """Why nothing can be written, as on a full disk; empty: all is well."""
        self.fetched = False
        """Whether the content is another member's, and was not confirmed since."""
        self.opened: object | None = None
        """The store that has the file open."""
        self.noticed: Callable[[], None] = lambda: None
        """Called when something here changed."""
        self._tail: list[tuple[Transaction, ...]] = []

    @property
    def at_risk(self) -> int:
        """The number of transactions that were written and are not durable yet."""
        return len(self._tail)

    # -------------------------------------------------------------------------- what the store does

    def commit(self, changes: tuple[Transaction, ...]) -> None:
        """Make changes in one transaction, without syncing it. Raises BackendUnavailable."""
        self.check()
        for change in changes:
            change(self.written)
        self._tail.append(changes)

    def sync(self) -> None:
        """Make all that was written durable. Raises BackendUnavailable."""
        self.check()
        for changes in self._tail:
            for change in changes:
                change(self.durable)
        self._tail = []

    def check(self) -> None:
        """Raise BackendUnavailable if nothing can be written."""
        if self.damage or self.trouble:
            raise BackendUnavailable("memory", self.damage or self.trouble)

    def put(self, tables: MemberTables) -> None:
        """Replace the file durably, as a rename does."""
        self.written, self.durable, self._tail = tables, tables.clone(), []
        self.damage = ""

    # ------------------------------------------------------------------------------ what may happen

    def power_cut(self, keep: int = 0) -> None:
        """Lose all but the first `keep` transactions that were not durable. The process that had
        the file open is dead.
        """
        self.opened = None
        kept, self._tail = self._tail[:keep], []
        for changes in kept:
            for change in changes:
                change(self.durable)
        self.written = self.durable.clone()

    def spoil(self, why: str = "flipped page") -> None:
        """Damage the file as a whole."""
        self.damage = why
        self.noticed()

    def wipe(self) -> None:
        """Delete the file while no process runs."""
        self.opened = None
        self.put(MemberTables())
        self.refusal, self.fetched = "", False

    def replace_by(self, image: bytes) -> None:
        """Put an image in the place of the file while no process runs: an old copy, another
        member's, or bytes that are none.
        """
        self.opened = None
        try:
            self.put(tables_of(image))
        except ValueError as exc:
            self.put(MemberTables())
            self.spoil(str(exc))

    def image(self) -> bytes:
        """Return the file as a backup of it would be."""
        return bytes_of(self.written)

    def refuse_writes(self, why: str) -> None:
        """Let every write fail (a full disk) until it is called with an empty `why`."""
        self.trouble = why
        self.noticed()

    def damage_version(self, key: bytes, revision: int) -> None:
        """Damage a value, unnoticed until it is read."""
        self.damage_by(lambda tables: tables.damage(key, revision))

    def damage_row(self, seq: int) -> None:
        """Damage a ledger row, unnoticed until it is scrubbed."""
        self.damage_by(lambda tables: tables.damage_row(seq))

    def damage_by(self, change: Transaction) -> None:
        """Change what is in the file behind its store's back."""
        change(self.durable)
        change(self.written)
        if isinstance(view := getattr(self.opened, "tables", None), MemberTables):
            change(view)


class MemoryCopy:
    """A StateCopy of some bytes."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self._content)

    def read_now(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset`, fewer only at the end."""
        return self._content[offset : offset + length]

    def close(self) -> None:
        """Forget the bytes."""
        self._content = b""


def bytes_of(tables: MemberTables) -> bytes:
    """Return tables as the bytes that another member can install."""
    packed = _pack(tables.image())
    return _MAGIC + hashlib.blake2b(packed, digest_size=32).digest() + packed


def tables_of(content: bytes) -> MemberTables:
    """Return the tables that such bytes hold. Raises ValueError for all others."""
    if not content.startswith(_MAGIC):
        raise ValueError("it is no member's store of this version")
    digest, packed = content[len(_MAGIC) : len(_MAGIC) + 32], content[len(_MAGIC) + 32 :]
    if hashlib.blake2b(packed, digest_size=32).digest() != digest:
        raise ValueError("it is torn")
    try:
        return MemberTables.of(_unpack(packed))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ValueError("it cannot be read") from exc
