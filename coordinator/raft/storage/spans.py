"""Compute the CRC32 of any slice of a long content in bounded time, whatever the slice's length.

Pure. The results are those of `zlib.crc32`: the CRC of a slice follows from the CRCs of the two
prefixes of the content that end where the slice begins and ends.
"""

from __future__ import annotations

import zlib
from functools import cache
from typing import Final

GRID_BYTES: Final = 512
"""Distance in bytes between the prefixes whose CRCs are computed once; the CRC of a slice then
reads at most twice as many bytes.
"""
_POLYNOMIAL: Final = 0xEDB88320

_Tables = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]


class Spans:
    """One content with the CRC32s of its prefixes."""

    def __init__(self, content: bytes) -> None:
        self._content = memoryview(content)
        self._grid: list[int] = []

    def crc32(self, begin: int, end: int, before: int) -> int:
        """Return `zlib.crc32(content[begin:end], before)`."""
        if end - begin <= GRID_BYTES:
            return zlib.crc32(self._content[begin:end], before)
        return self._prefix(end) ^ _shifted(self._prefix(begin) ^ before, end - begin)

    def _prefix(self, end: int) -> int:
        if not self._grid:
            summed = 0
            for start in range(0, len(self._content) + 1, GRID_BYTES):
                self._grid.append(summed)
                summed = zlib.crc32(self._content[start : start + GRID_BYTES], summed)
        cell = end // GRID_BYTES
        return zlib.crc32(self._content[cell * GRID_BYTES : end], self._grid[cell])


def _shifted(crc: int, count: int) -> int:
    """Return the share of a CRC in the CRC of a longer content, in which `count` bytes follow."""
    power = 0
    while count:
        if count & 1:
            one, two, three, four = _doubled(power)
            crc = one[crc & 255] ^ two[crc >> 8 & 255] ^ three[crc >> 16 & 255] ^ four[crc >> 24]
        count >>= 1
        power += 1
    return crc


@cache
def _doubled(power: int) -> _Tables:
    """Return four tables, one per byte of a CRC: what it becomes after 2 ** power more bytes."""

    def through(crc: int) -> int:
        if power:
            half = 1 << (power - 1)
            return _shifted(_shifted(crc, half), half)
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
        return crc

    bits = [through(1 << bit) for bit in range(32)]

    def table(byte: int) -> tuple[int, ...]:
        row = [0] * 256
        for value in range(1, 256):
            low = value & -value
            row[value] = row[value ^ low] ^ bits[8 * byte + low.bit_length() - 1]
        return tuple(row)

    return table(0), table(1), table(2), table(3)
