"""A mirror: interrupted anywhere and begun again, the target has what the source has, each revision
once, in order and whole.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import pytest
from aiohttp import web
from typer.testing import CliRunner

from acordo import (
    BadRequest,
    Client,
    NotApplied,
    OutcomeUnknown,
    Pruned,
    TransactionRefused,
    absent,
)
from acordo import put as put_
from acordo._bulk.mirror import mirror
from acordo._bulk.mirror_lag import Lag, MirrorProgress
from acordo._bulk.mirror_parts import CHANGES_MAX, GUARDED_MAX, parts, sent_bytes, ttl_left_s
from acordo._bulk.mirror_point import Excluded, Foreign, MirrorPoint, state_key_of
from acordo._bulk.mirror_target import Target
from acordo._cli import main as cli
from acordo._cli.shell import app, hoisted
from acordo._wire.forms import to_json
from tests.unit.acordo.fake_cluster import FakeCluster, problem

assert cli.COMMANDS  # importing it registers the commands

STATE: Final = b"acordo-mirror/app/"
ODD: Final = {b"app/\xff\x00": b"\x00\xfe", b"app/empty": b"", b"app/\xe2\x82\xac \n": b"\n\x1b[2J"}


def change(cluster: FakeCluster, values: Mapping[bytes, bytes | None]) -> int:
    """Change keys at one revision; None deletes one. Return the revision."""
    writes: list[dict[str, Any]] = [
        {"delete": to_json(key)}
        if value is None
        else {"put": to_json(key), "value": to_json(value)}
        for key, value in values.items()
    ]
    outcome = cluster.order(f"test-{cluster.revision}", {"writes": writes})
    assert outcome["outcome"] == "applied"
    return cluster.revision


def held(cluster: FakeCluster, prefix: bytes = b"app/") -> dict[bytes, bytes]:
    return {
        key: value
        for key in cluster.history
        if key.startswith(prefix) and (value := cluster.at(key)[1]) is not None
    }


def point(cluster: FakeCluster, key: bytes = STATE) -> MirrorPoint:
    content = cluster.at(key)[1]
    assert content is not None
    return msgspec.json.decode(content, type=MirrorPoint)


def written(cluster: FakeCluster, prefix: bytes = b"app/") -> list[tuple[int, bytes]]:
    """The (revision, key) of every write of the target, in order."""
    return [(c[0], c[2]) for c in cluster.changes if c[2].startswith(prefix)]


class Pair:
    """Two clusters, and clients of them that give up soon."""

    def __init__(self, source: FakeCluster, target: FakeCluster) -> None:
        self.source, self.target = source, target
        self.copies: list[str] = []

    async def mirror(self, prefix: bytes = b"app/", **options: Any) -> MirrorProgress:
        retries = options.pop("retries", True)
        async with (
            Client(self.source.urls, timeout_s=5) as source,
            Client(self.target.urls, timeout_s=5, retries=retries) as target,
        ):
            given: dict[str, Any] = {"once": True, "give_up_s": 2.0, "on_copy": self.copies.append}
            return await mirror(source, target, prefix, **given | options)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with FakeCluster() as source, FakeCluster() as target:
        source.bookmarks = True
        source.cluster_id, source.founded = "east", "aa"
        target.cluster_id, target.founded = "west", "bb"
        yield Pair(source, target)


@asynccontextmanager
async def going(pair: Pair, **options: Any) -> AsyncIterator[asyncio.Task[MirrorProgress]]:
    """Run a mirror while the block runs."""
    task = asyncio.create_task(pair.mirror(once=False, **options))
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def same(pair: Pair, revision: int) -> None:
    """Wait until the target has everything up to a revision of the source."""
    async with asyncio.timeout(20):
        while pair.target.at(STATE)[1] is None or not arrived(point(pair.target), revision):
            await asyncio.sleep(0.01)


def arrived(held: MirrorPoint, revision: int) -> bool:
    return held.revision >= revision and not held.copying


async def test_it_copies_and_goes_on_with_each_change(pair: Pair) -> None:
    change(pair.source, ODD | {b"app/1": b"one", b"other/1": b"not mirrored"})
    change(pair.source, {b"acordo/leases/1": b"the system's"})
    async with going(pair):
        await same(pair, pair.source.revision)
        assert held(pair.target, b"") == held(pair.source) | {STATE: pair.target.at(STATE)[1]}
        change(pair.source, {b"app/1": None, b"app/2": b"two", b"app/3": b"three"})
        await same(pair, change(pair.source, {b"app/2": b"2"}))
    assert held(pair.target) == held(pair.source)
    after = written(pair.target)[-4:]
    assert [key for _, key in after] == [b"app/1", b"app/2", b"app/3", b"app/2"]
    assert len({revision for revision, _ in after[:3]}) == 1
    assert pair.copies == ["the target has no position yet"]


async def test_everything_is_mirrored_but_the_system_and_the_position(pair: Pair) -> None:
    change(pair.source, {b"a": b"1", b"acordo/x": b"2", b"acordo0": b"3", b"z": b"4"})
    change(pair.source, {b"acordo-mirror/": b"what another mirror left here"})
    await pair.mirror(b"")
    change(pair.source, {b"acordo/x": b"5", b"a": b"6"})
    await pair.mirror(b"")
    found = held(pair.target, b"")
    assert found.pop(b"acordo-mirror/")
    assert found == {b"a": b"6", b"acordo0": b"3", b"z": b"4"}


async def test_once_ends_with_what_the_source_had_and_goes_on_next_time(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1"})
    done = await pair.mirror()
    assert (done.revision, done.written, done.deleted, done.copies) == (1, 1, 0, 1)
    change(pair.source, {b"app/1": None})
    change(pair.source, {b"elsewhere": b"1"})
    done = await pair.mirror()
    assert (done.revision, done.written, done.deleted, done.copies) == (3, 0, 1, 0)
    assert point(pair.target).revision == 3
    requests = len(pair.target.changes)
    assert (await pair.mirror()).revision == 3
    assert len(pair.target.changes) == requests + 1, "only its claim"


def busy(source: FakeCluster, random: Random, count: int) -> None:
    """Change keys of the source; every value is another one."""
    for _ in range(count):
        keys = random.sample(range(12), random.randint(1, 5))
        change(
            source,
            {
                b"app/%d" % key: None
                if random.random() < 0.3
                else b"%d-%d" % (source.revision, key)
                for key in keys
            },
        )


async def run_until(pair: Pair, random: Random, cut_at: int) -> bool:
    """Mirror until both clusters have seen so many requests, and lose a third of the target's
    answers; return whether it came to its end.
    """
    seen = 0

    def trouble(request: web.Request) -> web.StreamResponse | str | None:
        nonlocal seen
        seen += 1
        if seen == cut_at:
            task.cancel()
        lost = request.path == "/v1/txn" and random.random() < 0.3
        return "drop" if lost else None

    pair.source.trouble = pair.target.trouble = trouble
    task = asyncio.create_task(pair.mirror())
    await asyncio.wait({task})
    ended = not task.cancelled()
    if ended:
        task.result()
    pair.source.trouble = pair.target.trouble = lambda request: None
    return ended


@pytest.mark.parametrize("cut_at", range(1, 12))
async def test_it_resumes_wherever_it_was_interrupted(pair: Pair, cut_at: int) -> None:
    random = Random(cut_at)
    busy(pair.source, random, 8)
    copied_from = pair.source.revision
    while not await run_until(pair, random, cut_at):
        busy(pair.source, random, 1)
        cut_at += 1
    busy(pair.source, random, 6)
    begun = pair.source.revision - 6
    copies, before = list(pair.copies), len(written(pair.target))
    while not await run_until(pair, random, max(4, cut_at // 2)):
        cut_at += 2
    assert pair.copies == copies, "nothing is copied again"
    assert held(pair.target) == held(pair.source)
    news = [c for c in pair.source.changes if c[0] > begun and c[2].startswith(b"app/")]
    theirs = [c for c in pair.target.changes if c[2].startswith(b"app/")][before:]
    assert [c[1:4] for c in theirs] == [c[1:4] for c in sorted(news, key=lambda c: (c[0], c[2]))], (
        "each change once, in order"
    )
    whole: dict[int, set[int]] = {}
    for new, there in zip(sorted(news, key=lambda c: (c[0], c[2])), theirs, strict=True):
        whole.setdefault(new[0], set()).add(there[0])
    assert all(len(revisions) == 1 for revisions in whole.values()), "each revision whole"
    assert copied_from <= begun


async def test_of_two_mirrors_one_ends(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1"})
    async with going(pair) as first:
        await same(pair, 1)
        name = point(pair.target).mirror
        async with going(pair) as second, asyncio.timeout(20):
            while point(pair.target).mirror == name:
                await asyncio.sleep(0.01)
            await same(pair, change(pair.source, {b"app/1": b"2"}))
            with pytest.raises(Excluded, match="another mirror") as caught:
                await first
            assert caught.value.code == "mirror_excluded"
            assert not second.done()
            await same(pair, change(pair.source, {b"app/1": b"3"}))
    assert [c[3] for c in pair.target.changes if c[2] == b"app/1"] == [b"1", b"2", b"3"]


async def test_what_an_earlier_mirror_still_has_on_its_way_is_void(pair: Pair) -> None:
    one, two = (MirrorPoint(version=1, prefix=b"app/".hex(), mirror=m) for m in ("one", "two"))
    async with Client(pair.target.urls) as client:
        earlier, later = (Target(client, b"app/", STATE, give_up_s=1) for _ in range(2))
        await earlier.claim(lambda before: one)
        await later.claim(lambda before: two)
        with pytest.raises(Excluded, match=r"another mirror \(two\)"):
            await earlier.commit(one, [put_("app/1", "late")])
        await later.commit(two, [put_("app/1", "right")])
        assert held(pair.target) == {b"app/1": b"right"}
        await client.delete(STATE)
        with pytest.raises(Excluded, match="deleted"):
            await later.commit(two, [put_("app/1", "wrong")])


@pytest.mark.parametrize("acts", [True, False])
async def test_an_unknown_outcome_is_resolved_by_the_position(pair: Pair, acts: bool) -> None:
    """With one attempt for each call the client cannot resolve it itself."""
    change(pair.source, {b"app/1": b"1"})
    await pair.mirror()
    lost = 0

    def trouble(request: web.Request) -> web.StreamResponse | str | None:
        nonlocal lost
        if request.path == "/v1/txn" and lost < 3:
            lost += 1
            if acts:
                return "drop"
            assert request.transport
            request.transport.abort()
            return web.Response()
        return None

    pair.target.trouble = trouble
    for n in range(4):
        change(pair.source, {b"app/1": b"v%d" % n})
    await pair.mirror(retries=False, give_up_s=10.0)
    assert lost == 3
    told = [c[3] for c in pair.target.changes if c[2] == b"app/1"]
    assert told == [b"1", b"v0", b"v1", b"v2", b"v3"]


@pytest.mark.parametrize(("code", "error"), [("drop", OutcomeUnknown), ("no_quorum", NotApplied)])
async def test_a_target_that_stays_away_ends_it_in_time(
    pair: Pair, code: str, error: type[Exception]
) -> None:
    change(pair.source, {b"app/1": b"1"})
    await pair.mirror()
    change(pair.source, {b"app/1": b"2"})
    writes = 0

    def trouble(request: web.Request) -> web.StreamResponse | str | None:
        nonlocal writes
        if request.path != "/v1/txn":
            return None
        writes += 1
        if code == "drop" and writes > 1:
            assert request.transport
            request.transport.abort()
            return web.Response()
        return None if code == "drop" else problem(503, code, outcome="not_applied")

    pair.target.trouble = trouble
    with pytest.raises(error) as caught:
        await pair.mirror(retries=False, give_up_s=0.2)
    assert "run the same command again" in str(caught.value)
    pair.target.trouble = lambda request: None
    await pair.mirror()
    assert held(pair.target) == {b"app/1": b"2"}


@pytest.mark.parametrize("code", ["pruned", "undone"])
async def test_a_gap_in_the_history_is_bridged_by_a_copy(pair: Pair, code: str) -> None:
    change(pair.source, {b"app/%d" % n: b"1" for n in range(4)})
    await pair.mirror()
    change(pair.source, {b"app/0": None, b"app/1": b"changed"})
    change(pair.source, {b"app/5": b"new"})
    before = len(written(pair.target))

    def trouble(request: web.Request) -> web.StreamResponse | None:
        if request.path != "/v1/watch" or "poll" in request.query:
            return None
        return problem(410, code, floor=3, undone_after=1, detail=f"it is {code}")

    pair.source.trouble = trouble
    with pytest.raises(Pruned):
        await pair.mirror(relist=False)
    assert len(written(pair.target)) == before
    pair.copies.clear()
    await pair.mirror()
    assert pair.copies == [f"it is {code}"]
    assert held(pair.target) == held(pair.source)
    changed = {key for _, key in written(pair.target)[before:]}
    assert changed == {b"app/0", b"app/1", b"app/5"}, "what is the same is not written again"


async def test_a_listing_that_is_pruned_every_time_ends_it(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1"})
    await pair.mirror()

    def trouble(request: web.Request) -> web.StreamResponse | None:
        gone = "revision" in request.query or (
            request.path == "/v1/watch" and "poll" not in request.query
        )
        return problem(410, "pruned", floor=9, detail="gone") if gone else None

    change(pair.source, {b"app/1": b"2"})
    pair.source.trouble = trouble
    with pytest.raises(Pruned):
        await pair.mirror()
    pair.source.trouble = lambda request: None
    pair.copies.clear()
    await pair.mirror()
    assert pair.copies == ["an earlier copy was interrupted"]
    assert held(pair.target) == {b"app/1": b"2"}


async def test_a_source_that_was_restored_is_copied(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1", b"app/2": b"2"})
    await pair.mirror()
    async with FakeCluster() as restored:
        restored.cluster_id, restored.founded = "east", "cc"
        change(restored, {b"app/1": b"1"})
        now = Pair(restored, pair.target)
        with pytest.raises(BadRequest, match="another history"):
            await now.mirror(relist=False)
        await now.mirror()
        assert now.copies == ["the source has another history now"]
        assert held(pair.target) == {b"app/1": b"1"}
        assert point(pair.target).history == "cc"
        restored.cluster_id = "north"
        with pytest.raises(BadRequest, match="a mirror of cluster 'east'") as caught:
            await now.mirror()
        assert caught.value.code == "mirror_of_another"
        await now.mirror(replace=True)
        assert point(pair.target).cluster_id == "north"


async def test_a_target_that_holds_other_keys_is_refused_by_name(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1", b"app/2": b"2"})
    change(pair.target, {b"app/1": b"mine", b"app/9": b"mine", b"free": b"1"})
    before = dict(pair.target.history)
    with pytest.raises(Foreign, match=r"'app/1', 'app/9'"):
        await pair.mirror()
    assert pair.target.history == before, "nothing was written"
    await pair.mirror(replace=True)
    assert held(pair.target) == held(pair.source)
    assert held(pair.target, b"free") == {b"free": b"1"}


async def test_keys_that_are_the_same_are_not_written(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1", b"app/2": b"2"})
    change(pair.target, {b"app/1": b"1"})
    await pair.mirror()
    assert [key for _, key in written(pair.target)] == [b"app/1", b"app/2"]


async def test_a_later_copy_deletes_only_what_a_mirror_wrote(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1", b"app/2": b"2"})
    await pair.mirror()
    change(pair.target, {b"app/foreign": b"somebody else's"})
    change(pair.source, {b"app/2": None})
    pair.source.founded = "cc"
    with pytest.raises(Foreign, match="'app/foreign'"):
        await pair.mirror()
    assert held(pair.target)[b"app/foreign"] == b"somebody else's"
    pair.target.floor = pair.target.revision  # too old to tell, as all that it holds
    pair.target.history[b"app/foreign"] = [(2, b"somebody else's")]
    await pair.mirror()
    assert held(pair.target) == {b"app/1": b"1"}


async def test_what_changes_in_the_target_during_a_copy_is_looked_at_again(pair: Pair) -> None:
    change(pair.source, {b"app/%d" % n: b"1" for n in range(3)})
    change(pair.target, {b"app/0": b"old", b"app/1": b"old", b"app/8": b"old"})
    done = False

    def trouble(request: web.Request) -> None:
        nonlocal done
        if request.path == "/v1/txn" and pair.target.at(STATE)[0] and not done:
            listed = [r for r in pair.target.requests if r.startswith("GET /v1/kv?")]
            if listed:
                done = True
                change(pair.target, {b"app/0": None, b"app/1": b"1", b"app/8": None})

    pair.target.trouble = trouble
    await pair.mirror(replace=True)
    assert done
    assert held(pair.target) == held(pair.source)
    assert [key for _, key in written(pair.target)].count(b"app/1") == 2, "it was right by then"


async def test_a_guard_of_a_key_is_told_by_its_own_number(pair: Pair) -> None:
    async with Client(pair.target.urls) as client:
        target = Target(client, b"app/", STATE, give_up_s=1)
        fresh = MirrorPoint(version=1, prefix=b"app/".hex(), mirror="m")
        await target.claim(lambda before: fresh)
        change(pair.target, {b"app/1": b"1"})
        with pytest.raises(TransactionRefused) as caught:
            await target.commit(fresh, [put_("app/1", "2")], [absent("app/1")])
        assert caught.value.guard == 0, "of the guards that were given"
        assert target.stored.writes == 1


async def test_a_key_keeps_what_is_left_of_its_time(pair: Pair) -> None:
    now_ms = pair.source.log_time_ms
    for key, left_ms in ((b"app/hour", 3_600_000), (b"app/past", -5), (b"app/later", 90_000)):
        pair.source.expires_ms[key] = now_ms + left_ms
    pair.source.leases[b"app/leased"] = f"{5:016x}"
    pair.source.expires_ms[b"app/leased"] = now_ms + 5000
    change(pair.source, {b"app/hour": b"1", b"app/past": b"1", b"app/leased": b"1", b"app/1": b""})
    await pair.mirror()
    change(pair.source, {b"app/later": b"1", b"app/leased": b"2"})
    await pair.mirror()
    ttls = pair.target.txn_ttls
    assert ttls[b"app/past"] == 1.0
    assert ttls[b"app/leased"] is None
    assert ttls[b"app/1"] is None
    assert 3500 < (ttls[b"app/hour"] or 0) <= 3600
    assert 60 < (ttls[b"app/later"] or 0) <= 90


def test_what_is_left_of_a_time() -> None:
    assert ttl_left_s(None, None, 5) is None
    assert ttl_left_s(10_000, None, 5_000) == 5.0
    assert ttl_left_s(10_000, None, 9_999) == 1.0
    assert ttl_left_s(10_000, "5", 5_000) is None


async def test_a_revision_with_more_keys_than_a_transaction_takes(pair: Pair) -> None:
    change(pair.source, {b"app/a": b"1"})
    await pair.mirror()
    many = {b"app/%04d" % n: b"x" for n in range(CHANGES_MAX + 10)}
    change(pair.source, many)
    change(pair.source, {b"app/z": b"1"})
    await pair.mirror()
    assert held(pair.target) == held(pair.source)
    revisions = [r for r, key in written(pair.target) if key in many]
    assert [revisions.count(r) for r in sorted(set(revisions))] == [CHANGES_MAX, 10]


@pytest.mark.parametrize("lost", [True, False])
async def test_it_resumes_within_a_revision_that_takes_several(pair: Pair, lost: bool) -> None:
    change(pair.source, {b"app/a": b"1"})
    await pair.mirror()
    many = {b"app/%04d" % n: b"x" for n in range(2 * CHANGES_MAX + 10)}
    revision = change(pair.source, many)
    writes = 0

    def trouble(request: web.Request) -> str | None:
        nonlocal writes
        writes += request.path == "/v1/txn"
        if writes == 3:  # its claim, the first part, the second
            task.cancel()
            return "drop" if lost else None
        return None

    pair.target.trouble = trouble
    task = asyncio.create_task(pair.mirror())
    with pytest.raises(asyncio.CancelledError):
        await task
    pair.target.trouble = lambda request: None
    assert point(pair.target).part_revision == revision
    assert point(pair.target).revision < revision
    await pair.mirror()
    assert held(pair.target) == held(pair.source)
    keys = [key for _, key in written(pair.target) if key in many]
    assert keys == sorted(many), "each once, in order"
    assert point(pair.target).part_revision == 0


async def test_a_revision_with_thousands_of_deletes(pair: Pair) -> None:
    many = {b"app/%04d" % n: b"x" for n in range(1500)}
    change(pair.source, many)
    await pair.mirror()
    assert len(held(pair.target)) == 1500
    assert len({r for r, _ in written(pair.target)}) == -(-1500 // GUARDED_MAX)
    change(pair.source, dict.fromkeys(many, None))
    await pair.mirror()
    assert held(pair.target) == {}


async def test_large_values_of_any_bytes(pair: Pair) -> None:
    large = {b"app/%d" % n: bytes([n]) * 1024 * 1024 for n in (0, 1, 34, 65, 255)}
    for key, value in large.items():
        change(pair.source, {key: value})
    await pair.mirror()
    assert held(pair.target) == large
    change(pair.source, {b"app/2": bytes(1024 * 1024), b"app/3": b"\xff" * 1024 * 1024})
    await pair.mirror()
    assert held(pair.target) == held(pair.source)


def test_parts_are_as_large_as_a_request_takes() -> None:
    puts = [(n, put_(f"k{n}", b"\0" * 1024 * 1024)) for n in range(5)]
    weight = sent_bytes(puts[0][1])
    assert weight < 1.4 * 1024 * 1024, "control characters are not escaped"
    assert parts(puts, 126, 2 * weight) == [[0, 1], [2, 3], [4]]
    assert parts(puts, 3, 9 * weight) == [[0, 1, 2], [3, 4]]
    assert parts(puts[:1], 3, 10) == [[0]], "one is never too large"
    assert parts([], 3, 10) == []


@pytest.mark.parametrize(
    ("prefix", "given", "code"),
    [
        (b"app/", b"app/state", "bad_state_key"),
        (b"app/", b"acordo/state", "bad_state_key"),
        (b"app/", b"", "bad_state_key"),
        (b"a", None, "bad_state_key"),
        (b"x" * 1020, None, "bad_state_key"),
        (b"acordo/leases/", None, "reserved_key"),
    ],
)
def test_where_the_position_may_not_be_kept(prefix: bytes, given: bytes | None, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        state_key_of(prefix, given)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"\xff", "bad_state"),
        (b"[" * 100_000, "bad_state"),
        (b'{"version":1,"prefix":"zz","mirror":"m"}', "bad_state"),
        (b'{"version":2,"prefix":"6170702f","mirror":"m"}', "bad_state"),
        (b'{"version":1,"prefix":"61","mirror":"m"}', "state_of_another"),
    ],
)
async def test_what_is_no_position_is_left_alone(pair: Pair, content: bytes, code: str) -> None:
    change(pair.target, {STATE: content})
    with pytest.raises(BadRequest) as caught:
        await pair.mirror()
    assert caught.value.code == code
    assert pair.target.at(STATE)[1] == content


async def test_a_cluster_is_no_mirror_of_itself(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1"})
    with pytest.raises(BadRequest, match="the source itself"):
        await Pair(pair.source, pair.source).mirror()
    assert held(pair.source, b"") == {b"app/1": b"1"}


async def test_it_tells_how_far_behind_it_is(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("acordo._bulk.mirror_lag.EVERY_S", 0.01)
    told: list[MirrorProgress] = []
    change(pair.source, {b"app/1": b"1"})
    async with going(pair, on_progress=told.append):
        await same(pair, 1)
        pair.target.trouble = lambda request: problem(503, "no_quorum", outcome="not_applied")
        change(pair.source, {b"app/1": b"2"})
        change(pair.source, {b"app/1": b"3"})
        async with asyncio.timeout(10):
            while not told or told[-1].lag_revisions != 2:
                await asyncio.sleep(0.01)
    assert (told[-1].revision, told[-1].source_revision) == (1, 3)


async def test_the_lag_counts_from_the_oldest_revision_that_is_missing() -> None:
    async with Client(["http://127.0.0.1:1"]) as client:
        lag = Lag(client, None)
        lag.reach(5)
        lag.see(5)
        assert lag.progress().lag_s == 0.0
        for revision in range(6, 6 + 5000):
            lag.see(revision)
        assert lag.progress().lag_revisions == 5000
        lag.reach(5005)
        assert (lag.progress().lag_revisions, lag.progress().lag_s) == (0, 0.0)


async def test_the_position_is_kept_also_without_changes(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("acordo._bulk.mirror.PERSIST_S", 0.0)
    change(pair.source, {b"app/1": b"1"})
    async with going(pair):
        await same(pair, 1)
        await same(pair, change(pair.source, {b"elsewhere": b"1"}))
    assert point(pair.target).revision == 2
    assert re.fullmatch("[0-9a-f]{12}", point(pair.target).mirror)


async def typed(pair: Pair, *arguments: str) -> tuple[int, str, str]:
    """Run the command; return its exit code and what it printed."""
    runner = CliRunner(env={"ACORDO_URLS": " ".join(pair.source.urls), "TERM": "dumb"})
    to = ("--to", ",".join(pair.target.urls), "--prefix", "app/")
    result = await asyncio.to_thread(runner.invoke, app, hoisted(["mirror", *to, *arguments]))
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


async def test_the_command_says_what_it_did(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1"})
    code, out, err = await typed(pair, "--once")
    assert code == 0
    assert "up to revision 1: 1 keys written, 0 deleted" in out
    assert "everything is copied: the target has no position yet" in err
    change(pair.source, {b"app/1": None})
    code, out, err = await typed(pair, "--once", "--json")
    assert (code, err) == (0, "")
    assert msgspec.json.decode(out.splitlines()[-1]) == {
        "revision": 2,
        "source_revision": 2,
        "lag_revisions": 0,
        "lag_s": 0.0,
        "written": 0,
        "deleted": 1,
        "copies": 0,
    }


async def test_the_command_refuses_a_target_with_other_keys(pair: Pair) -> None:
    change(pair.target, {b"app/mine": b"1"})
    code, out, err = await typed(pair, "--once")
    assert (code, out) == (2, "")
    assert "app/mine" in err
    assert "--replace" in err
    assert (await typed(pair, "--once", "--replace"))[0] == 0
    assert held(pair.target) == {}


async def test_the_command_ends_with_7_when_another_mirror_took_over(pair: Pair) -> None:
    change(pair.source, {b"app/1": b"1"})
    await pair.mirror()

    def trouble(request: web.Request) -> None:
        if request.path == "/v1/watch" and "poll" not in request.query:
            moved = msgspec.structs.replace(point(pair.target), mirror="other")
            change(pair.target, {STATE: msgspec.json.encode(moved)})

    pair.source.trouble = trouble
    change(pair.source, {b"app/1": b"2"})
    code, _, err = await typed(pair, "--once")
    assert code == 7
    assert "another mirror (other)" in " ".join(err.split())
    assert held(pair.target) == {b"app/1": b"1"}


async def test_each_cluster_gets_its_own_token(pair: Pair, tmp_path: Path) -> None:
    shown: dict[str, set[str | None]] = {"source": set(), "target": set()}

    def noting(name: str, request: web.Request) -> None:
        shown[name].add(request.headers.get("Authorization"))

    pair.source.trouble = lambda request: noting("source", request)
    pair.target.trouble = lambda request: noting("target", request)
    for name in shown:
        (tmp_path / name).write_text(f"acordo_{name}")
    source = ("--once", "--token-file", str(tmp_path / "source"))
    assert (await typed(pair, *source))[0] == 0
    assert shown == {"source": {"Bearer acordo_source"}, "target": {None}}
    assert (await typed(pair, *source, "--to-token-file", str(tmp_path / "target")))[0] == 0
    assert shown["target"] == {None, "Bearer acordo_target"}
