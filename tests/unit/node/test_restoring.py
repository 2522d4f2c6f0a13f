"""What a backup is made into: the state at a revision, a new history, a member's directory."""

from __future__ import annotations

import asyncio
import io
import random
from argparse import Namespace
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backends.replicated.store import SqliteMemberStore
from cluster.directory import claim_node
from coordinator.machine.snapshot import decode_state
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.snapshot import SnapshotStore
from kv.backup import (
    INCREMENTAL,
    BackupEncoder,
    BackupHeader,
    BackupTrailer,
    BaseRecord,
    GoneRecord,
    OperationRecord,
    RowRecord,
    VersionRecord,
)
from kv.errors import BadRequest, Pruned
from kv.leases import lease_key, ttl_value
from kv.model import Applied, LedgerRow, Recorded, RecordedOperation, Version
from node.__main__ import main
from node.startup.restoring import command, history
from node.startup.restoring.history import REVISIONS, TERMS
from node.startup.restoring.state import StateAt
from tests.s3 import BUCKET, served

T = 10.0


def header(revision: int, **more: object) -> BackupHeader:
    given: dict[str, object] = {
        "acordo": "0.2.0",
        "kind": "replicated",
        "cluster_id": "c",
        "history": "ab",
        "revision": revision,
        "term": 4,
        "seq": 9,
        "digest": bytes(32),
        "log_time_ms": 1000,
        "made_ms": 2000,
        "node": "n1",
        "limits": {"window_ms": 5000, "unknown": 3},
    }
    return BackupHeader(**{**given, **more})  # type: ignore[arg-type]  # as there


def file_of(
    *records: VersionRecord | GoneRecord | BaseRecord | OperationRecord | RowRecord,
    revision: int,
    floor: int = 0,
    **more: object,
) -> bytes:
    told = header(revision, **more)
    encoder = BackupEncoder(told.format)
    content = encoder.header(told)
    for record in records:
        content += encoder.add(record)
    return content + encoder.trailer(BackupTrailer(floor=floor))


def put(key: bytes, revision: int, value: bytes = b"v") -> VersionRecord:
    return VersionRecord(Version(key, revision, value, None, revision, 1))


def present(file: bytes, at: int | None, directory: Path) -> dict[bytes, tuple[int, object]]:
    with StateAt(directory) as state:
        state.read(io.BytesIO(file), at)
        state.digested(at)
        return {v.key: (v.revision, v.value) for v in state.versions()}


@pytest.mark.parametrize("seed", range(20))
def test_every_revision_from_the_floor_on_is_what_it_was(seed: int, tmp_path: Path) -> None:
    """Rows are read first, some of their versions pruned meanwhile, some rows too; then what is
    present, as of a floor that rises. Each later state comes out as it was.
    """
    rng = random.Random(seed)
    keys = [b"k%d" % n for n in range(6)]
    log: list[tuple[bytes, bytes | None]] = [
        (rng.choice(keys), rng.choice([b"v%d" % n, None])) for n in range(1, 61)
    ]

    def state(revision: int) -> dict[bytes, tuple[int, object]]:
        found: dict[bytes, tuple[int, object]] = {}
        for at, (key, value) in enumerate(log[:revision], 1):
            found.pop(key, None)
            if value is not None:
                found[key] = (at, value)
        return found

    def gone(revision: int, floor: int) -> bool:
        """Whether pruning up to a floor has taken the version."""
        key, value = log[revision - 1]
        later = any(other == key for other, _ in log[revision:floor])
        return revision <= floor and (value is None or later)

    floors = sorted(rng.randrange(5, 30) for _ in range(3))
    first = rng.randrange(1, floors[0])
    records: list[VersionRecord | GoneRecord | BaseRecord] = []
    hole = range(first + 1, rng.randrange(first + 1, floors[0] + 1))
    for revision in range(first, 61):
        if revision in hole:
            continue  # rows that were pruned between two reads
        key, value = log[revision - 1]
        taken = gone(revision, rng.choice([0, floors[0]]))
        created = 0 if value is None else revision
        made = VersionRecord(Version(key, revision, value, None, created, int(value is not None)))
        records.append(GoneRecord(key, revision) if taken else made)
    split = rng.randrange(len(keys))
    for floor, part in ((floors[1], keys[:split]), (floors[2], keys[split:])):
        records.append(BaseRecord(floor))
        found = state(floor)
        for key in part:
            if key in found:
                at, kept = found[key]
                records.append(put(key, at, kept))  # type: ignore[arg-type]  # bytes
    file = file_of(*records, revision=60, floor=floors[2])
    for at in range(floors[2], 61):
        assert present(file, at, tmp_path) == state(at), at
    for at in (floors[2] - 1, 61):
        with pytest.raises(BadRequest) as caught:
            present(file, at, tmp_path)
        assert caught.value.code == "revision_not_in_backup"
    assert list(tmp_path.iterdir()) == []


def digest_at(revision: int) -> bytes:
    return revision.to_bytes(32)


def chain(log: list[tuple[bytes, bytes | None]], ends: list[int]) -> list[bytes]:
    """A whole backup up to the first end, and one that goes on from each end to the next."""
    files = []
    for since, end in zip([0, *ends], ends, strict=False):
        records: list[VersionRecord | GoneRecord | BaseRecord | OperationRecord] = []
        for revision, (key, value) in enumerate(log[since:end], since + 1):
            newest = all(later != key for later, _ in log[revision:end])
            if not newest and revision % 3 == 0:
                records.append(GoneRecord(key, revision))
            elif value is None:
                records.append(VersionRecord(Version(key, revision, None)))
            else:
                records.append(put(key, revision, value))
        more: dict[str, object] = {"digest": digest_at(end), "floor": end}
        if since:
            more |= {"format": INCREMENTAL, "since": since, "since_digest": digest_at(since)}
        else:
            records.append(BaseRecord(0))
        recorded = OperationRecord(RecordedOperation(f"op{end}", b"h", end, Applied(), 1))
        files.append(file_of(*records, recorded, revision=end, **more))  # type: ignore[arg-type]
    return files


@pytest.mark.parametrize("seed", range(8))
def test_a_whole_backup_and_those_that_go_on_from_it_are_what_was_at_each_end(
    seed: int, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    keys = [b"k%d" % n for n in range(5)]
    log = [(rng.choice(keys), rng.choice([b"v%d" % n, None])) for n in range(40)]
    ends = sorted(rng.sample(range(1, 41), 4))
    files = chain(log, ends)
    for end in ends:
        expected = dict(log[:end])
        with StateAt(tmp_path) as state:
            for file in files:
                state.read(io.BytesIO(file), end)
            assert state.digested(end).revision == end
            found = {v.key: v.value for v in state.versions()}
            assert found == {key: value for key, value in expected.items() if value is not None}
            assert [each.revision for each in state.operations()] == [
                each for each in ends if each <= end
            ]
    with StateAt(tmp_path) as state:
        for file in files:
            state.read(io.BytesIO(file), None)
        missing = next(at for at in range(1, 42) if at not in ends)
        with pytest.raises(BadRequest) as caught:
            state.digested(missing)
        assert caught.value.code == "revision_not_in_backup"


def read_all(directory: Path, files: Sequence[bytes]) -> None:
    with StateAt(directory) as state:
        for file in files:
            state.read(io.BytesIO(file), None)


def test_a_chain_with_a_gap_another_order_or_another_cluster_is_refused(tmp_path: Path) -> None:
    log: list[tuple[bytes, bytes | None]] = [(b"k", b"%d" % n) for n in range(9)]
    whole, second, third = chain(log, [3, 6, 9])
    other = file_of(
        revision=6, format=INCREMENTAL, since=3, since_digest=digest_at(3), history="cd",
        digest=digest_at(6),
    )  # fmt: skip
    astray = file_of(
        revision=6, format=INCREMENTAL, since=3, since_digest=digest_at(4), digest=digest_at(6)
    )
    for files, code in (
        ((whole, third), "backup_gap"),
        ((whole, third, second), "backup_gap"),
        ((whole, second, second), "backup_gap"),
        ((whole, whole), "backup_gap"),
        ((whole, astray), "backup_gap"),
        ((second, third), "backup_incremental"),
        ((whole, other), "backup_of_another_cluster"),
        ((whole, second[:-1]), "backup_truncated"),
    ):
        with pytest.raises(BadRequest) as caught:
            read_all(tmp_path, files)
        assert caught.value.code == code, code


def timed(revision: int, log_time_ms: int) -> RowRecord:
    body = (Recorded(f"~{revision}", b"h" * 16, Applied(), (b"k%d" % revision,)),)
    return RowRecord(
        LedgerRow(revision, 4, "", revision, revision, bytes(32), log_time_ms, body, revision)
    )


BEGAN_MS = 1_800_000_000_000
TIMED = file_of(
    *(
        record
        for n in range(1, 7)
        for record in (timed(n, BEGAN_MS + n * 1000), put(b"k%d" % n, n))
    ),
    BaseRecord(0),
    revision=6,
    log_time_ms=BEGAN_MS + 9_000,
)


@pytest.mark.parametrize(
    ("after_ms", "last"), [(1_000, 1), (3_999, 3), (4_000, 4), (6_000, 6), (9_000, 6), (999, 0)]
)
def test_a_moment_is_all_that_was_ordered_up_to_then(
    after_ms: int, last: int, tmp_path: Path
) -> None:
    at_ms = BEGAN_MS + after_ms
    with StateAt(tmp_path) as state:
        state.read(io.BytesIO(TIMED), None, at_ms)
        assert state.digested(None, at_ms).revision == last
        assert [v.key for v in state.versions()] == [b"k%d" % n for n in range(1, last + 1)]


def test_a_moment_in_the_second_of_two_backups_is_found_there(tmp_path: Path) -> None:
    more = file_of(
        timed(7, BEGAN_MS + 10_000), put(b"k7", 7), timed(8, BEGAN_MS + 11_000), put(b"k8", 8),
        revision=8, floor=6, format=INCREMENTAL, since=6, since_digest=bytes(32),
        log_time_ms=BEGAN_MS + 12_000,
    )  # fmt: skip
    for after_ms, last in ((2_500, 2), (10_500, 7), (11_000, 8)):
        at_ms = BEGAN_MS + after_ms
        with StateAt(tmp_path) as state:
            for file in (TIMED, more):
                state.read(io.BytesIO(file), None, at_ms)
            assert state.digested(None, at_ms).revision == last
            assert len(list(state.versions())) == last


@pytest.mark.parametrize(
    ("time", "code"),
    [
        ("2027-01-15T08:00:03Z", ""),
        ("2027-01-15T09:00:03+01:00", ""),
        ("2027-01-15T08:00:03", "with its zone"),
        ("yesterday", "with its zone"),
        ("2027-01-15T08:00:10Z", "the backup ends at 2027-01-15T08:00:09.000+00:00"),
    ],
)
def test_a_time_is_given_with_its_zone_and_lies_in_the_backup(
    time: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--of-cluster", "c", "--at-time", time)
    said = restored(tmp_path, TIMED, *more, capsys=capsys, code=78 if code else 0)
    assert (code or "3 keys as of revision 3 of") in said


@pytest.mark.parametrize("first", [(4, 5, 6), (1, 4, 5, 6)])
def test_a_moment_of_which_the_rows_were_pruned_is_refused(
    first: tuple[int, ...], tmp_path: Path
) -> None:
    """What was there before the row that follows is known, but not when that came to be."""
    rows = [each for n in first for each in (timed(n, BEGAN_MS + n * 1000), put(b"k%d" % n, n))]
    file = file_of(
        *rows, BaseRecord(3), *(put(b"k%d" % n, n) for n in (1, 2, 3)),
        revision=6, floor=3, log_time_ms=BEGAN_MS + 9_000,
    )  # fmt: skip
    for after_ms, last in ((3_500, 0), (4_000, 4), (5_500, 5)):
        with StateAt(tmp_path) as state:
            state.read(io.BytesIO(file), None, BEGAN_MS + after_ms)
            if not last:
                with pytest.raises(BadRequest, match="was pruned"):
                    state.digested(None, BEGAN_MS + after_ms)
                continue
            assert state.digested(None, BEGAN_MS + after_ms).revision == last


def test_a_time_is_read_to_the_millisecond() -> None:
    # as a float, this one would be a millisecond less
    at_ms = 2_171_716_075_878
    text = datetime.fromtimestamp(at_ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S.878Z")
    assert command._log_time_of(Namespace(at_time=text, at_revision=None)) == at_ms


OPTIONS = ("--node-id", "n1", "--raft-address", "127.0.0.1:9001", "--cluster-id", "new")
INCARNATION = "0123456789abcdef" * 2


def restored(
    tmp_path: Path, file: bytes, *more: str, capsys: pytest.CaptureFixture[str], code: int = 0
) -> str:
    source = tmp_path / "backup"
    source.write_bytes(file)
    arguments = [*OPTIONS, "--data-dir", str(tmp_path / "n1"), "--restore", str(source), *more]
    assert main(arguments) == code
    said = capsys.readouterr()
    return said.err if code else said.out


FILE = file_of(
    VersionRecord(Version(b"a", 7, b"1", 9000, 5, 2)),
    VersionRecord(Version(b"b", 7, b"2", None, 7, 1, 3)),
    VersionRecord(Version(lease_key(3), 6, ttl_value(500), None, 6, 1)),
    VersionRecord(Version(b"gone", 8, None)),
    OperationRecord(RecordedOperation("mine", b"h" * 16, 7, Applied(), 900)),
    BaseRecord(0),
    revision=8,
)


async def looked_into(directory: Path) -> None:
    async with SqliteMemberStore(str(directory / "store.sqlite")) as store:
        assert store.condition == "sound" and not store.fetched
        head = await store.head(timeout_s=T)
        assert (head.last, head.term, head.seq) == (8 + REVISIONS, 4 + TERMS, 10)
        read = await store.read([b"a", b"b", b"gone"], timeout_s=T)
        assert read.versions == (
            Version(b"a", 7, b"1", 9000, 5, 2),
            Version(b"b", 7, b"2", None, 7, 1, 3),
            None,
        )
        with pytest.raises(Pruned):
            await store.read([b"a"], at=8, timeout_s=T)
        with pytest.raises(Pruned):
            await store.rows(7, 9, timeout_s=T)
        assert await store.due(9000, 9, timeout_s=T) == ((b"a", 7),)
        assert await store.attached(3, limit=9, timeout_s=T) == (b"b",)
        (mine,) = await store.recorded_after(0, 9, timeout_s=T)
        assert (mine.op_id, mine.log_time_ms) == ("mine", 900)
        assert await store.damaged_rows(0, timeout_s=T) == (0, ())
        scrubbed = await store.scrub(0, timeout_s=T)
        assert (scrubbed.versions, scrubbed.damaged) == (3, ())
        store.cut_back(
            1
        )  # as after a quorum has lost its logs: nothing is left, and nothing breaks
        assert store.newest is None


def dump_of(directory: Path) -> object:
    disk = RealDisk(directory / "raft")
    try:
        snapshot = SnapshotStore(disk, cluster="new").load_now()
    finally:
        disk.close()
    assert snapshot is not None
    return decode_state(snapshot.body)


def test_a_directory_is_made_that_a_member_starts_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = restored(tmp_path, FILE, "--of-cluster", "c", capsys=capsys)
    assert "3 keys as of revision 8 of cluster c are restored" in said
    assert f"goes on from revision {8 + REVISIONS}." in said
    state = dump_of(tmp_path / "n1")
    assert state.limits.window_ms == 5000  # type: ignore[attr-defined]  # a MachineState
    assert state.undone.to == state.revision == 8 + REVISIONS  # type: ignore[attr-defined]
    assert claim_node(tmp_path / "n1", "new", "n1", "replicated").store == "replicated"
    asyncio.run(looked_into(tmp_path / "n1"))


def test_members_restored_alike_are_alike_and_another_restore_is_another_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for name, incarnation in (("x", INCARNATION), ("y", INCARNATION), ("z", "ff" * 16)):
        (tmp_path / name).mkdir()
        more = ("--of-cluster", "c", "--incarnation", incarnation)
        restored(tmp_path / name, FILE, *more, capsys=capsys)
        found.append(dump_of(tmp_path / name / "n1"))
    assert found[0] == found[1] != found[2]
    assert found[0].founded.history != found[2].founded.history  # type: ignore[attr-defined]
    assert found[0].namespace != found[2].namespace  # type: ignore[attr-defined]


def test_what_holds_anything_is_refused_and_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    restored(tmp_path, FILE, "--of-cluster", "c", capsys=capsys)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "n1").rglob("*")}
    said = restored(tmp_path, FILE, "--of-cluster", "c", capsys=capsys, code=78)
    assert "holds a member already" in said and "replaced, never restored" in said
    del before[tmp_path / "n1" / "lock"]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("file", "more", "says"),
    [
        (FILE, (), "of cluster 'c', not of 'new'"),
        (FILE[:-20], ("--of-cluster", "c"), "without its trailer"),
        (FILE[:300] + b"?" + FILE[301:], ("--of-cluster", "c"), "not what was written"),
        (b"nothing", ("--of-cluster", "c"), "no backup of Acordo"),
        (FILE, ("--of-cluster", "c", "--at-revision", "9"), "at revision 9"),
        (file_of(revision=8, level=99), ("--of-cluster", "c"), "feature level 99"),
        (file_of(revision=2**48), ("--of-cluster", "c"), "cannot be raised"),
        (FILE, ("--of-cluster", "c", "--incarnation", "xyz"), "32 hexadecimal digits"),
        (
            FILE,
            ("--of-cluster", "c", "--members", "n1=127.0.0.1:9001,n2=127.0.0.1:9002"),
            "with one --incarnation",
        ),
    ],
)
def test_what_cannot_be_restored_is_refused_by_name_and_leaves_nothing_that_starts(
    file: bytes,
    more: tuple[str, ...],
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert says in restored(tmp_path, file, *more, capsys=capsys, code=78)
    assert not (tmp_path / "n1" / "store.sqlite").exists()
    restored(tmp_path, FILE, "--of-cluster", "c", capsys=capsys)  # what failed is begun anew


def test_no_node_starts_from_a_directory_that_was_half_restored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SnapshotStore, "save", _breaks)
    restored(tmp_path, FILE, "--of-cluster", "c", capsys=capsys, code=78)
    with pytest.raises(BadRequest) as caught:
        claim_node(tmp_path / "n1", "new", "n1", "replicated")
    assert caught.value.code == "half_restored"
    monkeypatch.undo()
    restored(tmp_path, FILE, "--of-cluster", "c", capsys=capsys)
    asyncio.run(looked_into(tmp_path / "n1"))


async def _breaks(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_what_is_drawn_for_a_history_is_never_drawn_twice() -> None:
    draw = history._Drawn(b"seed")
    drawn = [draw(16) for _ in range(9)]
    assert len(set(drawn)) == 9 and drawn[0] == history._Drawn(b"seed")(16)


def verified(tmp_path: Path, capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert main([*OPTIONS, "--data-dir", str(tmp_path / "n1"), "--verify"]) == code
    said = capsys.readouterr()
    return said.out + said.err


def test_a_directory_at_rest_is_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not there" in verified(tmp_path, capsys, 78)
    restored(tmp_path, FILE, "--of-cluster", "c", capsys=capsys)
    said = verified(tmp_path, capsys, 0)
    assert "no flaws; 3 keys" in said and "a dump at the log index 2" in said
    assert verified(tmp_path, capsys, 0) == said
    file, dump = tmp_path / "n1" / "store.sqlite", tmp_path / "n1" / "raft" / "snapshot"
    for path, of, code, says in (
        (file, b"500", 1, "is damaged"),  # the value of a lease
        (file, b"acordo/leases/", 1, "in the file"),
        (file, b"SQLite format", 1, "the file is damaged"),
        (dump, b"ACORDOSN", 78, "does not begin as one of ours"),
    ):
        sound = path.read_bytes()
        place = sound.rindex(of)
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
        found = verified(tmp_path, capsys, code)
        assert says in found, found
        path.write_bytes(sound)
    assert verified(tmp_path, capsys, 0) == said


def test_a_directory_is_made_out_of_an_object_of_a_bucket(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    large = file_of(
        *(put(b"%d" % n, n, b"v" * 200_000) for n in range(1, 9)), BaseRecord(0), revision=8
    )
    options = [*OPTIONS, "--of-cluster", "c", "--restore"]
    with served() as s3:
        for name, value in s3.environ.items():
            monkeypatch.setenv(name, value)
        s3.put("of/c", large)
        s3.put("cut", large[:-1])
        assert main([*options, f"s3://{BUCKET}/of/c", "--data-dir", str(tmp_path / "n1")]) == 0
        assert "8 keys as of revision 8" in capsys.readouterr().out
        for key, why in (("cut", "without its trailer"), ("none", "no such bucket or object")):
            wrong = [*options, f"s3://{BUCKET}/{key}", "--data-dir", str(tmp_path / key)]
            assert main(wrong) == 78
            assert why in capsys.readouterr().err
    assert main([*options, "s3://", "--data-dir", str(tmp_path / "n4")]) == 78
    assert "names no file" in capsys.readouterr().err
