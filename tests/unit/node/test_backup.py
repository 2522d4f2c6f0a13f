"""GET /v1/backup: whole, consistent at one revision, and refused where it is not."""

from __future__ import annotations

import msgspec
import pytest

from kv.backup import (
    BackupDecoder,
    BackupRecord,
    GoneRecord,
    OperationRecord,
    RowRecord,
    VersionRecord,
)
from kv.errors import BadRequest
from kv.model import Version
from kv.ports import Retention
from tests.unit.node.conftest import Api, Open, Reply, opened


def decoded(file: bytes) -> tuple[BackupDecoder, list[BackupRecord]]:
    decoder = BackupDecoder()
    found = list(decoder.feed(file))
    decoder.end()
    return decoder, found


def versions_of(found: list[BackupRecord]) -> list[Version]:
    return [record.version for record in found if isinstance(record, VersionRecord)]


async def taken(api: Api) -> Reply:
    return await api.ask("GET", "/v1/backup")


async def filled(api: Api) -> None:
    headers = {"Idempotency-Key": '"mine"'}
    await api.ask("PUT", "/v1/kv/a", data=b"1", headers=headers)
    await api.ask("PUT", "/v1/kv/a", data=b"2")
    await api.ask("PUT", "/v1/kv/b?ttl=60", data=b"v" * 300_000)
    await api.ask("DELETE", "/v1/kv/a")
    await api.ask("PUT", "/v1/kv/c", data=b"3")


async def test_it_holds_history_tombstones_expiries_and_op_ids(open_api: Open) -> None:
    async with open_api() as api:
        await filled(api)
        answer = await taken(api)
        assert answer.status == 200 and answer.headers["Acordo-Revision"] == "5"
        decoder, found = decoded(answer.body)
        header, trailer = decoder.header, decoder.trailer
        assert header is not None and trailer is not None
        assert (header.revision, header.node) == (5, "n1")
        assert [r.row.last for r in found if isinstance(r, RowRecord)] == [1, 2, 3, 4, 5]
        made = versions_of(found)
        assert [(v.key, v.revision) for v in made] == [
            (b"a", 1), (b"a", 2), (b"b", 3), (b"a", 4), (b"c", 5),
        ]  # fmt: skip
        assert made[2].value == b"v" * 300_000 and made[2].expires_ms
        assert made[3].value is None
        (operation,) = [r.operation for r in found if isinstance(r, OperationRecord)]
        assert (operation.op_id, operation.revision) == ("mine", 1)
        assert (trailer.keys, trailer.versions, trailer.rows, trailer.floor) == (2, 5, 5, 0)


async def test_what_was_pruned_is_named_and_what_it_left_is_whole(open_api: Open) -> None:
    async with open_api() as api:
        await filled(api)
        store = api.server.services.shared or api.server.services.own
        # rows stay, versions go: as between two steps of pruning
        await store.prune(Retention(4, 0, rows_max=2), timeout_s=5)  # type: ignore[union-attr,arg-type]
        _, found = decoded((await taken(api)).body)
        present = {v.key: v.value for v in versions_of(found)}
        assert (present[b"c"], present[b"b"]) == (b"3", b"v" * 300_000)
        assert len([r for r in found if isinstance(r, GoneRecord)]) + len(versions_of(found)) <= 5


async def test_an_empty_store_gives_an_empty_backup(open_api: Open) -> None:
    async with open_api() as api:
        decoder, found = decoded((await taken(api)).body)
        assert found == [] and decoder.header is not None and decoder.header.revision == 0


async def test_a_damaged_value_never_gets_into_a_backup(open_api: Open) -> None:
    async with open_api() as api:
        await filled(api)
        api.database.damage(b"c", 5)
        answer = await taken(api)
        assert answer.status == 200
        with pytest.raises(BadRequest, match="store_damaged") as caught:
            decoded(answer.body)
        assert caught.value.code == "backup_unfinished"


async def test_a_row_that_does_not_follow_ends_it(open_api: Open) -> None:
    async with open_api() as api:
        await filled(api)
        rows = api.database._rows
        rows[2] = msgspec.structs.replace(rows[2], digest=b"x" * 32)
        file = (await taken(api)).body
        with pytest.raises(BadRequest, match="ledger row 3"):
            decoded(file)


async def test_there_is_one_at_a_time_and_none_while_stopping(open_api: Open) -> None:
    async with open_api() as api:
        await filled(api)
        load = api.server.services.load
        async with load.backups:
            (await taken(api)).problem(503, "overloaded")
        load.draining = True
        (await taken(api)).problem(503, "draining")
        load.draining = False
        (await api.ask("GET", "/v1/backup?x=1")).problem(400, "unknown_parameter")


async def test_without_a_quorum_there_is_none_of_an_own_store() -> None:
    async with opened(kind="replicated") as api:
        api.consensus.no_leader = "no_quorum"
        (await taken(api)).problem(503, "no_quorum")
