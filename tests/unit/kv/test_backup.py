"""The format of backups: everything comes back, and whatever is not the whole file is refused by
name.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv import backup
from kv.backup import (
    BackupDecoder,
    BackupEncoder,
    BackupHeader,
    BackupRecord,
    BackupTrailer,
    EarlyEnd,
    GoneRecord,
    OperationRecord,
    RowRecord,
    VersionRecord,
)
from kv.errors import BadRequest
from kv.model import Applied, LedgerRow, Recorded, RecordedOperation, Refused, Version

HEADER = BackupHeader(
    acordo="0.2.0",
    kind="replicated",
    cluster_id="c",
    history="ab",
    revision=7,
    term=2,
    seq=3,
    digest=bytes(32),
    log_time_ms=1000,
    made_ms=2000,
    node="n1",
)
RECORDS: list[BackupRecord] = [
    RowRecord(
        LedgerRow(3, 2, "", 7, 7, b"d" * 32, 900, (Recorded("o", b"h", Applied(), (b"k",)),), 9)
    ),
    VersionRecord(Version(b"k", 7, b"v" * 100_000, 5000, 7, 1, 4)),
    VersionRecord(Version(b"t", 6, None)),
    GoneRecord(b"g", 5),
    OperationRecord(RecordedOperation("o", b"h", 7, Refused(0, 3), 900)),
]


def written(records: list[BackupRecord]) -> bytes:
    encoder = BackupEncoder()
    file = encoder.header(HEADER)
    for record in records:
        file += encoder.add(record)
    return file + encoder.trailer(BackupTrailer(floor=4, rows=1))


def read(file: bytes, piece: int = 1000) -> tuple[BackupDecoder, list[BackupRecord]]:
    decoder, found = BackupDecoder(), []
    for start in range(0, len(file), piece):
        found += list(decoder.feed(file[start : start + piece]))
    decoder.end()
    return decoder, found


def refusal(file: bytes) -> str:
    with pytest.raises(BadRequest) as caught:
        read(file)
    assert caught.value.allowed
    return caught.value.code


@pytest.mark.parametrize("piece", [1, 17, 4096, 1 << 20])
def test_everything_comes_back_in_pieces_of_any_size(piece: int) -> None:
    decoder, found = read(written(RECORDS), piece)
    assert found == RECORDS
    assert (decoder.header, decoder.trailer) == (HEADER, BackupTrailer(floor=4, rows=1))


def test_records_are_given_as_soon_as_their_chunk_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup, "PAYLOAD_BYTES", 1)
    file = written(RECORDS)
    decoder = BackupDecoder()
    early = list(decoder.feed(file[: len(file) // 2]))
    assert early and early == RECORDS[: len(early)] and len(early) < len(RECORDS)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_a_bit_flipped_anywhere_is_found(data: st.DataObject) -> None:
    file = bytearray(written(RECORDS))
    place = data.draw(st.integers(0, len(file) * 8 - 1))
    file[place // 8] ^= 1 << place % 8
    code = refusal(bytes(file))
    # a length that grew makes the decoder wait for bytes that do not come
    assert code in {"backup_altered", "backup_truncated", "backup_foreign", "backup_newer"}


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_file_that_is_cut_is_no_backup(data: st.DataObject) -> None:
    file = written(RECORDS)
    cut = file[: data.draw(st.integers(0, len(file) - 1))]
    assert refusal(cut) in {"backup_truncated", "backup_foreign"}


def test_chunks_that_are_left_out_repeated_or_moved_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backup, "PAYLOAD_BYTES", 1)
    encoder = BackupEncoder()
    head = encoder.header(HEADER)
    chunks = [encoder.add(record) for record in RECORDS]
    tail = encoder.trailer(BackupTrailer(floor=4))
    order = random.Random(4).sample(chunks, len(chunks))
    assert read(b"".join([head, *chunks, tail]))[1] == RECORDS
    for wrong in (chunks[1:], [chunks[0], *chunks], order, chunks[:-1]):
        assert refusal(b"".join([head, *wrong, tail])) == "backup_altered"
    assert refusal(b"".join([head, *chunks, tail, tail])) == "backup_altered"
    assert refusal(b"".join([head, *chunks])) == "backup_truncated"


def test_what_is_no_backup_or_a_newer_one_is_refused_by_name() -> None:
    assert refusal(b"SQLite format 3\0" + bytes(200)) == "backup_foreign"
    assert refusal(b"") == "backup_foreign"
    newer = bytearray(written(RECORDS))
    newer[8:10] = (backup.FORMAT + 1).to_bytes(2)
    assert refusal(bytes(newer)) == "backup_newer"


def test_a_backup_that_ended_early_says_why() -> None:
    encoder = BackupEncoder()
    file = encoder.header(HEADER) + encoder.add(RECORDS[0])
    file += encoder.early_end(EarlyEnd("draining", "this node is stopping"))
    with pytest.raises(BadRequest, match="this node is stopping") as caught:
        read(file)
    assert caught.value.code == "backup_unfinished"


def test_of_the_rest_of_a_file_nothing_is_given() -> None:
    decoder = BackupDecoder()
    file = bytearray(written(RECORDS))
    file[-40] ^= 1
    with pytest.raises(BadRequest):
        list(decoder.feed(bytes(file)))
    assert decoder.trailer is None
