"""Leases on several members, on both kinds of store: granted, kept alive, ended."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest

from coordinator.consensus import Coordinator
from kv.errors import BackendUnavailable, NotApplied
from kv.leases import lease_key, ttl_value
from kv.model import (
    Absent,
    Answer,
    Applied,
    EndLease,
    Entry,
    Exists,
    Expired,
    Intent,
    Put,
    PutWith,
    Refused,
    Version,
)
from kv.ports import LeaseTime, Settled
from node.judging.freshness import entry_holds, touched_by
from tests.planted import leases  # noqa: F401 (it fills the registry)
from tests.planted.registry import planted
from tests.unit.coordinator.cluster import FAR_MS, Cluster, answer, cluster, put
from tests.unit.coordinator.own_cluster import OwnCluster, own_cluster
from tests.virtual import run, until

KINDS = ("shared", "replicated")
AnyCluster: TypeAlias = Cluster | OwnCluster
numbers = itertools.count(1)


@asynccontextmanager
async def members(kind: str, names: str = "abc") -> AsyncIterator[AnyCluster]:
    made = cluster(names) if kind == "shared" else own_cluster(names)
    async with made as c:
        await c.lead("a")
        await until(lambda: all(node.stamped for node in c.nodes.values()))
        yield c


def op() -> str:
    return f"op{next(numbers)}"


async def grant(node: Coordinator, lease: int, ttl_s: float) -> Answer:
    writes = (Put(lease_key(lease), ttl_value(int(ttl_s * 1000))),)
    return await answer(node, Intent(op(), FAR_MS, (Absent(lease_key(lease)),), writes))


async def attach(node: Coordinator, key: bytes, lease: int) -> Answer:
    return await answer(node, Intent(op(), FAR_MS, (), (PutWith(key, b"v", lease=lease),)))


async def revoke(node: Coordinator, lease: int) -> Answer:
    intent = Intent(op(), FAR_MS, (Exists(lease_key(lease)),), (EndLease(lease),))
    return await answer(node, intent)


async def keep_alive(node: Coordinator, lease: int) -> LeaseTime | None:
    """Keep a lease alive, as often as it takes."""
    while True:
        try:
            return await node.lease_time(lease, renew=True, timeout_s=5)
        except NotApplied:
            await asyncio.sleep(0.05)


async def look(node: Coordinator, lease: int) -> LeaseTime | None:
    return await node.lease_time(lease, renew=False, timeout_s=5)


def newest(c: AnyCluster, key: bytes, name: str = "a") -> Version | None:
    database = c.database if isinstance(c, Cluster) else c.stores[name].tables
    return database.read([key], None, 0).versions[0]


def is_there(c: AnyCluster, key: bytes) -> bool:
    version = newest(c, key)
    return version is not None and version.present


@pytest.mark.parametrize("kind", KINDS)
def test_a_lease_ends_with_all_its_keys_at_one_revision(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            heard: list[Settled] = []
            c["b"].listen(heard.append)
            assert (await grant(c["b"], 7, 60)).outcome == Applied()
            for key in (b"x", b"y", b"z"):
                assert (await attach(c["c"], key, 7)).outcome == Applied()
            await answer(c["a"], put(op(), b"z"))  # which attaches it to nothing
            await answer(c["a"], put(op(), b"other"))
            ended = await revoke(c["b"], 7)
            assert ended.outcome == Applied()
            await until(lambda: c["b"].machine.settled.revision == ended.revision)
            last = [v for event in heard for v in event.versions or ()][-3:]
            gone = sorted((b"x", b"y", lease_key(7)))
            assert sorted(v.key for v in last) == gone
            assert {(v.revision, v.value, v.lease) for v in last} == {(ended.revision, None, 0)}
            assert not any(is_there(c, key) for key in gone)
            assert is_there(c, b"z") and is_there(c, b"other")
            assert isinstance((await revoke(c["b"], 7)).outcome, Refused)

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_is_attached_only_to_a_lease_that_is_there(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            refused = await attach(c["b"], b"k", 9)
            assert refused.outcome == Refused(-1, 0, (), "lease_not_found")
            assert newest(c, b"k") is None
            await grant(c["b"], 9, 60)
            assert isinstance((await grant(c["b"], 9, 60)).outcome, Refused)
            await attach(c["b"], b"k", 9)
            version = newest(c, b"k")
            assert version is not None and version.lease == 9

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lease_lives_while_it_is_kept_alive_and_ends_afterwards(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            await grant(c["b"], 5, 2)
            await attach(c["b"], b"k", 5)
            revision = c["a"].machine.revision
            for n in range(10):
                time = await keep_alive(c["abc"[n % 3]], 5)
                assert time is not None and time.ttl_ms == 2000
                await asyncio.sleep(1.5)
                assert is_there(c, b"k")
            assert c["a"].machine.revision == revision  # a keep-alive costs no revision
            left = await look(c["c"], 5)
            assert left is not None and 0 < left.left_ms <= 500
            await asyncio.sleep(1.5)
            assert not is_there(c, b"k") and not is_there(c, lease_key(5))
            assert await keep_alive(c["b"], 5) is None
            assert await look(c["b"], 6) is None

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_many_keep_alives_share_few_questions(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            for lease in range(1, 51):
                await grant(c["a"], lease, 60)
            asked, log = [], c.shared.members["b"]
            ask = log.ask

            async def counted(question: bytes, *, timeout_s: float) -> bytes:
                asked.append(question)
                return await ask(question, timeout_s=timeout_s)

            log.ask = counted  # type: ignore[method-assign]
            times = await asyncio.gather(*(keep_alive(c["b"], lease) for lease in range(1, 51)))
            assert all(time is not None for time in times)
            assert len(asked) <= 2

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_leader_gives_every_lease_its_whole_ttl(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            await grant(c["a"], 5, 4)
            await attach(c["a"], b"k", 5)
            await asyncio.sleep(3)
            await c.lead("b")
            await asyncio.sleep(3)
            assert is_there(c, b"k")
            await asyncio.sleep(2)
            assert not is_there(c, b"k")

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_the_end_that_a_former_leader_ordered_has_no_effect(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            await grant(c["a"], 5, 60)
            await attach(c["a"], b"k", 5)
            b = await c.lead("b")
            late = Intent("~late", FAR_MS, (), (EndLease(5, c.shared.term - 1),))
            assert (await answer(b, late)).outcome == Expired()
            assert is_there(c, b"k")
            own = Intent("~own", FAR_MS, (), (EndLease(5, c.shared.term),))
            assert (await answer(b, own)).outcome == Applied()
            assert not is_there(c, b"k")

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_a_leader_that_was_deposed_confirms_no_keep_alive(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            await grant(c["a"], 5, 60)
            c.shared.elect("b", unnoticed=True)
            await until(lambda: c["b"].leading.taken_over)
            with pytest.raises(NotApplied):
                await c["a"].lease_time(5, renew=True, timeout_s=5)
            assert await keep_alive(c["b"], 5) is not None

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_an_id_may_be_granted_again_after_its_lease_ended(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            for _ in range(3):
                assert (await grant(c["c"], 5, 60)).outcome == Applied()
                assert await keep_alive(c["c"], 5) is not None
                assert (await revoke(c["c"], 5)).outcome == Applied()
                assert await keep_alive(c["c"], 5) is None

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_leases_whose_time_is_over_end_although_there_are_many(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            for lease in range(1, 201):
                await grant(c["a"], lease, 20)
                await attach(c["a"], b"k%d" % lease, lease)
            await asyncio.sleep(25)
            assert not any(is_there(c, b"k%d" % lease) for lease in range(1, 201))
            assert c["a"].leases.leases == 0
            assert c["a"].leases.ended == 200

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_rule_the_end_of_a_former_leader_takes_effect(kind: str) -> None:
    with planted("lease_old_term"), pytest.raises(AssertionError, match="Expired"):
        test_the_end_that_a_former_leader_ordered_has_no_effect(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_rule_a_new_leader_ends_leases_at_once(kind: str) -> None:
    with planted("lease_short_ttl"), pytest.raises(AssertionError):
        test_a_new_leader_gives_every_lease_its_whole_ttl(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_round_a_deposed_leader_confirms_keep_alives(kind: str) -> None:
    with planted("lease_no_round"), pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_leader_that_was_deposed_confirms_no_keep_alive(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_without_its_rule_a_cached_entry_outlives_its_lease(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            await grant(c["a"], 5, 60)
            await attach(c["a"], b"k", 5)
            version = newest(c, b"k")
            entry = Entry(b"k", version, c["a"].machine.settled.revision)
            assert entry_holds(entry, touched_by(c["a"].touched, entry))
            await revoke(c["a"], 5)
            assert not entry_holds(entry, touched_by(c["a"].touched, entry))
            if kind == "shared":  # the key alone does not tell: nobody knew it when it was ordered
                assert entry_holds(entry, c["a"].touched(b"k"))

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_a_lease_granted_again_while_the_former_one_ends_lives(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            await grant(c["a"], 5, 2)
            keeper = c["a"].leases
            batches = keeper._batches

            async def slow(due: Iterable[int]) -> list[list[int]]:
                await revoke(c["b"], 5)
                await grant(c["b"], 5, 60)
                await attach(c["b"], b"k", 5)
                return await batches(due)

            keeper._batches = slow  # type: ignore[method-assign]
            await asyncio.sleep(5)
            assert is_there(c, b"k") and is_there(c, lease_key(5))
            assert await keep_alive(c["c"], 5) == LeaseTime(60_000, 60_000)

    run(story)


def test_writes_that_are_only_in_the_store_leave_the_leases_known() -> None:
    async def story() -> None:
        async with members("shared") as c:
            await grant(c["a"], 5, 60)
            await attach(c["a"], b"k", 5)
            assert await keep_alive(c["a"], 5) is not None
            kept = Intent(op(), FAR_MS, (), (PutWith(b"k", b"", keep_value=True),))
            assert (await answer(c["a"], kept)).outcome == Applied()
            await until(lambda: c["a"].machine.settled.revision == c["a"].machine.revision)
            assert await c["a"].lease_time(5, renew=True, timeout_s=5) is not None

    run(story)


@pytest.mark.parametrize("kind", KINDS)
def test_leases_with_many_keys_end_by_commands_of_their_own(kind: str) -> None:
    async def story() -> None:
        async with members(kind) as c:
            attached = {1: 1500, 2: 1500, 3: 400, 4: 1500}
            keeper = c["a"].leases

            async def counts(
                leases: Sequence[int], *, limit: int, timeout_s: float
            ) -> Mapping[int, int]:
                if away:
                    raise BackendUnavailable("store", "away")
                return {lease: min(limit, attached[lease]) for lease in leases}

            away, keeper._store.attached_counts = False, counts  # type: ignore[method-assign]
            assert await keeper._batches(attached) == [[1], [2, 3], [4]]
            away = True  # then each is taken for one that has many
            assert await keeper._batches(attached) == [[1], [2], [3], [4]]

    run(story)
