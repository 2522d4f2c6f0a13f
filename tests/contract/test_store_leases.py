"""What every store says of the keys that are attached to leases."""

from __future__ import annotations

from kv.ports import LeaseAsk, LeaseFacts, MemberStore, Store
from tests.contract.groups import Step, T, attach, commit, delete, put
from tests.contract.history import History
from tests.contract.member_adapters import Disk

STORY: tuple[tuple[Step, ...], ...] = (
    (attach("1", b"b", 7), attach("2", b"a", 7), attach("3", b"c", 8)),
    (attach("4", b"d", 7), put("5", b"a", b"free"), attach("6", b"c", 7)),
    (delete("7", b"d"), attach("8", b"a", 7), attach("9", b"a", 8), put("10", b"e", b"none")),
)
AT_LEASE_7 = (
    (b"a", b"b"),
    (b"b", b"c", b"d"),
    (b"b", b"c"),
)
ASKS = (LeaseAsk(7, False), LeaseAsk(7, True), LeaseAsk(8, False), LeaseAsk(9, True))


async def test_a_shared_store_finds_the_keys_of_a_lease(store: Store) -> None:
    for steps, keys in zip(STORY, AT_LEASE_7, strict=True):
        await commit(store, steps)
        assert await store.attached(7, limit=9, timeout_s=T) == keys
    assert await store.attached(7, limit=1, timeout_s=T) == (b"b",)
    for limit in (1, 9):
        counts = await store.attached_counts([7, 8, 9], limit=limit, timeout_s=T)
        assert [counts.get(lease, 0) for lease in (7, 8, 9)] == [min(2, limit), 1, 0]
    facts = await store.facts([], [], [], [], leases=ASKS, timeout_s=T)
    assert facts.leases == {
        7: LeaseFacts(2, (b"b", b"c")),
        8: LeaseFacts(1),
        9: LeaseFacts(0),
    }
    counted = await store.facts([], [], [], [], leases=ASKS[:1], timeout_s=T)
    assert counted.leases == {7: LeaseFacts(2)}
    (version,) = (await store.read([b"c"], timeout_s=T)).versions
    assert version is not None and version.lease == 7


async def test_a_members_own_store_finds_the_keys_of_a_lease(member: MemberStore) -> None:
    history = History()
    for steps, keys in zip(STORY, AT_LEASE_7, strict=True):
        member.settle(history.submit(*steps))
        assert await member.attached(7, limit=9, timeout_s=T) == keys
    for limit in (1, 9):
        counts = await member.attached_counts([7, 8, 9], limit=limit, timeout_s=T)
        assert [counts.get(lease, 0) for lease in (7, 8, 9)] == [min(2, limit), 1, 0]
    facts = member.facts([], [], [], leases=ASKS, recorded_since_ms=0)
    assert facts.leases == {7: LeaseFacts(2, (b"b", b"c")), 8: LeaseFacts(1), 9: LeaseFacts(0)}


async def test_the_keys_of_a_lease_are_found_again_in_the_file(disk: Disk) -> None:
    history = History()
    async with disk.store() as member:
        for steps in STORY:
            member.settle(history.submit(*steps))
    async with disk.store() as member:
        assert await member.attached(7, limit=9, timeout_s=T) == AT_LEASE_7[-1]
        member.cut_back(history.steps[1].note.index)
        assert await member.attached(7, limit=9, timeout_s=T) == AT_LEASE_7[1]
        assert await member.attached(8, limit=9, timeout_s=T) == ()
