"""Take a member's files back to what was synced, as a power cut does, and refuse or delay what its
store writes.

A library of ours (memberdisk.c), loaded into the node with LD_PRELOAD, keeps what every unsynced
write below the node's directory overwrote. Nothing here is done to a directory of a running node
but what the library does.
"""

from __future__ import annotations

import functools
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")
COMPILER: Final = "gcc"
ROOT_VARIABLE: Final = "ACORDO_TEST_DISK_ROOT"
SIDE_VARIABLE: Final = "ACORDO_TEST_DISK_SIDE"
FIELDS: Final = struct.Struct("<6Q")
"""The page that is shared with the library: `struct control` there, Control here."""
HEADER: Final = struct.Struct("<Q")
"""Where the live records of an undo log begin."""
RECORD: Final = struct.Struct("<3Q")
"""One record of an undo log: offset, length, size of the file before. The old bytes follow."""


@dataclass(frozen=True)
class Control:
    """What the library is told, and what it has counted since the member's disk was made."""

    store_sync_ms: int = 0
    """Delay of each sync of the store's files."""
    store_write_errno: int = 0
    """The error of each write to the store's files; 0: none."""
    delayed_syncs: int = 0
    refused_writes: int = 0
    syncs: int = 0
    records: int = 0
    """Writes that were kept in an undo log."""


@functools.cache
def compiler_missing() -> str | None:
    """Return why the library cannot be made here, or None if it can."""
    return None if shutil.which(COMPILER) else f"no {COMPILER} to make memberdisk.so with"


def build(folder: Path) -> Path:
    """Make the library in a folder and return its path. Raises OSError,
    subprocess.CalledProcessError.
    """
    library = folder.absolute() / "memberdisk.so"
    command = [COMPILER, "-O1", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run([*command, "-lpthread"], check=True, capture_output=True)
    return library


class MemberDisk:
    """The files of one node, through the library.

    `side` is a directory of its own, outside `root`, which is the node's directory and need not
    exist yet.
    """

    def __init__(self, library: Path, root: Path, side: Path) -> None:
        self.preloaded, self.root, self.side = library, root.absolute(), side.absolute()
        self.side.mkdir(parents=True, exist_ok=True)
        self._control = self.side / "control"
        if not self._control.exists():
            self._control.write_bytes(bytes(FIELDS.size))

    @property
    def environ(self) -> dict[str, str]:
        """Return the variables with which the node must be started."""
        return {
            "LD_PRELOAD": str(self.preloaded),
            ROOT_VARIABLE: str(self.root),
            SIDE_VARIABLE: str(self.side),
        }

    @property
    def control(self) -> Control:
        """Return what the library is told and has counted."""
        return Control(*FIELDS.unpack(self._control.read_bytes()))

    @property
    def unsynced(self) -> int:
        """Return how many bytes the undo logs have. Also what was synced meanwhile counts, if a
        write followed it.
        """
        return sum(max(0, p.stat().st_size - HEADER.size) for p in self.side.glob("*.undo"))

    def delay_syncs(self, seconds: float) -> None:
        """Delay every sync of the store's files that begins from now on."""
        self._tell(0, round(seconds * 1000))

    def refuse_writes(self, error: int) -> None:
        """Let every write to the store's files fail with this errno from now on; 0: none."""
        self._tell(1, error)

    def _tell(self, field: int, value: int) -> None:
        # The library maps the file: it must stay the same one, and its counters be left alone.
        fd = os.open(self._control, os.O_WRONLY)
        try:
            os.pwrite(fd, struct.pack("<Q", value), field * 8)
        finally:
            os.close(fd)

    def forget(self) -> None:
        """Take everything for synced. The node must be down."""
        for log in self.side.glob("*.undo"):
            log.unlink()

    def cut_power(self, rng: Random | None = None) -> dict[str, int]:
        """Undo what was not synced; return the number of undone writes by file. The node must be
        down.

        With `rng`, each file keeps a random number of its oldest unsynced writes, as a disk may;
        without, it keeps none. Names are not undone.
        """
        files = {
            (seen.st_dev, seen.st_ino): path
            for path in self.root.rglob("*")
            if path.is_file() and (seen := path.stat())
        }
        undone: dict[str, int] = {}
        for log in sorted(self.side.glob("*.undo")):
            dev, _, ino = log.stem.partition("-")
            path = files.get((int(dev), int(ino)))
            if path is not None:
                records = _records(log.read_bytes())
                kept = rng.randint(0, len(records)) if rng is not None else 0
                if len(records) > kept:
                    _undo(path, records[kept:])
                    undone[str(path.relative_to(self.root))] = len(records) - kept
            log.unlink()
        return undone


@dataclass(frozen=True)
class _Record:
    offset: int
    size_before: int
    held: bytes


def _records(log: bytes) -> list[_Record]:
    """Return the whole records of an undo log: the last may be torn, and then its write was never
    made.
    """
    found: list[_Record] = []
    if len(log) < HEADER.size:
        return found
    (at,) = HEADER.unpack_from(log)
    while at + RECORD.size <= len(log):
        offset, length, size = RECORD.unpack_from(log, at)
        at += RECORD.size
        if at + length > len(log):
            break
        found.append(_Record(offset, size, log[at : at + length]))
        at += length
    return found


def _undo(path: Path, records: list[_Record]) -> None:
    with path.open("r+b") as file:
        for record in reversed(records):
            file.seek(record.offset)
            file.write(record.held)
            file.truncate(record.size_before)
        file.flush()
        os.fsync(file.fileno())
