"""Hold the entries of a log: the newest in memory, older ones by their places in the segments.

It never drops a command from memory whose record may not be in its file yet, and never returns one
that it has not checked.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import NamedTuple, TypeAlias, overload

JournalEntry: TypeAlias = tuple[bytes, int, int]
"""(command, index, term), in the library's order."""


class Place(NamedTuple):
    """Where the record of an entry is."""

    segment: int
    offset: int
    entry: int
    """Its index."""
    term: int


Read: TypeAlias = Callable[[Sequence[Place]], list[bytes]]
"""Reads the commands of consecutive entries whose records are in one segment. Raises OSError."""


class Entries:
    """The entries of a log, with consecutive indexes; a position counts from the first one.

    The first and the last command are always in memory.
    """

    def __init__(self) -> None:
        self._first = 0
        self.first_index = self.last_index = 0
        """The indexes of the first and the last entry; 0: there is none."""
        self._commands: list[bytes | None] = []
        self._terms = array("Q")
        self._segments, self._offsets = array("Q"), array("Q")
        self._absent = 0
        """How many commands after the first are not in memory; they follow it without a gap."""
        self.memory_bytes = 0
        """Bytes of the commands in memory, those of the first entry left out."""
        self.read: Read = _nothing_to_read

    def __len__(self) -> int:
        return len(self._commands)

    def term_of(self, position: int) -> int:
        """Return the term of the entry at a position, which must be held."""
        return self._terms[position]

    @overload
    def __getitem__(self, item: int) -> JournalEntry: ...
    @overload
    def __getitem__(self, item: slice) -> list[JournalEntry]: ...
    def __getitem__(self, item: int | slice) -> JournalEntry | list[JournalEntry]:
        if isinstance(item, slice):
            start, stop, _ = item.indices(len(self._commands))
            return self._found(start, stop)
        position = item if item >= 0 else item + len(self._commands)
        if position < 0:
            raise IndexError(item)
        command = self._commands[position]
        if command is None:
            return self._found(position, position + 1)[0]
        return command, self._first + position, self._terms[position]

    def append(self, entry: JournalEntry, segment: int, offset: int) -> None:
        """Add an entry whose record is, or will be, at that offset of that segment."""
        command, index, term = entry
        if self._commands:
            self.memory_bytes += len(command)
        else:
            self._first = index
        self._commands.append(command)
        self._terms.append(term)
        self._segments.append(segment)
        self._offsets.append(offset)
        self.first_index, self.last_index = self._first, index

    def cut(self, index: int) -> None:
        """Drop the entries from `index` on."""
        position = max(0, index - self._first)
        self.memory_bytes -= self._size(max(1, position), len(self._commands))
        self._delete(slice(position, None))
        last = len(self._commands) - 1
        if self._absent and self._absent >= last:
            self._absent = max(0, last - 1)
            if last > 0:
                self._bring_back(last)

    def trim(self, index: int) -> None:
        """Drop the entries before `index`."""
        position = index - self._first
        if position <= 0:
            return
        if position < len(self._commands) and self._commands[position] is None:
            self._bring_back(position)
        self.memory_bytes -= self._size(1, position + 1)
        self._first = index
        self._delete(slice(None, position))
        self._absent = max(0, self._absent - position)

    def clear(self) -> None:
        """Drop all entries."""
        self._delete(slice(None, None))
        self._absent = self.memory_bytes = 0

    def forget(self, segment: int, memory_bytes: int) -> None:
        """Drop the oldest commands in segments before `segment`, all of which are in their files,
        from memory, until the rest takes no more than so many bytes.
        """
        position = self._absent + 1
        while (
            self.memory_bytes > memory_bytes
            and position < len(self._commands) - 1
            and self._segments[position] < segment
        ):
            self.memory_bytes -= len(self._commands[position] or b"")
            self._commands[position] = None
            self._absent = position
            position += 1

    def _found(self, start: int, stop: int) -> list[JournalEntry]:
        commands = self._commands[start:stop]
        if start <= self._absent:
            absent = range(max(1, start), min(stop, self._absent + 1))
            for _, run in groupby(absent, key=self._segments.__getitem__):
                positions = list(run)
                commands[positions[0] - start : positions[-1] + 1 - start] = self._read(positions)
        numbers = range(self._first + start, self._first + start + len(commands))
        return list(zip(commands, numbers, self._terms[start:stop], strict=True))  # type: ignore[arg-type]

    def _read(self, positions: Sequence[int]) -> list[bytes]:
        return self.read(
            [
                Place(
                    self._segments[position],
                    self._offsets[position],
                    self._first + position,
                    self._terms[position],
                )
                for position in positions
            ]
        )

    def _bring_back(self, position: int) -> None:
        """Take the command at a position into memory again: it becomes the first or the last."""
        (command,) = self._read([position])
        self._commands[position] = command
        self.memory_bytes += len(command)

    def _size(self, start: int, stop: int) -> int:
        return sum(len(command) for command in self._commands[start:stop] if command is not None)

    def _delete(self, which: slice) -> None:
        del self._commands[which], self._terms[which]
        del self._segments[which], self._offsets[which]
        count = len(self._commands)
        self.first_index = self._first if count else 0
        self.last_index = self._first + count - 1 if count else 0


def _nothing_to_read(places: Sequence[Place]) -> list[bytes]:
    raise OSError("the journal is not open yet")
