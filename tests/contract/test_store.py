"""Hold every Store to what its port says of ledger, fence, op_ids, reads and listings."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

import msgspec
import pytest

from kv.errors import BackendUnavailable, BadRequest, InvariantViolated, OutcomeUnknown, Pruned
from kv.model import (
    GENESIS,
    GENESIS_DIGEST,
    Again,
    Applied,
    Delete,
    Expired,
    Head,
    LedgerRow,
    Put,
    Recorded,
    RecordedOperation,
    Refused,
    Version,
    value_hash,
)
from kv.ports import Appended, Fenced, Identity, Outranked, Retention, Store, TakenOver
from tests.contract.adapters import OpenStore
from tests.contract.groups import (
    COMMITTER,
    TERM,
    Step,
    T,
    cancel,
    commit,
    delete,
    everything,
    first,
    group,
    numbered,
    put,
    put_again,
)

AWKWARD = (
    b"\x00",
    b"\xff" * 1024,
    b"a:b:c",
    b"%_'\"\\",
    "ключ".encode(),
    b"\xfe\xff",
    b"k\x00\x01",
)
"""Keys and values that a careless encoding, comparison or pattern would spoil."""


# ------------------------------------------------------------------------------------------- ledger


async def test_a_probe_leaves_no_trace(store: Store, rival: Store) -> None:
    made = await commit(store, [put("1", b"k", b"1")])
    before = await everything(store)
    await asyncio.gather(
        *(session.probe(timeout_s=T) for session in (store, rival) for _ in range(5))
    )
    assert await everything(store) == before
    assert await store.head(timeout_s=T) == made.row.head


async def test_an_empty_store_is_at_genesis(store: Store) -> None:
    assert await store.head(timeout_s=T) == GENESIS
    assert await store.rows(0, 10, timeout_s=T) == ()
    assert await store.ledger(0, 10, timeout_s=T) == ()
    assert await store.row_ending(0, timeout_s=T) is None
    assert await store.floor(timeout_s=T) == 0
    read = await store.read([b"a"], timeout_s=T)
    assert (read.head, read.versions, read.digest_at) == (GENESIS, (None,), None)
    listing = await store.list(b"", limit=10, timeout_s=T)
    assert (listing.head, listing.versions, listing.more, listing.digest_at) == (
        GENESIS,
        (),
        False,
        None,
    )


async def test_append_lands_whole_and_every_session_sees_it(store: Store, rival: Store) -> None:
    made = group(
        GENESIS,
        [put("a", b"k", b"1"), Step("b", (Put(b"k", b"2"), Delete(b"m"))), delete("c", b"n")],
    )
    appended = await store.append(made, timeout_s=T)
    assert isinstance(appended, Appended)
    for session in (store, rival):
        assert await session.head(timeout_s=T) == made.row.head
        assert await session.ledger(0, 10, timeout_s=T) == (made.row,)
        assert await session.rows(0, 10, timeout_s=T) == (made.row,)
        assert await session.row_ending(3, timeout_s=T) == made.row
        found = await session.versions([(v.key, v.revision) for v in made.versions], timeout_s=T)
        assert found == numbered(made, appended)
        assert await session.operations(["a", "b", "c"], timeout_s=T) == made.operations


async def test_a_group_that_changes_no_key_still_lands(store: Store) -> None:
    refused = Step("r", (Put(b"k", b"1"),), Refused(0, 0, (0,)))
    made = await commit(store, [refused, cancel("x")])
    assert await store.rows(0, 10, timeout_s=T) == (made.row,)
    assert (await store.read([b"k"], timeout_s=T)).versions == (None,)
    assert [o.outcome for o in await store.operations(["r", "x"], timeout_s=T) if o] == [
        Refused(0, 0, (0,)),
        Expired(),
    ]


async def test_the_same_group_again_is_fenced(store: Store) -> None:
    made = await commit(store, [put("a", b"k", b"1")])
    before = await everything(store)
    assert await store.append(made, timeout_s=T) == Fenced(made.row.head)
    assert await everything(store) == before


ELSEWHERE: dict[str, Callable[[Head], Head]] = {
    "an earlier place": lambda head: msgspec.structs.replace(head, seq=head.seq - 1),
    "a later place": lambda head: msgspec.structs.replace(head, seq=head.seq + 1),
    "an earlier revision": lambda head: msgspec.structs.replace(head, last=head.last - 1),
    "a later revision": lambda head: msgspec.structs.replace(head, last=head.last + 1),
    "another digest": lambda head: msgspec.structs.replace(head, digest=b"\x07" * 32),
    "another term": lambda head: msgspec.structs.replace(head, term=head.term - 1),
    "another committer": lambda head: msgspec.structs.replace(head, committer="n9"),
    "genesis": lambda _: GENESIS,
}


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
async def test_a_group_built_on_anything_but_the_newest_row_is_fenced(
    store: Store, elsewhere: str
) -> None:
    await commit(store, [put("a", b"k", b"1")])
    head = (await commit(store, [put("b", b"k", b"2")])).row.head
    before = await everything(store)
    # A higher term, so that only the place counts here and never the rank.
    late = group(
        ELSEWHERE[elsewhere](head),
        [put("late", b"k", b"3"), put("late2", b"z", b"3")],
        term=TERM + 5,
    )
    assert await store.append(late, timeout_s=T) == Fenced(head)
    assert await everything(store) == before
    assert await store.operations(["late", "late2"], timeout_s=T) == (None, None)


@pytest.mark.parametrize(
    ("term", "committer", "lands"),
    [
        (TERM, COMMITTER, True),
        (TERM + 1, COMMITTER, True),
        (TERM + 1, "n2", True),
        (TERM, "n2", False),
        (TERM - 1, COMMITTER, False),
        (TERM - 1, "n2", False),
    ],
)
async def test_rank_decides_who_may_append_and_take_over(
    store: Store, term: int, committer: str, lands: bool
) -> None:
    head = (await commit(store, [put("a", b"k", b"1")])).row.head
    before = await everything(store)
    made = group(head, [put("b", b"k", b"2")], term=term, committer=committer)
    if lands:
        assert isinstance(await store.append(made, timeout_s=T), Appended)
        taken = await store.take_over(term, committer, 2000, timeout_s=T)
        assert taken == TakenOver(
            made.row.head, Head(head.seq + 2, term, committer, 2, made.row.digest)
        )
    else:
        assert await store.append(made, timeout_s=T) == Fenced(head)
        assert await store.take_over(term, committer, 2000, timeout_s=T) == Outranked(head)
        assert await everything(store) == before


async def test_an_op_id_is_recorded_once_whatever_the_committer_believes(store: Store) -> None:
    """INV-3."""
    head = (await commit(store, [put("a", b"k", b"1")])).row.head
    before = await everything(store)
    twice = group(head, [put("new", b"m", b"1"), put("a", b"k", b"2")])
    with pytest.raises(InvariantViolated):
        await store.append(twice, timeout_s=T)
    assert await everything(store) == before
    assert await store.operations(["new"], timeout_s=T) == (None,)
    assert isinstance(
        await store.append(group(head, [put("b", b"k", b"2")]), timeout_s=T), Appended
    )


async def test_taking_over_appends_an_empty_row_that_fences_what_was_in_flight(
    store: Store, rival: Store
) -> None:
    head = (await commit(store, [put("a", b"k", b"1")])).row.head
    in_flight = group(head, [put("b", b"k", b"2")])
    taken = await rival.take_over(TERM + 1, "n2", 4321, timeout_s=T)
    own = Head(head.seq + 1, TERM + 1, "n2", head.last, head.digest)
    assert taken == TakenOver(head, own)
    assert await store.append(in_flight, timeout_s=T) == Fenced(own)
    empty = LedgerRow(own.seq, own.term, "n2", head.last + 1, head.last, head.digest, 4321)
    assert (await store.ledger(own.seq, 10, timeout_s=T)) == (empty,)
    assert await store.row_ending(head.last, timeout_s=T) == empty, (
        "the newest of the rows that end there"
    )
    assert [row.seq for row in await store.rows(0, 10, timeout_s=T)] == [1], (
        "rows without intents are left out"
    )


async def test_taking_over_an_empty_ledger_and_again_in_the_own_term(store: Store) -> None:
    taken = await store.take_over(1, "n1", 5, timeout_s=T)
    assert taken == TakenOver(GENESIS, Head(1, 1, "n1", 0, GENESIS_DIGEST))
    again = await store.take_over(1, "n1", 6, timeout_s=T)
    assert isinstance(taken, TakenOver)
    assert isinstance(again, TakenOver)
    assert (again.before, again.own.seq, again.own.last) == (taken.own, 2, 0)
    assert await store.append(
        group(GENESIS, [put("a", b"k", b"1")], term=1), timeout_s=T
    ) == Fenced(again.own)
    assert isinstance(
        await store.append(group(again.own, [put("a", b"k", b"1")], term=1), timeout_s=T), Appended
    )


async def test_adopting_a_head_skips_the_revisions_that_were_lost(store: Store) -> None:
    head = (await commit(store, [put("a", b"k", b"1")])).row.head
    adopted = await store.take_over(TERM + 1, "n2", 9, adopt_last=40, timeout_s=T)
    assert adopted == TakenOver(head, Head(2, TERM + 1, "n2", 40, head.digest))
    assert isinstance(adopted, TakenOver)
    row = (await store.ledger(2, 1, timeout_s=T))[0]
    assert (row.first, row.last, row.digest, row.body) == (2, 40, head.digest, ())
    made = group(adopted.own, [put("b", b"k", b"2")], term=TERM + 1, committer="n2")
    assert isinstance(await store.append(made, timeout_s=T), Appended)
    assert (await store.read([b"k"], at=40, timeout_s=T)).versions == (first(b"k", 1, b"1"),)
    assert (await store.read([b"k"], settled=40, timeout_s=T)).digest_at == head.digest
    assert [(r.first, r.last) for r in await store.rows(0, 10, timeout_s=T)] == [(1, 1), (41, 41)]
    assert [(r.first, r.last) for r in await store.rows(40, 10, timeout_s=T)] == [(41, 41)]


async def test_adopting_raises_the_floor_and_makes_the_store_ours_with_the_row(
    store: Store,
) -> None:
    ours, former = Identity("c1", b"h" * 16), Identity("c1", b"f" * 16)
    await commit(store, [put("a", b"k", b"1"), put("b", b"k", b"2")])
    assert await store.claim(former, timeout_s=T) == former
    assert isinstance(
        await store.take_over(1, "n0", 9, adopt_last=40, identity=ours, timeout_s=T), Outranked
    )
    assert (await store.floor(timeout_s=T), await store.claim(ours, timeout_s=T)) == (0, former)
    taken = await store.take_over(TERM + 1, "n2", 9, timeout_s=T)  # taking over is no adoption
    assert isinstance(taken, TakenOver)
    assert (await store.floor(timeout_s=T), await store.claim(ours, timeout_s=T)) == (0, former)
    adopted = await store.take_over(TERM + 2, "n2", 9, adopt_last=40, identity=ours, timeout_s=T)
    assert isinstance(adopted, TakenOver)
    assert (await store.floor(timeout_s=T), await store.claim(former, timeout_s=T)) == (40, ours)
    for refused in (
        store.read([b"k"], at=39, timeout_s=T),
        store.list(b"", limit=1, at=2, timeout_s=T),
    ):
        with pytest.raises(Pruned) as told:
            await refused
        assert told.value.floor == 40
    pruned = await store.prune(Retention(2, 0), timeout_s=T)
    assert (pruned.floor, await store.floor(timeout_s=T)) == (40, 40), (
        "pruning what is older never lowers it"
    )
    assert (await store.read([b"k"], at=40, timeout_s=T)).versions == (put_again(b"k", 2, b"2"),)
    made = group(adopted.own, [put("c", b"k", b"3")], term=TERM + 2, committer="n2")
    assert isinstance(await store.append(made, timeout_s=T), Appended)
    assert (await store.prune(Retention(41, 0), timeout_s=T)).versions >= 1, (
        "what lay below is pruned all the same"
    )
    assert await store.versions([(b"k", 1), (b"k", 2)], timeout_s=T) == (None, None)


async def test_a_store_is_its_first_claimants(open_store: OpenStore) -> None:
    ours, other = Identity("c1", b"h" * 16), Identity("c2", b"o" * 16)
    async with open_store() as store, open_store() as rival:
        assert await store.claim(Identity("c1"), timeout_s=T) == Identity("c1")
        assert await rival.claim(Identity("c2"), timeout_s=T) == Identity("c1")
        assert await rival.claim(other, timeout_s=T) == Identity("c1")
        assert await store.claim(ours, timeout_s=T) == ours, (
            "its history is entered once it is known"
        )
        assert await store.claim(Identity("c1"), timeout_s=T) == ours
        assert await store.claim(Identity("c1", b"f" * 16), timeout_s=T) == ours
        assert await rival.claim(other, timeout_s=T) == ours
    async with open_store() as again:
        assert await again.claim(other, timeout_s=T) == ours


async def test_of_many_claimants_one_has_it(open_store: OpenStore) -> None:
    claims = [Identity(f"c{n}", bytes([n]) * 16) for n in range(6)]
    async with AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(open_store()) for _ in claims]
        held = await asyncio.gather(
            *(
                session.claim(claim, timeout_s=T)
                for session, claim in zip(sessions, claims, strict=True)
            )
        )
    assert len(set(held)) == 1
    assert held[0] in claims


async def test_a_head_is_never_adopted_backwards(store: Store) -> None:
    await commit(store, [put("a", b"k", b"1"), put("b", b"k", b"2")])
    before = await everything(store)
    with pytest.raises(BadRequest):
        await store.take_over(TERM, COMMITTER, 9, adopt_last=1, timeout_s=T)
    assert await everything(store) == before


async def test_rows_come_whole_in_pages_without_empty_ones(store: Store) -> None:
    for n in range(3):
        await store.take_over(TERM, COMMITTER, 1, timeout_s=T)
        await commit(store, [put(f"{n}-{m}", b"k", b"v") for m in range(4)])
    await store.take_over(TERM, COMMITTER, 1, timeout_s=T)

    async def spans(after: int, limit: int = 10) -> list[tuple[int, int]]:
        return [(row.first, row.last) for row in await store.rows(after, limit, timeout_s=T)]

    assert await spans(0) == [(1, 4), (5, 8), (9, 12)]
    assert await spans(0, 2) == [(1, 4), (5, 8)]
    assert await spans(8, 2) == [(9, 12)]
    assert await spans(6) == [(5, 8), (9, 12)], "a row that holds a later revision comes whole"
    assert await spans(12) == []
    assert await spans(99) == []
    assert [row.seq for row in await store.ledger(2, 3, timeout_s=T)] == [2, 3, 4]


async def test_ledger_bodies_come_back_as_they_were_written(store: Store) -> None:
    steps = [
        Step("then", (Put(b"k", b"1"),), Applied("otherwise", (7, 0))),
        Step("no", (), Refused(2, 5, (1,))),
        cancel("gone"),
        Step("~n1-7", (Put(AWKWARD[3], b""),)),
    ]
    made = group(GENESIS, steps)
    known = Recorded("then", made.row.body[0].body_hash, Again(1, Applied("otherwise", (7, 0))))
    row = msgspec.structs.replace(made.row, last=5, body=(*made.row.body, known))
    assert isinstance(
        await store.append(msgspec.structs.replace(made, row=row), timeout_s=T), Appended
    )
    assert await store.rows(0, 1, timeout_s=T) == (row,)
    assert await store.operations(["~n1-7"], timeout_s=T) == (None,), (
        "a node's op_id is spared the table"
    )


async def test_rivals_on_one_ledger_land_one_row_per_place(store: Store, rival: Store) -> None:
    """Two committers that both believe to lead: the ledger stays one chain, and each answer tells
    the truth.
    """

    async def contend(session: Store, name: str) -> list[str]:
        landed = []
        for n in range(25):
            op_id = f"{name}-{n}"
            made = group(
                await session.head(timeout_s=T),
                [put(op_id, b"k", op_id.encode())],
                term=n,
                committer=name,
            )
            if isinstance(await session.append(made, timeout_s=T), Appended):
                landed.append(op_id)
            await session.take_over(n + 1, name, 1, timeout_s=T)
        return landed

    landed = await asyncio.gather(contend(store, "n1"), contend(rival, "n2"))
    ledger = await store.ledger(0, 1000, timeout_s=T)
    assert [row.seq for row in ledger] == list(range(1, len(ledger) + 1))
    for before, row in zip((None, *ledger), ledger, strict=False):
        assert row.first == (before.last if before else 0) + 1
        assert (
            before is None
            or (before.term, before.committer) == (row.term, row.committer)
            or before.term < row.term
        )
    recorded = [each.op_id for row in ledger for each in row.body]
    assert sorted(recorded) == sorted(landed[0] + landed[1])
    assert recorded, "nothing landed: the race tested nothing"


async def test_exactly_one_of_many_concurrent_groups_lands(store: Store, rival: Store) -> None:
    head = (await commit(store, [put("a", b"k", b"0")])).row.head
    groups = [group(head, [put(f"op-{n}", b"k", b"%d" % n)]) for n in range(20)]
    sessions = [store, rival] * 10
    results = await asyncio.gather(
        *(s.append(g, timeout_s=T) for s, g in zip(sessions, groups, strict=True))
    )
    winner = [n for n, result in enumerate(results) if isinstance(result, Appended)]
    assert len(winner) == 1
    assert await store.head(timeout_s=T) == groups[winner[0]].row.head
    assert all(
        isinstance(result, Appended) or result == Fenced(groups[winner[0]].row.head)
        for result in results
    )


async def test_a_definite_failure_never_lands_afterwards(store: Store) -> None:
    """INV-4: what BackendUnavailable says did not happen does not happen later; Appended and Fenced
    are kept too.
    """
    head = (await commit(store, [put("a", b"k", b"0")])).row.head
    said: dict[str, object] = {}
    for n in range(60):
        made = group(head, [put(f"op-{n}-{m}", b"k%d" % m, b"x" * 500) for m in range(20)])
        try:
            said[f"op-{n}-0"] = await store.append(made, timeout_s=0.0002 * (n % 20))
        except BackendUnavailable:
            said[f"op-{n}-0"] = "not applied"
        except OutcomeUnknown:
            said[f"op-{n}-0"] = "unknown"
        taken = await store.take_over(TERM, COMMITTER, 1, timeout_s=T)  # resolves what is unknown
        assert isinstance(taken, TakenOver)
        head = taken.own
    found = await store.operations(list(said), timeout_s=T)
    for operation, (op_id, result) in zip(found, said.items(), strict=True):
        if result == "not applied" or isinstance(result, Fenced):
            assert operation is None, op_id
        elif isinstance(result, Appended):
            assert operation is not None, op_id


async def test_cancelled_calls_leave_the_store_usable(store: Store) -> None:
    for n in range(20):
        head = await store.head(timeout_s=T)
        task = asyncio.ensure_future(
            store.append(group(head, [put(f"c-{n}", b"k", b"v")]), timeout_s=T)
        )
        for _ in range(n % 4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert isinstance(await store.take_over(TERM, COMMITTER, 1, timeout_s=T), TakenOver)
    ledger = await store.ledger(0, 1000, timeout_s=T)
    assert [row.seq for row in ledger] == list(range(1, len(ledger) + 1))


async def test_reopening_keeps_everything(open_store: OpenStore) -> None:
    async with open_store() as store:
        large = await store.stage("big", b"x" * 100_000, timeout_s=T)
        await commit(
            store, [put("a", b"k", b"1"), put("b", b"m", large, expires_ms=77), delete("c", b"k")]
        )
        await store.move_cursor("publisher", 2, timeout_s=T)
        before = await everything(store)
    async with open_store() as store:
        assert await everything(store) == before
        assert await store.blob(large, timeout_s=T) == b"x" * 100_000
        assert await store.cursor("publisher", timeout_s=T) == 2
        assert await store.due(77, 10, timeout_s=T) == ((b"m", 2),)
        assert (await store.read([b"k"], at=1, timeout_s=T)).versions == (first(b"k", 1, b"1"),)


# -------------------------------------------------------------------------------------------- reads


async def test_a_read_sees_the_newest_version_at_or_below_the_revision(store: Store) -> None:
    made = await commit(
        store, [put("a", b"k", b"1"), put("b", b"m", b"1"), delete("c", b"k"), put("d", b"k", b"2")]
    )
    expected = {
        0: (None, None),
        1: (first(b"k", 1, b"1"), None),
        2: (first(b"k", 1, b"1"), first(b"m", 2, b"1")),
        3: (Version(b"k", 3, None), first(b"m", 2, b"1")),
        4: (first(b"k", 4, b"2"), first(b"m", 2, b"1")),
        9: (first(b"k", 4, b"2"), first(b"m", 2, b"1")),
        None: (first(b"k", 4, b"2"), first(b"m", 2, b"1")),
    }
    for at, versions in expected.items():
        read = await store.read([b"k", b"m"], at=at, timeout_s=T)
        assert read.versions == versions, at
        assert read.head == made.row.head


async def test_a_read_tells_the_digest_at_the_settled_revision(store: Store) -> None:
    first = await commit(store, [put("a", b"k", b"1"), put("b", b"k", b"2")])
    second = await commit(store, [put("c", b"k", b"3")])
    await store.take_over(TERM, COMMITTER, 1, timeout_s=T)
    for settled, digest in ((2, first.row.digest), (3, second.row.digest), (1, None), (4, None)):
        assert (await store.read([b"k"], settled=settled, timeout_s=T)).digest_at == digest
        assert (await store.list(b"", limit=1, settled=settled, timeout_s=T)).digest_at == digest


async def test_any_bytes_are_keys_and_values(store: Store) -> None:
    values = [*AWKWARD, b"", b"x" * 65_536]
    steps = [
        put(f"{n}", key, value) for n, (key, value) in enumerate(zip(AWKWARD, values, strict=False))
    ]
    steps += [put("empty", b"empty", b""), put("full", b"full", values[-1])]
    made = await commit(store, steps)
    keys = [version.key for version in made.versions]
    assert (await store.read(keys, timeout_s=T)).versions == made.versions
    assert (await store.list(b"", limit=100, timeout_s=T)).versions == tuple(
        sorted(made.versions, key=lambda v: v.key)
    )


async def test_many_keys_in_one_read_come_in_the_order_asked(store: Store) -> None:
    await commit(
        store,
        [
            Step(f"op{n}", tuple(Put(b"k%03d" % (n * 100 + m), b"v") for m in range(100)))
            for n in range(4)
        ],
    )
    asked = [b"k%03d" % (n * 7 % 450) for n in range(500)]  # some twice, some that do not exist
    read = await store.read(asked, timeout_s=T)
    assert [None if version is None else version.key for version in read.versions] == [
        key if key < b"k400" else None for key in asked
    ]
    assert (await store.read([], timeout_s=T)).versions == ()


async def test_expiry_and_reference_come_back(store: Store) -> None:
    reference = await store.stage("big", b"y" * 70_000, timeout_s=T)
    made = await commit(
        store, [put("big", b"k", reference, expires_ms=123_456), put("s", b"m", b"1", expires_ms=0)]
    )
    assert (await store.read([b"k", b"m"], timeout_s=T)).versions == made.versions
    assert (await store.list(b"", limit=9, timeout_s=T)).versions == made.versions
    assert await store.versions([(b"k", 1), (b"m", 2)], timeout_s=T) == made.versions


async def test_exact_versions(store: Store) -> None:
    made = await commit(store, [put("a", b"k", b"1"), delete("b", b"k"), put("c", b"k", b"3")])
    asked = [(b"k", 3), (b"k", 1), (b"k", 2), (b"k", 4), (b"m", 1)]
    first, second, third = made.versions
    assert await store.versions(asked, timeout_s=T) == (third, first, second, None, None)
    assert await store.versions([], timeout_s=T) == ()


async def test_a_read_is_one_snapshot_while_writes_go_on(store: Store, rival: Store) -> None:
    await commit(store, [Step("start", (Put(b"a", b"0"), Put(b"z", b"0")))])
    done = asyncio.Event()

    async def write() -> None:
        for n in range(1, 40):
            await commit(store, [Step(f"op{n}", (Put(b"a", b"%d" % n), Put(b"z", b"%d" % n)))])
        done.set()

    async def look() -> int:
        heads = set()
        while not done.is_set():
            read = await rival.read([b"a", b"z"], timeout_s=T)
            listing = await rival.list(b"", limit=10, timeout_s=T)
            for versions, head in ((read.versions, read.head), (listing.versions, listing.head)):
                assert versions[0] is not None
                assert versions[1] is not None
                assert versions[0].revision == versions[1].revision == head.last
                assert versions[0].value == versions[1].value
            heads.add(read.head.last)
        return len(heads)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        looked = tasks.create_task(look())
    assert looked.result() > 1, "the reader never overlapped the writer"


async def test_facts_are_what_a_group_is_evaluated_on(store: Store) -> None:
    reference = await store.stage("big", b"z" * 70_000, timeout_s=T)
    made = await commit(
        store,
        [
            put("big", b"ref", reference),
            put("b", b"val", b"v1"),
            put("c", b"gone", b"1"),
            delete("d", b"gone"),
        ],
    )
    facts = await store.facts(
        ["b", "nobody", "~n1-1"],
        [b"val", b"gone", b"ref", b"never", b"plain"],
        [b"val", b"gone", b"ref", b"never"],
        [("big", reference.hash), ("big", b"\0" * 32), ("other", reference.hash)],
        timeout_s=T,
    )
    assert facts.head == made.row.head
    assert dict(facts.operations) == {"b": made.operations[1]}
    assert {key: (v.revision, v.present) for key, v in facts.versions.items()} == {
        b"val": (2, True),
        b"gone": (4, False),
        b"ref": (1, True),
    }
    assert dict(facts.hashes) == {b"val": value_hash(b"v1"), b"ref": reference.hash}
    assert facts.missing == {("big", b"\0" * 32), ("other", reference.hash)}


async def test_facts_of_a_large_group(store: Store) -> None:
    steps = [put(f"op-{n}", b"k%03d" % n, b"%d" % n, expires_ms=n + 1) for n in range(300)]
    made = await commit(store, steps)
    keys = [version.key for version in made.versions]
    facts = await store.facts([step.op_id for step in steps], keys, keys[::3], [], timeout_s=T)
    assert facts.operations == {each.op_id: each for each in made.operations}
    assert {key: (v.revision, v.expires_ms, v.present) for key, v in facts.versions.items()} == {
        v.key: (v.revision, v.expires_ms, True) for v in made.versions
    }
    assert dict(facts.hashes) == {key: value_hash(b"%d" % int(key[1:])) for key in keys[::3]}
    empty = await store.facts([], [], [], [], timeout_s=T)
    assert (empty.head, len(empty.operations), len(empty.versions)) == (made.row.head, 0, 0)


async def test_operations_come_in_the_order_asked(store: Store) -> None:
    op_ids = ["a", "ü/ ~'", "x" * 128]
    made = await commit(store, [put(op_id, b"k", b"v") for op_id in op_ids], log_time_ms=99)
    a, b, c = made.operations
    assert a == RecordedOperation("a", a.body_hash, 1, Applied(), 99)
    assert await store.operations([op_ids[2], "no", op_ids[0], op_ids[1]], timeout_s=T) == (
        c,
        None,
        a,
        b,
    )
    assert await store.operations([], timeout_s=T) == ()


# ----------------------------------------------------------------------------------------- listings


async def pages(store: Store, prefix: bytes, limit: int, at: int | None = None) -> list[bytes]:
    """Return the keys of all pages; a page may be short, but never empty while there is more."""
    keys: list[bytes] = []
    for _ in range(10_000):
        page = await store.list(
            prefix, after=keys[-1] if keys else b"", limit=limit, at=at, timeout_s=T
        )
        keys += [version.key for version in page.versions]
        assert len(page.versions) <= limit
        if not page.more:
            return keys
        assert page.versions
    raise AssertionError("the listing does not end")


async def test_a_listing_shows_present_keys_in_byte_order(store: Store) -> None:
    keys = [
        b"a",
        b"a\x00",
        b"a\x00\x01",
        b"ab",
        b"a\xff",
        b"a\xff\xff",
        b"b",
        b"\xff",
        b"\xff\xff",
        b"B",
        b"\x00",
    ]
    await commit(store, [put(f"{n}", key, b"1") for n, key in enumerate(keys)])
    await commit(store, [delete("gone", b"ab")])
    left = sorted(set(keys) - {b"ab"})
    for prefix in (
        b"",
        b"a",
        b"a\x00",
        b"a\xff",
        b"\xff",
        b"\xff\xff",
        b"\xff\xff\xff",
        b"ab",
        b"c",
    ):
        for limit in (1, 2, 3, 100):
            assert await pages(store, prefix, limit) == [
                key for key in left if key.startswith(prefix)
            ], prefix
    assert [
        v.key for v in (await store.list(b"a", after=b"a\x00", limit=9, timeout_s=T)).versions
    ] == left[4:7]
    assert (await store.list(b"a", after=b"b", limit=9, timeout_s=T)).versions == ()
    assert len((await store.list(b"a", after=b"B", limit=9, timeout_s=T)).versions) == 5, (
        "`after` below the prefix"
    )


async def test_more_is_exact(store: Store) -> None:
    await commit(store, [put(f"{n}", b"k%d" % n, b"1") for n in range(5)])
    await commit(store, [delete("d", b"k4")])
    for limit, more in ((3, True), (4, False), (5, False)):
        assert (await store.list(b"", limit=limit, timeout_s=T)).more is more


async def test_a_listing_at_a_revision_does_not_change_while_writes_go_on(store: Store) -> None:
    made = await commit(store, [put(f"{n}", b"k%02d" % n, b"old") for n in range(30)])
    found: list[Version] = []
    for n in range(10):
        after = found[-1].key if found else b""
        page = await store.list(b"k", after=after, limit=3, at=30, timeout_s=T)
        found += page.versions
        await commit(
            store,
            [
                put(f"new-{n}", b"k%02d!" % n, b"new"),
                delete(f"del-{n}", b"k%02d" % (29 - n)),
                put(f"o{n}", b"k15", b"x"),
            ],
        )
    assert tuple(found) == made.versions
    assert not page.more


async def test_keys_only_leaves_the_values_out(store: Store) -> None:
    reference = await store.stage("r", b"x" * 70_000, timeout_s=T)
    await commit(
        store, [put("a", b"k", b"1", expires_ms=5), put("r", b"m", reference), put("d", b"n", b"1")]
    )
    await commit(store, [delete("e", b"n")])
    page = await store.list(b"", limit=10, keys_only=True, timeout_s=T)
    assert page.versions == (first(b"k", 1, b"", 5), first(b"m", 2, b""))


async def test_a_listing_passes_over_many_versions_and_tombstones(store: Store) -> None:
    for n in range(6):
        await commit(store, [put(f"{n}-{m}", b"hot", b"%d" % m) for m in range(50)])
        await commit(store, [put(f"p{n}-{m}", b"k%03d" % m, b"1") for m in range(100)])
        await commit(store, [delete(f"d{n}-{m}", b"k%03d" % m) for m in range(1, 99)])
    assert await pages(store, b"", 2) == [b"hot", b"k000", b"k099"]
    assert await pages(store, b"", 1, at=50) == [b"hot"]
    assert len(await pages(store, b"", 64, at=150)) == 101


async def test_a_page_of_large_values_is_cut_short_but_loses_nothing(store: Store) -> None:
    for n in range(10):
        await commit(
            store, [put(f"{n}-{m}", b"k%03d" % (n * 20 + m), b"x" * 65_536) for m in range(20)]
        )
    assert await pages(store, b"", 1000) == [b"k%03d" % n for n in range(200)]


# ---------------------------------------------------------------------- staged values, due, cursors


async def test_staging_is_insert_only_and_repeatable(store: Store, rival: Store) -> None:
    value = bytes(range(256)) * 4096
    reference = await store.stage("op", value, timeout_s=T)
    assert (reference.op_id, reference.hash, reference.size) == (
        "op",
        value_hash(value),
        len(value),
    )
    assert await rival.stage("op", value, timeout_s=T) == reference
    other = await store.stage("op", b"other", timeout_s=T)
    assert await rival.blob(reference, timeout_s=T) == value
    assert await rival.blob(other, timeout_s=T) == b"other"
    assert await store.blob(msgspec.structs.replace(reference, op_id="nobody"), timeout_s=T) is None


async def test_a_version_never_refers_to_a_value_that_is_gone(store: Store) -> None:
    reference = await store.stage("op", b"x" * 70_000, timeout_s=T)
    gone = msgspec.structs.replace(reference, hash=b"\1" * 32)
    before = await everything(store)
    with pytest.raises(BackendUnavailable):
        await store.append(
            group(GENESIS, [put("a", b"k", b"1"), put("op", b"m", gone)]), timeout_s=T
        )
    assert await everything(store) == before
    await commit(store, [put("op", b"m", reference)])


async def test_due_shows_newest_versions_only_soonest_first(store: Store) -> None:
    await commit(
        store,
        [
            put("a", b"soon", b"1", expires_ms=50),
            put("b", b"later", b"1", expires_ms=100),
            put("c", b"never", b"1"),
            put("d", b"put off", b"1", expires_ms=10),
            put("e", b"put off", b"2", expires_ms=70),
            put("f", b"kept", b"1", expires_ms=10),
            put("g", b"kept", b"2"),
            put("h", b"deleted", b"1", expires_ms=10),
        ],
    )
    await commit(store, [delete("i", b"deleted")])
    assert await store.due(49, 10, timeout_s=T) == ()
    assert await store.due(50, 10, timeout_s=T) == ((b"soon", 1),)
    assert await store.due(1000, 10, timeout_s=T) == ((b"soon", 1), (b"put off", 5), (b"later", 2))
    assert await store.due(1000, 2, timeout_s=T) == ((b"soon", 1), (b"put off", 5))
    await commit(store, [delete("j", b"soon")])
    assert await store.due(1000, 10, timeout_s=T) == ((b"put off", 5), (b"later", 2))


async def test_cursors_only_rise(store: Store, rival: Store) -> None:
    assert await store.cursor("publisher", timeout_s=T) == 0
    for to, then in ((5, 5), (3, 5), (5, 5), (9, 9)):
        await store.move_cursor("publisher", to, timeout_s=T)
        assert await rival.cursor("publisher", timeout_s=T) == then
    await rival.move_cursor("other", 1, timeout_s=T)
    assert (
        await store.cursor("publisher", timeout_s=T),
        await store.cursor("other", timeout_s=T),
    ) == (9, 1)
    await asyncio.gather(
        *((store, rival)[n % 2].move_cursor("race", n, timeout_s=T) for n in range(20))
    )
    assert await store.cursor("race", timeout_s=T) == 19


async def test_reads_below_the_floor_are_refused(store: Store) -> None:
    await commit(store, [put(f"{n}", b"k", b"%d" % n) for n in range(10)])
    await store.prune(Retention(5, 0), timeout_s=T)
    assert await store.floor(timeout_s=T) == 5
    for at in (0, 4):
        with pytest.raises(Pruned) as refusal:
            await store.read([b"k"], at=at, timeout_s=T)
        assert refusal.value.floor == 5
        with pytest.raises(Pruned):
            await store.list(b"", limit=1, at=at, timeout_s=T)
    assert (await store.read([b"k"], at=5, timeout_s=T)).versions == (put_again(b"k", 5, b"4", 5),)


async def test_what_is_recorded_of_op_ids_is_walked_in_order(store: Store) -> None:
    made = await commit(
        store, [put("c1", b"a", b"1"), put("~2", b"b", b"2"), put("c3", b"a", b"3")]
    )
    found = await store.recorded_after(0, 9, timeout_s=T)
    assert found == made.operations and [each.op_id for each in found] == ["c1", "c3"]
    assert await store.recorded_after(0, 1, timeout_s=T) == found[:1]
    assert await store.recorded_after(1, 9, timeout_s=T) == found[1:]
    assert await store.recorded_after(3, 9, timeout_s=T) == ()
