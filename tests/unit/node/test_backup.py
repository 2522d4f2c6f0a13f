"""GET /v1/backup: whole, consistent at one revision, and refused where it is not."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from backends.memory.database import MemoryDatabase
from backends.memory.store import MemoryStore
from kv.access import ACCESS_PREFIX
from kv.backup import (
    INCREMENTAL,
    BackupDecoder,
    BackupRecord,
    BaseRecord,
    GoneRecord,
    OperationRecord,
    RowRecord,
    VersionRecord,
)
from kv.errors import BadRequest
from kv.model import Version
from kv.ports import Retention
from node.reads import export
from node.startup.restoring.state import StateAt
from tests.contract.groups import Step, commit, delete, put
from tests.unit.node.conftest import Api, Open, Reply, opened
from tests.unit.node.test_access import controlled


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
        assert (
            found == [BaseRecord(0)] and decoder.header is not None and decoder.header.revision == 0
        )


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


class Pruning(MemoryStore):
    """A store of which a little more is pruned before some reads, up to a revision."""

    def __init__(self, database: MemoryDatabase, rng: random.Random, upto: int) -> None:
        super().__init__(database)
        self.rng, self.upto, self.active = rng, upto, False

    async def _pruned(self) -> None:
        if self.active and self.rng.random() < 0.5:
            step = Retention(self.rng.randrange(self.upto), 0, rows_max=self.rng.randrange(1, 4))
            await self.prune(step, timeout_s=5)

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> Any:
        await self._pruned()
        return await super().ledger(from_seq, limit, timeout_s=timeout_s)

    async def versions(self, at: Sequence[tuple[bytes, int]], *, timeout_s: float) -> Any:
        await self._pruned()
        return await super().versions(at, timeout_s=timeout_s)

    async def list(self, prefix: bytes, **more: Any) -> Any:
        await self._pruned()
        return await super().list(prefix, **more)


@pytest.mark.parametrize("seed", range(30))
async def test_what_is_taken_while_pruning_goes_on_is_whole_from_its_floor_on(
    seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rng = random.Random(seed)
    for name, most in (("ROWS", 4), ("PLACES", 3), ("PAGE_KEYS", 2), ("OPERATIONS", 3)):
        monkeypatch.setattr(export, name, rng.randrange(1, most + 1))
    store = Pruning(MemoryDatabase(), rng, upto=25)
    states: list[dict[bytes, tuple[int, object]]] = [{}]
    for number in range(1, 31):
        key = b"k%d" % rng.randrange(6)
        state = dict(states[-1])
        step: Step = put(f"c{number}", key, b"v%d" % number)
        if key in state and rng.random() < 0.4:
            step = delete(f"c{number}", key)
            del state[key]
        else:
            state[key] = number, b"v%d" % number
        await commit(store, [step])
        states.append(state)
    async with opened(store) as api:
        store.active = True
        file = (await taken(api)).body
    decoder, found = decoded(file)
    assert decoder.trailer is not None and decoder.trailer.keys == len(states[30])
    assert sum(isinstance(record, OperationRecord) for record in found) == 30
    for at in range(decoder.trailer.floor, 31):
        with StateAt(tmp_path) as state_at:
            state_at.read(io.BytesIO(file), at)
            assert {v.key: (v.revision, v.value) for v in state_at.versions()} == states[at], at


REFUSED: dict[str | None, tuple[int, str]] = {
    None: (401, "not_signed_in"),
    "owner": (403, "not_allowed"),
}


async def test_an_admins_backup_has_what_is_hidden_from_everybody(open_api: Open) -> None:
    async with open_api() as api:
        door = await controlled(api)
        for who, (status, code) in REFUSED.items():
            (await door.ask(who, "GET", "/v1/backup")).problem(status, code)
        _, found = decoded((await door.ask("admin", "GET", "/v1/backup")).body)
        assert any(version.key.startswith(ACCESS_PREFIX) for version in versions_of(found))
        checked = await door.ask("admin", "GET", "/v1/verify")
        last = msgspec.json.decode(checked.body.splitlines()[-1])
        assert last["done"] and last["keys"] > 3 and not last["flaws"]


async def since(api: Api, revision: int, digest: bytes) -> Reply:
    return await api.ask("GET", f"/v1/backup?since={revision}&digest={digest.hex()}")


async def test_what_changed_after_an_earlier_one_and_nothing_else_is_in_an_incremental_one(
    open_api: Open,
) -> None:
    async with open_api() as api:
        await filled(api)
        first, _ = decoded((await taken(api)).body)
        assert first.header is not None
        await api.ask("PUT", "/v1/kv/d", data=b"4", headers={"Idempotency-Key": '"later"'})
        await api.ask("DELETE", "/v1/kv/b")
        decoder, found = decoded((await since(api, 5, first.header.digest)).body)
        header, trailer = decoder.header, decoder.trailer
        assert header is not None and trailer is not None
        assert (header.format, header.since, header.revision) == (INCREMENTAL, 5, 7)
        assert header.since_digest == first.header.digest != header.digest
        assert [(v.key, v.revision, v.present) for v in versions_of(found)] == [
            (b"d", 6, True),
            (b"b", 7, False),
        ]
        assert not [each for each in found if isinstance(each, BaseRecord)]
        assert (trailer.keys, trailer.rows, trailer.floor) == (2, 2, 5)
        recorded = [each.operation for each in found if isinstance(each, OperationRecord)]
        assert "later" in [each.op_id for each in recorded]
        assert min(each.revision for each in recorded) > 5
        nothing, none = decoded((await since(api, 7, header.digest)).body)
        assert not none and nothing.header is not None and nothing.header.revision == 7


async def test_an_incremental_one_of_another_order_or_of_what_was_pruned_is_refused(
    open_api: Open,
) -> None:
    async with open_api() as api:
        await filled(api)
        first, _ = decoded((await taken(api)).body)
        assert first.header is not None
        other = await since(api, 5, bytes(32))
        other.problem(400, "backup_of_another_history")
        (await since(api, 9, first.header.digest)).problem(400, "backup_of_another_history")
        for wrong in ("since=5", "digest=" + "00" * 32, "since=x&digest=" + "00" * 32,
                      "since=5&digest=00", "since=0&digest=" + "00" * 32):  # fmt: skip
            refused = await api.ask("GET", f"/v1/backup?{wrong}")
            refused.problem(400, "bad_parameter")
        for n in range(5):
            await api.ask("PUT", "/v1/kv/a", data=b"%d" % n)
        store = api.server.services.shared or api.server.services.own
        for _ in range(20):
            await store.prune(Retention(9, 0, rows_max=2), timeout_s=5)  # type: ignore[union-attr,arg-type]
        (await since(api, 5, first.header.digest)).problem(410, "pruned")


async def test_what_is_written_while_it_begins_is_later_than_the_time_it_tells(
    open_api: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a restore as of that time would lack a write that was acknowledged before it."""
    async with open_api() as api:
        await filled(api)
        store = api.server.services.store
        read = store.row_ending
        written: list[int] = []

        async def row_ending(last: int, *, timeout_s: float) -> Any:
            row = await read(last, timeout_s=timeout_s)
            if not written and row is not None:
                written.append(row.log_time_ms)
                await asyncio.sleep(0.005)
                await api.ask("PUT", "/v1/kv/late", data=b"x")
            return row

        monkeypatch.setattr(store, "row_ending", row_ending)
        decoder, _ = decoded((await taken(api)).body)
        header, late = decoder.header, await read(6, timeout_s=5)
        assert header is not None and late is not None and header.revision == 5
        assert written[0] <= header.log_time_ms < late.log_time_ms
