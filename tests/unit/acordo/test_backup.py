"""`acordo backup` and `acordo verify` against a node, and the checker against what the node's own
encoder writes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from acordo import BadRequest, Client, ReadFailed
from acordo._bulk.backup import backup_to
from acordo._bulk.backup_file import BackupCheck
from acordo._cli.verifying import Verdict, differing
from acordo._results import Inspected
from kv import backup as written
from kv.model import Applied, LedgerRow, Recorded, roll
from kv.ports import Retention
from tests.s3 import BUCKET, served
from tests.unit.acordo.scripted import Play, Scripted, http
from tests.unit.acordo.test_cli import Shell
from tests.unit.node.conftest import Api, opened


@pytest.fixture
async def api() -> AsyncIterator[Api]:
    # what the node logs must not stand among what the command prints: both are in this process
    with capture_logs():
        async with opened(kind="replicated") as one:
            for key in ("a", "b", "a"):
                await one.ask("PUT", f"/v1/kv/{key}", data=b"v" * 200_000)
            await one.ask("DELETE", "/v1/kv/b", headers={"Idempotency-Key": '"mine"'})
            yield one


def check(file: bytes) -> None:
    found = BackupCheck()
    found.feed(file)
    found.end()


async def test_a_backup_is_taken_whole_and_verified(api: Api, tmp_path: Path) -> None:
    acordo, target = Shell([api.url]), tmp_path / "b"
    target.write_bytes(b"an older one")
    taken = await acordo("backup", str(target), "--json")
    assert taken.code == 0, taken.err
    said = taken.json
    assert (said["keys"], said["revision"], said["versions"], said["operations"]) == (1, 4, 4, 1)
    assert [each.name for each in tmp_path.iterdir()] == ["b"]
    again = await acordo("verify", str(target), "--json")
    assert (again.code, again.json) == (0, said)
    shown = await acordo("verify", str(target))
    assert b"whole: 1 keys as of revision 4" in shown.out
    piped = await acordo("backup", "-")
    assert piped.code == 0 and b"whole: 1 keys" in piped.err.encode()
    check(piped.out)
    assert (await acordo("verify", "-", stdin=piped.out)).code == 0


async def test_what_changed_is_taken_verified_and_goes_on_again(api: Api, tmp_path: Path) -> None:
    acordo, first = Shell([api.url]), tmp_path / "1"
    await acordo("backup", str(first))
    await api.ask("PUT", "/v1/kv/c", data=b"3")
    for number, keys in ((2, 2), (3, 3)):
        before, target = tmp_path / str(number - 1), tmp_path / str(number)
        taken = await acordo("backup", "--since", str(before), str(target), "--json")
        assert taken.code == 0, taken.err
        again = await acordo("verify", str(target), "--json")
        assert (again.code, again.json) == (0, taken.json)
        assert (taken.json["since"], taken.json["rows"]) == (number + 2, 1)
        assert taken.json["keys"] == keys
        await api.ask("PUT", "/v1/kv/d", data=b"4")
    piped = await acordo("backup", "--since", str(first), "-")
    assert piped.code == 0 and "what changed after revision 4" in piped.err
    check(piped.out)
    first.write_bytes(first.read_bytes()[:-1])
    refused = await acordo("--json", "backup", "--since", str(first), str(tmp_path / "4"))
    assert refused.code == 2 and '"code":"backup_truncated"' in refused.err
    assert not (tmp_path / "4").exists()


async def test_what_is_not_kept_any_more_is_said_with_the_way(api: Api, tmp_path: Path) -> None:
    acordo, first = Shell([api.url]), tmp_path / "1"
    await acordo("backup", str(first))
    for n in range(6):
        await api.ask("PUT", "/v1/kv/a", data=b"%d" % n)
    store = api.server.services.own
    for _ in range(20):
        await store.prune(Retention(9, 0, rows_max=2), timeout_s=5)  # type: ignore[union-attr,arg-type]
    refused = await acordo("backup", "--since", str(first), str(tmp_path / "2"))
    assert refused.code == 6 and "take a whole backup" in refused.err
    assert not (tmp_path / "2").exists()


@pytest.mark.parametrize("change", ["left out", "repeated", "since"])
def test_an_incremental_backup_whose_rows_do_not_follow_is_refused(change: str) -> None:
    """Made by the node's own encoder, so the chunks are right; the rows are not."""
    digests = [roll(bytes(32), "before", b"h" * 16)]
    rows = []
    for n in range(3):
        digests.append(roll(digests[-1], f"op{n}", b"h" * 16))
        record = Recorded(f"op{n}", b"h" * 16, Applied())
        rows.append(LedgerRow(6 + n, 1, "", 6 + n, 6 + n, digests[-1], 1, (record,)))
    header = written.BackupHeader(
        format=written.INCREMENTAL, acordo="x", kind="replicated", cluster_id="", history="",
        revision=8, term=1, seq=8, digest=digests[-1], log_time_ms=1, made_ms=1, node="n1",
        since=5, since_seq=5, since_digest=digests[0],
    )  # fmt: skip

    def file(header: written.BackupHeader, rows: list[LedgerRow]) -> bytes:
        encoder = written.BackupEncoder(written.INCREMENTAL)
        content = encoder.header(header)
        for row in rows:
            content += encoder.add(written.RowRecord(row))
        return content + encoder.trailer(written.BackupTrailer(floor=5, rows=len(rows)))

    check(file(header, rows))
    match change:
        case "left out":
            wrong = file(header, [rows[0], rows[2]])
        case "repeated":
            wrong = file(header, [rows[0], *rows])
        case _:
            other = msgspec.structs.replace(header, since_digest=bytes(32))
            wrong = file(other, rows)
    with pytest.raises(BadRequest) as caught:
        check(wrong)
    assert caught.value.code == "backup_altered"


async def test_a_backup_is_kept_in_a_bucket_and_verified_there(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    acordo = Shell([api.url])
    with served() as s3:
        for name, value in s3.environ.items():
            monkeypatch.setenv(name, value)
        taken = await acordo("backup", f"s3://{BUCKET}/of/a/cluster", "--json")
        assert taken.code == 0, taken.err
        assert s3.objects() == ["of/a/cluster"]
        again = await acordo("verify", f"s3://{BUCKET}/of/a/cluster", "--json")
        assert (again.code, again.json) == (0, taken.json)
        s3.put("cut", s3.get("of/a/cluster")[:-1])
        cut = await acordo("--json", "verify", f"s3://{BUCKET}/cut")
        assert cut.code == 2 and '"code":"backup_truncated"' in cut.err
        missing = await acordo("verify", f"s3://{BUCKET}/missing")
        assert missing.code == 2 and "no such bucket or object" in missing.err


async def test_a_backup_of_another_cluster_and_a_damaged_one_are_refused_by_name(
    api: Api, tmp_path: Path
) -> None:
    acordo, target = Shell([api.url]), tmp_path / "b"
    await acordo("backup", str(target))
    other = await acordo("verify", str(target), "--cluster-id", "elsewhere")
    assert other.code == 2 and "not of 'elsewhere'" in other.err
    file = target.read_bytes()
    for name, wrong in (
        ("backup_truncated", file[:-1]),
        ("backup_altered", file[:500] + bytes([file[500] ^ 4]) + file[501:]),
        ("backup_foreign", b"PK\3\4" + file),
    ):
        target.write_bytes(wrong)
        refused = await acordo("--json", "verify", str(target))
        assert refused.code == 2 and f'"code":"{name}"' in refused.err, name


async def test_a_running_cluster_is_not_restored_and_the_way_is_named(
    api: Api, tmp_path: Path
) -> None:
    acordo, target = Shell([api.url]), tmp_path / "b"
    await acordo("backup", str(target))
    refused = await acordo("restore", str(target))
    assert refused.code == 2 and "--from-backup" in refused.err and "--restore" in refused.err


async def test_what_breaks_off_or_ends_early_leaves_the_file_as_it_was(
    api: Api, tmp_path: Path
) -> None:
    acordo, target = Shell([api.url]), tmp_path / "b"
    target.write_bytes(b"an older one")
    api.database.damage(b"a", 3)
    refused = await acordo("backup", str(target))
    assert refused.code == 2 and "store_damaged" in refused.err
    assert target.read_bytes() == b"an older one"
    assert [each.name for each in tmp_path.iterdir()] == ["b"]


async def test_a_connection_that_is_cut_is_no_end() -> None:
    cut = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nAcordo-Node: n1\r\n"
    cut += b"Transfer-Encoding: chunked\r\n\r\n5\r\nACORD\r\n"
    async with Scripted(otherwise=Play(cut, then="close")) as node, Client(node.url) as client:
        with pytest.raises(ReadFailed):
            await backup_to(client, lambda piece: None)


async def test_a_node_that_gives_none_is_passed_over(api: Api) -> None:
    busy = http(503, b"{}")
    async with Scripted(otherwise=Play(busy)) as node, Client([node.url, api.url]) as client:
        pieces: list[bytes] = []
        assert (await backup_to(client, pieces.append)).keys == 1
        check(b"".join(pieces))


def test_a_total_that_is_not_what_is_there_is_found() -> None:
    from tests.unit.kv.test_backup import HEADER, RECORDS

    def file(*records: written.BackupRecord, **totals: int) -> bytes:
        encoder = written.BackupEncoder()
        content = encoder.header(HEADER)
        for record in records:
            content += encoder.add(record)
        return content + encoder.trailer(written.BackupTrailer(floor=0, **totals))

    check(file(RECORDS[2], versions=1))
    for wrong in (
        file(RECORDS[2], versions=2),
        file(RECORDS[0], rows=1),  # what the row names is missing
        file(*RECORDS[:2], rows=1, versions=1, value_bytes=100_000),  # not the header's row
    ):
        with pytest.raises(BadRequest) as caught:
            check(wrong)
        assert caught.value.code == "backup_altered"


def test_who_differs_from_most_is_named_and_all_are_where_there_are_no_most() -> None:
    def members(**digests: str | None) -> dict[str, Inspected | str]:
        return {
            id: "away" if digest is None else Inspected(node=id, revision=1, digest=digest)
            for id, digest in digests.items()
        }

    assert differing(members(a="x", b="x", c="x")) == []
    assert differing(members(a="x", b="y", c="x")) == ["b"]
    assert differing(members(a="x", b="y", c=None)) == ["a", "b"]
    assert differing(members(a="x", b="y", c="z")) == ["a", "b", "c"]
    assert differing(members(a=None)) == differing({}) == []
    sound = Verdict(revision=1, members=members(a="x"), differing=[], rows=1, flaws=[])
    away = Verdict(revision=1, members=members(a="x", b=None), differing=[], rows=1, flaws=[])
    assert sound.sound and not away.sound


async def test_verify_leaves_with_1_when_a_member_cannot_be_asked(api: Api) -> None:
    verified = await Shell([api.url])("verify")  # its advertised URL is that of no host
    assert verified.code == 1 and b"could not be verified" in verified.out
    refused = await Shell([api.url])("verify", "--json")
    assert refused.json["sound"] is False and refused.json["flaws"] == []
