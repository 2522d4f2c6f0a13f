"""The judgement of what follows a bad record: right, and in proportion to what there is to read."""

from __future__ import annotations

import itertools
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.raft.storage import records, spans
from coordinator.raft.storage.records import (
    RECORD_HEAD_BYTES,
    Kind,
    Record,
    encode_record,
    find_record,
)
from coordinator.raft.storage.spans import GRID_BYTES, Spans

SALT = 0x1234


@given(st.binary(max_size=40), st.integers(1, 5000), st.integers(0, 2**32 - 1), st.data())
@settings(deadline=None)
def test_any_piece_sums_up_to_what_zlib_says(
    seed: bytes, length: int, before: int, data: st.DataObject
) -> None:
    content = random.Random(seed).randbytes(length)
    begin = data.draw(st.integers(0, length))
    end = data.draw(st.integers(begin, length))
    assert Spans(content).crc32(begin, end, before) == zlib.crc32(content[begin:end], before)


@pytest.mark.parametrize(
    "length", [1, GRID_BYTES, GRID_BYTES + 1, 2 * GRID_BYTES, 100_000, 3 << 20]
)
def test_a_whole_content_sums_up_to_what_zlib_says(length: int) -> None:
    content = random.Random(length).randbytes(length)
    assert Spans(content).crc32(0, length, 7) == zlib.crc32(content, 7)


def shaped(size: int) -> bytes:
    """Return a value that is the beginning of a record at every turn, each as long as the rest."""
    count = size // RECORD_HEAD_BYTES
    return b"".join(
        struct.pack(
            "<2sBIIQQ",
            b"\xac\x0d",
            Kind.ENTRY,
            (count - number - 1) * RECORD_HEAD_BYTES,
            0,
            number,
            1,
        )
        for number in range(count)
    )


class Counting:
    """zlib, and how many bytes were summed up."""

    def __init__(self) -> None:
        self.summed = 0

    def crc32(self, content: bytes, before: int = 0) -> int:
        self.summed += len(content)
        return zlib.crc32(content, before)


def summed(size: int, monkeypatch: pytest.MonkeyPatch) -> int:
    counting = Counting()
    monkeypatch.setattr(records, "zlib", counting)
    monkeypatch.setattr(spans, "zlib", counting)
    assert find_record(SALT, shaped(size), 0) is None
    return counting.summed


def test_a_shaped_value_costs_in_proportion_to_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """60 KB of it once took nine seconds at start, and twice as much four times as long."""
    small, large = summed(30_000, monkeypatch), summed(120_000, monkeypatch)
    assert large < 5 * small
    assert large < 120_000 * (2 * GRID_BYTES // RECORD_HEAD_BYTES + 4)


@pytest.mark.parametrize("length", [0, 10, GRID_BYTES, 5000])
def test_a_good_record_behind_a_shaped_value_is_found(length: int) -> None:
    before = shaped(20_000)
    record = Record(Kind.ENTRY, 7, 3, random.Random(length).randbytes(length))
    content = before + encode_record(SALT, len(before), record) + b"rest"
    assert find_record(SALT, content, 0) == len(before)
    assert find_record(SALT, content, len(before) + 1) is None
    assert find_record(SALT + 1, content, 0) is None
    for offset in (len(before) + 3, len(before) + RECORD_HEAD_BYTES - 1, len(content) - 5):
        damaged = bytearray(content)
        damaged[offset] ^= 1
        assert find_record(SALT, bytes(damaged), 0) is None, "a record is good whole or not at all"


# ------------------------------------------------------------------ a sector of zeros tells nothing


def looks_torn(content: bytes, begin: int, end: int, sector: int = 512) -> bool:
    """Judge a bad record as etcd's write-ahead log does (`isTornEntry`): a sector of zeros is one
    that never came.
    """
    edges = [begin, *range((begin // sector + 1) * sector, end, sector), end]
    return any(not any(content[a:b]) for a, b in itertools.pairwise(edges))


def test_a_sector_of_zeros_does_not_tell_a_torn_record_from_a_damaged_one() -> None:
    """Why a hole before a good record is refused, and not cut off: what would be cut may have been
    acknowledged.

    The same bytes are left by a power cut before the group was synced, and by a disk that lost a
    sector of a group that was acknowledged. And a value may hold a sector of zeros of its own: then
    any flipped bit of its record looks torn.
    """
    first = encode_record(SALT, 0, Record(Kind.ENTRY, 1, 1, random.Random(1).randbytes(3000)))
    second = encode_record(SALT, len(first), Record(Kind.ENTRY, 2, 1, b"good"))
    written = first + second
    # the group's second sector never reached the disk …
    power_cut = written[:1024] + bytes(512) + written[1536:]
    # … or all did, it was acknowledged, and the disk lost that sector
    lost_later = bytearray(written)
    lost_later[1024:1536] = bytes(512)
    assert bytes(lost_later) == power_cut
    assert looks_torn(power_cut, RECORD_HEAD_BYTES, len(first))
    zeros = encode_record(SALT, 0, Record(Kind.ENTRY, 1, 1, b"page" + bytes(4096) + b"end"))
    flipped = zeros[:-1] + bytes([zeros[-1] ^ 1])
    assert looks_torn(flipped, RECORD_HEAD_BYTES, len(flipped)), (
        "nothing was torn: one bit of an acknowledged value fell"
    )
