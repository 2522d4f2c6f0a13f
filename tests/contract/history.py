"""Make Steps the way a member does that applies a log, without evaluating anything."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from backends.memory.member_file import MemoryFile
from backends.memory.member_store import MemoryMemberStore
from kv.content import content_digest, hash_of
from kv.model import GENESIS, GENESIS_DIGEST, Group, Head, Version
from kv.ports import MemberStore, Note, Step
from tests.contract import groups
from tests.contract.groups import delete, put

HISTORY = b"h" * 16


class History:
    """What a log has made so far; each method makes the next command's Step."""

    def __init__(self, *, leases: int = 3) -> None:
        """`leases`: versions that name no lease have in turn none, lease 1, … ; 1: none has one."""
        self._leases = leases
        self.head: Head = GENESIS
        self.note = Note(HISTORY)
        self.content = GENESIS_DIGEST
        self.steps: list[Step] = []
        self._numbers: dict[bytes, tuple[int, int]] = {}
        """The create_revision and the version of present keys."""

    def submit(
        self, *intents: groups.Step, log_time_ms: int = 1000, skip: int = 0, term: int | None = None
    ) -> Step:
        """Return the Step of a command whose row holds these intents, `skip` indexes further."""
        index, term = self.note.index + 1 + skip, self.note.term or 1 if term is None else term
        made = groups.group(self.head, intents, term=term, committer="", log_time_ms=log_time_ms)
        row = msgspec.structs.replace(made.row, index=index)
        versions = tuple(map(self._numbered, made.versions))
        hashes = tuple(hash_of(version) for version in versions)
        self.content = content_digest(self.content, row, versions, hashes)
        row = msgspec.structs.replace(row, content=self.content)
        self.head = row.head
        group = Group(made.base, row, versions, made.operations)
        return self._next(Step(Note(HISTORY, index, term, row.digest), group, hashes))

    def _numbered(self, version: Version) -> Version:
        if not version.present:
            self._numbers.pop(version.key, None)
            return version
        created, count = self._numbers.get(version.key, (version.revision, 0))
        self._numbers[version.key] = created, count + 1
        return msgspec.structs.replace(
            version,
            create_revision=created,
            version=count + 1,
            lease=version.lease or version.revision % self._leases,
        )

    def quiet(self, *, term: int | None = None, floor: int = 0, skip: int = 0) -> Step:
        """Return the Step of a command that gives no revision."""
        index, term = self.note.index + 1 + skip, self.note.term or 1 if term is None else term
        return self._next(Step(Note(HISTORY, index, term, self.head.digest), floor=floor))

    def _next(self, step: Step) -> Step:
        self.note = step.note
        self.steps.append(step)
        return step


def settle(store: MemberStore, *steps: Step) -> None:
    for step in steps:
        store.settle(step)


async def _present(store: MemberStore) -> tuple[Version, ...]:
    """List all keys, page by page."""
    found: list[Version] = []
    more = True
    while more:
        after = found[-1].key if found else b""
        page = await store.list(b"", after=after, limit=10_000, timeout_s=groups.T)
        found += page.versions
        more = page.more
    return tuple(found)


async def everything(store: MemberStore) -> tuple[object, ...]:
    """Return all that a member's store shows, so that two of them, or two moments, can be
    compared.
    """
    ledger = await store.ledger(0, 10_000, timeout_s=groups.T)
    op_ids = sorted({recorded.op_id for row in ledger for recorded in row.body})
    places = [
        (key, row.first + n)
        for row in ledger
        for n, recorded in enumerate(row.body)
        for key in recorded.keys
    ]
    return (
        store.note,
        ledger,
        await _present(store),
        await store.versions(places, timeout_s=groups.T),
        await store.operations(op_ids, timeout_s=groups.T),
        await store.due(10**15, 10_000, timeout_s=groups.T),
        await store.floor(timeout_s=groups.T),
    )


def story() -> History:
    """Every kind of Step, with gaps between them."""
    history = History()
    history.submit(put("c1", b"a", b"1"), put("~2", b"b", b"x" * 70_000, expires_ms=9000))
    history.quiet()
    history.submit(put("c3", b"a", b"3"), delete("c4", b"b"), skip=3, log_time_ms=2000)
    history.quiet(term=4)
    history.quiet(floor=3)
    history.submit(put("~5", b"c", b"", expires_ms=7000), skip=2, log_time_ms=3000)
    history.quiet()
    return history


async def made_by(steps: Sequence[Step]) -> tuple[object, ...]:
    """Return what a store shows that all these were settled in."""
    async with MemoryMemberStore(MemoryFile()) as store:
        settle(store, *steps)
        return await everything(store)


async def damaged_rows(store: MemberStore) -> tuple[int, ...]:
    """Return the damaged rows of a whole store."""
    found: tuple[int, ...] = ()
    reached, rounds = 0, 0
    while rounds == 0 or reached:
        reached, damaged = await store.damaged_rows(reached, timeout_s=groups.T)
        found += damaged
        rounds += 1
        assert rounds < 100
    return found
