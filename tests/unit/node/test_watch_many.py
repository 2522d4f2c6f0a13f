"""Many watchers: what is told is made once, nobody is woken for nothing, everybody has a turn, no
place is lost.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv.model import Applied, Recorded, Version
from kv.ports import Change, Settled, UndoneRange
from node.http.turns import Turns
from node.watching.frames import Unsent
from node.watching.ring import part_key, under
from node.watching.views import Views
from node.watching.watches import PASS_BYTES, WRITE_COST_BYTES
from tests.unit.node.conftest import Api, Open
from tests.unit.node.test_watch import Stream, put, watching


@asynccontextmanager
async def many(api: Api, count: int, query: str = "") -> AsyncIterator[list[Stream]]:
    async with AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(watching(api, query)) for _ in range(count)]
        yield streams


async def test_a_change_is_made_once_for_all_who_watch_it(api: Api) -> None:
    watches = api.server.services.watches
    async with many(api, 20) as all_keys, many(api, 10, "prefix=k") as under_k:
        before = watches.frames.made_total
        await api.ask("PUT", "/v1/kv/k1", data=b"v" * 200_000)
        for stream in (*all_keys, *under_k):
            assert [(key, len(value)) for _, key, value, _ in await stream.changes(1)] == [
                ("k1", 200_000)
            ]
        assert watches.frames.made_total - before == 1
        writes = [{"put": "k2", "value": "x"}, {"put": "m", "value": "y"}]
        await api.ask("POST", "/v1/txn", json={"writes": writes})
        for stream in all_keys:
            assert [key for _, key, _, _ in await stream.changes(2)] == ["k2", "m"]
        for stream in under_k:
            assert [key for _, key, _, _ in await stream.changes(1)] == ["k2"]
        assert watches.frames.made_total - before == 3  # the whole and the part under k


async def test_a_change_wakes_nobody_whom_it_does_not_concern(open_api: Open) -> None:
    """And who is not woken does not fall behind, although the ring has long moved on."""
    async with open_api(
        watch_ring_bytes=1, watch_bookmark_s=1000.0, watch_heartbeat_s=1000.0
    ) as api:
        watches = api.server.services.watches
        async with many(api, 5, "prefix=quiet/") as quiet, many(api, 1, "prefix=busy/") as busy:
            for stream in (*quiet, *busy):
                await stream.next()
            before = watches.wakes_total
            await put(api, *(f"busy/{n}" for n in range(20)))
            assert len(await busy[0].changes(20)) == 20
            assert watches.wakes_total - before == 20
            reads = watches.gaps.reads_total
            await put(api, "quiet/1")
            for stream in quiet:
                assert [(key, revision) for _, key, _, revision in await stream.changes(1)] == [
                    ("quiet/1", 21)
                ]
            # the ring keeps nothing here: one stretch, once for all five
            assert watches.gaps.reads_total - reads <= 2


async def test_watchers_from_the_beginning_share_what_is_read(open_api: Open) -> None:
    async with open_api(watch_ring_bytes=1) as api:
        await put(api, *(f"k{n}" for n in range(200)))
        watches = api.server.services.watches
        reads, fetches = watches.gaps.reads_total, watches.gaps.fetches_total
        async with many(api, 30, "after=0") as streams:
            told = await asyncio.gather(*(stream.changes(200) for stream in streams))
        assert all([revision for *_, revision in each] == list(range(1, 201)) for each in told)
        # 200 rows of the ledger, 32 at a time: 7 reads and as many fetches for one watcher
        assert watches.gaps.reads_total - reads < 30
        assert watches.gaps.fetches_total - fetches < 60


@pytest.mark.parametrize("how", ["idle", "filling", "unread"])
async def test_a_watcher_that_went_away_leaves_its_place_at_once(open_api: Open, how: str) -> None:
    silent = {
        "watch_heartbeat_s": 1000.0,
        "watch_bookmark_s": 1000.0,
        "watch_write_timeout_s": 1000.0,
    }
    async with open_api(watchers_max=4, **silent) as api:
        watches = api.server.services.watches
        await put(api, *"abc")
        for _ in range(5):
            gone = []
            for _ in range(4):
                sock = socket.socket()
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                sock.setblocking(False)
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", api.server.port))
                after = b"?after=0" if how == "filling" else b""
                await asyncio.get_running_loop().sock_sendall(
                    sock, b"GET /v1/watch%b HTTP/1.1\r\nHost: x\r\n\r\n" % after
                )
                gone.append(sock)
            while len(watches) < 4:
                await asyncio.sleep(0.001)
            (await api.ask("GET", "/v1/watch")).problem(503, "overloaded")
            if how == "unread":
                while not watches.unsent.bytes:
                    await api.ask("PUT", "/v1/kv/a", data=b"v" * 1_000_000)
            for sock in gone:
                sock.close()
            while len(watches):
                await asyncio.sleep(0.001)
        while watches.unsent.bytes:
            await asyncio.sleep(0.001)
        async with watching(api) as stream:
            assert (await stream.next())["event"] == "progress"


async def test_what_waits_for_watchers_is_bounded(open_api: Open) -> None:
    async with open_api(watch_unsent_bytes_max=1_000_000, watch_write_timeout_s=1000.0) as api:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", api.server.port))
        sock.sendall(b"GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n")
        watches = api.server.services.watches
        while not watches.cut_total:
            await api.ask("PUT", "/v1/kv/a", data=b"v" * 1_048_576)
        assert watches.unsent.bytes == 0
        sock.close()


async def test_an_adoption_ends_every_watch(api: Api) -> None:
    async with watching(api) as stream:
        await stream.next()
        await put(api, "a")
        await stream.changes(1)
        event = Settled(1, 5, b"d" * 16, (), (), 0, undone_after=0)
        api.server.services.watches._settled(event)
        told = await stream.next()
        assert (told["event"], told["data"]["code"], told["data"]["status"]) == (
            "error",
            "undone",
            410,
        )
        assert told["data"]["resumable"] is False
        assert (await stream.next())["event"] == "EOF"


async def test_what_the_log_has_lost_ends_the_watches_that_were_told_of_it(api: Api) -> None:
    await put(api, "a", "b", "c")
    watches = api.server.services.watches
    async with watching(api) as past:
        await past.next()
        watches._settled(Settled(1, 1, b"d" * 32, (), None, 0, undone_after=1))
        told = await past.next()
        assert (told["event"], told["data"]["code"], told["data"]["undone_after"]) == (
            "error",
            "undone",
            1,
        )
        assert watches.end == 1  # the revisions after it are given again


async def test_a_position_behind_an_adoption_is_told_what_was_kept_and_that_the_rest_is_undone(
    api: Api,
) -> None:
    await put(api, "a", "b", "c")
    api.consensus.undone = UndoneRange(2, 4)
    for position in (2, 3):
        for asked in ({"query": f"after={position}"}, {"Last-Event-ID": str(position)}):
            query = asked.pop("query", "")
            form = (await api.ask("GET", f"/v1/watch?{query}", headers=asked)).problem(
                410, "undone"
            )
            assert (form["floor"], form["undone_after"]) == (4, 2)
    async with watching(api, "after=0") as stream:
        assert await stream.changes(2) == [("put", "a", "v-a", 1), ("put", "b", "v-b", 2)]
        told = await stream.next()
        assert (told["event"], told["data"]["code"], told["data"]["status"]) == (
            "error",
            "undone",
            410,
        )
        assert (told["data"]["floor"], told["data"]["undone_after"]) == (4, 2)


async def test_the_bound_of_watchers_is_shown(open_api: Open) -> None:
    async with open_api(watchers_max=3) as api:
        assert b"acordo_watchers_max 3.0" in (await api.ask("GET", "/metrics")).body


# -- the parts alone
# -------------------------------------------------------------------------------------------------


async def test_everything_else_has_its_turn_between_large_writes() -> None:
    """A hundred watchers are told a large event: in no pass of the loop more than one of them
    writes.
    """
    turns = Turns(PASS_BYTES, WRITE_COST_BYTES)
    written: list[int] = []
    passes = 0

    async def watcher(n: int) -> None:
        await turns.take(PASS_BYTES + n)
        written.append(passes)

    async with asyncio.TaskGroup() as group:
        for n in range(100):
            group.create_task(watcher(n))
        while len(written) < 100:
            await asyncio.sleep(0)
            passes += 1
    assert max(written.count(each) for each in set(written)) == 1


async def test_small_writes_share_a_pass() -> None:
    turns = Turns(PASS_BYTES, WRITE_COST_BYTES)
    await asyncio.gather(*(turns.take(100) for _ in range(1000)))
    assert turns.passes_total <= 1000 * WRITE_COST_BYTES // PASS_BYTES + 2


async def test_a_watcher_that_is_gone_takes_no_turn() -> None:
    turns = Turns(PASS_BYTES, WRITE_COST_BYTES)
    await turns.take(PASS_BYTES)
    gone = asyncio.create_task(turns.take(PASS_BYTES))
    waiting = asyncio.create_task(turns.take(PASS_BYTES))
    await asyncio.sleep(0)
    gone.cancel()
    await waiting


def test_unsent_frames_count_once() -> None:
    unsent = Unsent(10)
    one, two = bytes(8), bytes(range(8))
    assert unsent.hold(one)
    assert unsent.hold(one)
    assert not unsent.hold(two)
    unsent.let_go(two)
    unsent.let_go(one)
    assert unsent.bytes == 8
    unsent.let_go(one)
    assert unsent.bytes == 0


keys = st.binary(min_size=1, max_size=3).map(lambda raw: bytes(b % 3 + 97 for b in raw))
prefixes = st.binary(max_size=3).map(lambda raw: bytes(b % 3 + 97 for b in raw))


@settings(deadline=None)
@given(
    st.lists(prefixes, max_size=8),
    st.lists(st.lists(keys, max_size=3, unique=True), max_size=6),
    st.data(),
)
def test_views_know_whom_a_change_concerns(
    wanted: list[bytes], told: list[list[bytes]], data: st.DataObject
) -> None:
    views: Views[int] = Views()
    open_ = {n: views.join(n, prefix, 0) for n, prefix in enumerate(wanted)}
    for n in data.draw(st.sets(st.sampled_from(sorted(open_))) if open_ else st.just(set())):
        views.leave(n, wanted[n])
        views.leave(n, wanted[n])  # once is enough
        del open_[n]
    for place, changed in enumerate(told):
        made = tuple(Version(key, place + 1, b"v") for key in changed)
        record = Recorded(f"o{place}", b"", Applied(), tuple(changed))
        woken = views.touch(Settled(place, place + 1, b"", (record,), made, 0), continues=True)
        concerned = {n for n in open_ if any(key.startswith(wanted[n]) for key in changed)}
        assert {n for view in woken for n in view.members} == concerned
        for n, view in open_.items():
            touching = [
                at + 1
                for at, ks in enumerate(told[: place + 1])
                if any(k.startswith(wanted[n]) for k in ks)
            ]
            newest = max(touching, default=0)
            assert view.touched == newest
    everybody = views.touch(Settled(len(told), 99, b"", (), None, 0), continues=False)
    assert {n for view in everybody for n in view.members} == set(open_)


@settings(deadline=None)
@given(st.lists(keys, min_size=1, max_size=6, unique=True), prefixes, prefixes)
def test_parts_of_a_change_are_told_apart(changed: list[bytes], one: bytes, other: bytes) -> None:
    change = Change(7, "o", 0, tuple(Version(key, 7, b"v") for key in changed))
    a, b = under(change, one), under(change, other)
    if a is not None and b is not None:
        assert (part_key(a) == part_key(b)) == (a.versions == b.versions)
