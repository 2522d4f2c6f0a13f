"""Flip bits in a member's file, and see who finds them: the read, the rows, the indexes, or the
comparison with the other members.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from backends.replicated import restoring
from backends.replicated.store import SqliteMemberStore
from kv.errors import StoreDamaged
from kv.model import LedgerRow, Version
from kv.ports import Note
from node.reads.inspection import Inspected, Inspection
from tests.contract.groups import put
from tests.contract.history import History, settle

T = 10.0


async def inspected(path: Path, revision: int) -> Inspected:
    async with SqliteMemberStore(str(path)) as store:
        inspection = Inspection("n1", store, store, revision, T)
        steps = [step async for step in inspection.steps()]
        assert steps[-1].done and not steps[0].done
        return steps[-1]


def flip(path: Path, statement: str, *values: object) -> None:
    database = sqlite3.connect(path)
    with database:
        assert database.execute(statement, values).rowcount > 0
    database.close()


@pytest.fixture
async def settled(tmp_path: Path) -> Path:
    """A file whose versions are all named by rows that are kept."""
    path, history = tmp_path / "store.sqlite", History()
    steps = [
        history.submit(put(f"c{n}", b"k%d" % n, b"worth", expires_ms=9000 + n)) for n in range(5)
    ]
    async with SqliteMemberStore(str(path)) as store:
        settle(store, *steps)
        await store.make_durable(steps[-1].note.index)
    return path


@pytest.fixture
def restored(tmp_path: Path) -> Path:
    """A file whose versions no row names any more."""
    path = tmp_path / "store.sqlite"
    versions = [Version(b"k%d" % n, n, b"worth", 9000 + n, n, 1) for n in range(1, 6)]
    row = LedgerRow(1, 2, "", 6, 100, b"d" * 32, 1000, (), 2, b"c" * 32)
    assert restoring.restore(str(path), Note(b"h", 2, 2, b"d" * 32), row, versions, []) == 5
    return path


METADATA = {
    "expires": "UPDATE versions SET expires = expires ^ 16 WHERE key = x'6b33'",
    "lease": "UPDATE versions SET lease = 4 WHERE key = x'6b33'",
    "version": "UPDATE versions SET version = version + 64 WHERE key = x'6b33'",
    "create_revision": "UPDATE versions SET create_revision = 2 WHERE key = x'6b33'",
    "kind": "UPDATE versions SET kind = 0 WHERE key = x'6b33'",
    "key": "UPDATE versions SET key = x'6b73' WHERE key = x'6b33'",
}


def without_xor(statement: str) -> str:
    return statement.replace("expires ^ 16", "expires + 16")


async def test_a_sound_file_has_no_flaw(settled: Path) -> None:
    found = await inspected(settled, 5)
    assert (found.flaws, found.versions, found.rows, found.keys) == ((), 5, 5, 5)


@pytest.mark.parametrize("what", METADATA)
async def test_what_a_row_named_is_recomputed_with_the_row(settled: Path, what: str) -> None:
    flip(settled, without_xor(METADATA[what]))
    found = await inspected(settled, 5)
    assert found.flaws_total and "ledger, or what it made" in str(found.flaws), found


@pytest.mark.parametrize("what", METADATA)
async def test_what_no_row_names_differs_from_the_other_members(restored: Path, what: str) -> None:
    before = await inspected(restored, 100)
    flip(restored, without_xor(METADATA[what]))
    after = await inspected(restored, 100)
    assert before.digest and before.digest != after.digest


def flip_bit(path: Path, of: bytes, number: int = 0) -> bool:
    """Flip a bit of the given occurrence of some bytes; False: there are not so many."""
    content = bytearray(path.read_bytes())
    place = -1
    for _ in range(number + 1):
        place = content.find(of, place + 1)
        if place < 0:
            return False
    content[place] ^= 1
    path.write_bytes(content)
    return True


async def check_value_is_refused(path: Path, revision: int) -> None:
    assert flip_bit(path, b"worth")
    async with SqliteMemberStore(str(path)) as store:
        damaged = 0
        for key in [b"k%d" % n for n in range(6)]:
            try:
                (version,) = (await store.read([key], timeout_s=T)).versions
                assert version is None or version.value == b"worth"
            except StoreDamaged:
                damaged += 1
        assert damaged == 1
        with pytest.raises(StoreDamaged):
            await store.list(b"k", limit=9, timeout_s=T)
    assert "is damaged" in str((await inspected(path, revision)).flaws)


async def test_a_bit_of_a_value_is_found_before_a_reader_is_told_it(restored: Path) -> None:
    await check_value_is_refused(restored, 100)


async def test_so_is_one_of_a_value_that_a_row_names(settled: Path) -> None:
    await check_value_is_refused(settled, 5)


async def test_a_bit_of_a_key_in_the_table_or_in_its_index_is_found(restored: Path) -> None:
    sound, number = restored.read_bytes(), 0
    while flip_bit(restored, b"k3", number):
        found = await inspected(restored, 100)
        assert "in the file" in str(found.flaws), (number, found)
        restored.write_bytes(sound)
        number += 1
    assert number >= 3  # in the table, in its index, and among those that expire
