"""GET /v1/watch: in order, none twice, none left out, resumable; slow readers are cut."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kv.model import Applied, LedgerRow, Recorded, Version
from kv.ports import Retention, Settled
from node.watching.ledger_gaps import GAP_VERSIONS, portions
from node.watching.ring import ChangeRing
from tests.unit.node.conftest import Api, Open


class Stream:
    """What a watch sends, event by event."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response

    async def next(self) -> dict[str, Any]:
        """Return the next event; comments and `retry` are passed over."""
        event: dict[str, Any] = {}
        while True:
            line = (await self.response.content.readline()).decode()
            if not line:
                return {"event": "EOF"}
            if line == "\n":
                if "event" in event:
                    return event
                continue
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "data":
                event["data"] = msgspec.json.decode(value)
            elif name in ("event", "id"):
                event[name] = value

    async def changes(self, count: int) -> list[tuple[str, str, Any, int]]:
        """Return the next changes as (kind, key, value, revision)."""
        found: list[tuple[str, str, Any, int]] = []
        while len(found) < count:
            event = await self.next()
            if event["event"] in ("put", "delete"):
                form = event["data"]
                found.append((event["event"], form["key"], form.get("value"), form["revision"]))
            else:
                assert event["event"] == "progress", event
        return found


@asynccontextmanager
async def watching(api: Api, query: str = "", **headers: str) -> AsyncIterator[Stream]:
    async with api.session.get(f"{api.url}/v1/watch?{query}", headers=headers) as response:
        assert response.status == 200, await response.text()
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        yield Stream(response)


async def put(api: Api, *keys: str) -> None:
    for key in keys:
        assert (await api.ask("PUT", f"/v1/kv/{key}", data=b"v-" + key.encode())).status in (
            200,
            201,
        )


async def test_changes_come_in_order_with_a_position(api: Api) -> None:
    await put(api, "before")
    async with watching(api) as stream:
        assert await stream.next() == {"event": "progress", "id": "1", "data": {"revision": 1}}
        await put(api, "a")
        event = await stream.next()
        assert (event["event"], event["id"]) == ("put", "2")
        assert event["data"]["op_id"].startswith("~n1")
        assert event["data"] | {"op_id": "", "log_time_ms": 0} == {
            "key": "a", "value": "v-a", "revision": 2, "op_id": "", "log_time_ms": 0,
            "create_revision": 2, "version": 1,
        }  # fmt: skip
        await api.ask("DELETE", "/v1/kv/a")
        event = await stream.next()
        assert (event["event"], event["id"], event["data"]["key"]) == ("delete", "3", "a")
        assert "value" not in event["data"]


async def test_a_revision_is_told_together_and_ends_with_its_id(api: Api) -> None:
    async with watching(api, "prefix=p/") as stream:
        await stream.next()
        await put(api, "q")
        writes = [{"put": f"p/{n}", "value": str(n)} for n in range(3)] + [
            {"put": "q", "value": "x"}
        ]
        await api.ask("POST", "/v1/txn", json={"writes": writes})
        events = [await stream.next() for _ in range(3)]
        assert [event["data"]["key"] for event in events] == ["p/0", "p/1", "p/2"]
        assert [event.get("id") for event in events] == [None, None, "2"]


async def test_resuming_neither_skips_nor_repeats(api: Api) -> None:
    await put(api, *"abcdef")
    async with watching(api, "after=0") as stream:
        assert [key for _, key, _, _ in await stream.changes(6)] == list("abcdef")
    async with watching(api, **{"Last-Event-ID": "4"}) as stream:
        assert [(key, revision) for _, key, _, revision in await stream.changes(2)] == [
            ("e", 5),
            ("f", 6),
        ]
        await put(api, "g")
        assert await stream.changes(1) == [("put", "g", "v-g", 7)]
    # a browser reconnects so
    async with watching(api, "after=2", **{"Last-Event-ID": "6"}) as stream:
        assert [key for _, key, _, _ in await stream.changes(1)] == ["g"]


async def test_a_position_of_another_node_that_is_ahead(api: Api) -> None:
    api.consensus.quiet = True
    await put(api, *"ab")  # settled elsewhere
    asyncio.get_running_loop().call_later(0, api.consensus.jump)
    async with watching(api, "after=2") as stream:
        api.consensus.quiet = False
        await put(api, *"cd")
        assert [key for _, key, _, _ in await stream.changes(2)] == ["c", "d"]


@pytest.mark.parametrize("how", ["no versions", "jump", "small ring"])
async def test_gaps_are_filled_from_the_ledger(open_api: Open, how: str) -> None:
    async with open_api(watch_ring_bytes=1 if how == "small ring" else 1 << 20) as api:
        await put(api, *"ab")
        async with watching(api, "after=0") as stream:
            await stream.changes(1)
            api.consensus.without_versions = how == "no versions"
            api.consensus.quiet = how == "jump"
            await put(api, *"cdefgh")
            await api.ask("DELETE", "/v1/kv/b")
            api.consensus.jump()
            api.consensus.quiet = api.consensus.without_versions = False
            await put(api, *"ij")
            found = [(kind, key, revision) for kind, key, _, revision in await stream.changes(10)]
            assert found == [
                ("put", "b", 2),
                ("put", "c", 3),
                ("put", "d", 4),
                ("put", "e", 5),
                ("put", "f", 6),
                ("put", "g", 7),
                ("put", "h", 8),
                ("delete", "b", 9),
                ("put", "i", 10),
                ("put", "j", 11),
            ]
        assert api.server.services.watches.gaps.reads_total > 0


async def test_large_values_are_told_whole(api: Api) -> None:
    async with watching(api) as stream:
        await api.ask("PUT", "/v1/kv/big", data=b"x" * 200_000)
        ((_, _, value, _),) = await stream.changes(1)
        assert value == "x" * 200_000


async def test_what_is_no_longer_kept_is_gone(open_api: Open) -> None:
    async with open_api(watch_ring_bytes=1) as api:
        await put(api, *"abcdef")
        api.database.prune(Retention(revision_below=4, operations_before_ms=0))
        form = (await api.ask("GET", "/v1/watch?after=1")).problem(410, "pruned")
        assert form["floor"] >= 4
        async with watching(api, "after=4") as stream:
            assert [key for _, key, _, _ in await stream.changes(2)] == ["e", "f"]


async def test_a_running_watch_that_is_outrun_ends_with_an_error(open_api: Open) -> None:
    async with open_api(watch_ring_bytes=1) as api, watching(api) as stream:
        await stream.next()
        api.consensus.quiet = True
        await put(api, *"abcdef")
        api.database.prune(Retention(revision_below=4, operations_before_ms=0))
        api.consensus.jump()
        event = await stream.next()
        assert (event["event"], event["data"]["code"], event["data"]["status"]) == (
            "error",
            "pruned",
            410,
        )
        assert event["data"]["floor"] >= 4
        assert (await stream.next())["event"] == "EOF"


async def test_a_restored_store_is_not_taken_for_no_change(open_api: Open) -> None:
    async with open_api(watch_ring_bytes=1) as api:
        await put(api, *"abcd")
        api.database.lose_rows(2)
        (await api.ask("GET", "/v1/watch?after=2")).problem(503, "store_refused")


async def test_bookmarks_tell_how_far_a_silent_watch_is(open_api: Open) -> None:
    async with (
        open_api(watch_bookmark_s=0.01, watch_heartbeat_s=0.02) as api,
        watching(api, "prefix=none") as stream,
    ):
        await stream.next()
        await put(api, *"abc")
        event = await stream.next()
        while event["id"] != "3":
            assert event["event"] == "progress"
            event = await stream.next()
        line = b""
        while line != b": heartbeat\n":
            line = await stream.response.content.readline()
            assert line, "the watch ended"


async def test_slow_readers_are_cut_and_can_resume(open_api: Open) -> None:
    async with open_api(watch_write_timeout_s=0.05) as api:
        with socket.socket() as small:
            # some kernels would take all of it
            small.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
            small.connect(("127.0.0.1", api.server.port))
            reader, writer = await asyncio.open_connection(sock=small.dup(), limit=2**10)
        writer.write(b"GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"retry: 1000\n\n")
        n = 0
        while not api.server.services.watches.cut_total:
            n += 1
            assert n < 1000, "never cut"
            await asyncio.sleep(0.001)  # a fast machine would be done before the time-out
            await api.ask("PUT", f"/v1/kv/k{n % 3}", data=f"{n:06}".encode() * 10_000)
        got = await asyncio.wait_for(reader.read(2**30), 10)
        while more := await reader.read(2**20):
            got += more
        assert b"event: error" in got
        assert b'"code":"slow_reader"' in got
        last = int(got.split(b"id: ")[-1].split(b"\n")[0])
        assert last < n
        writer.close()
        async with watching(api, **{"Last-Event-ID": str(last)}) as stream:
            found = await stream.changes(n - last)
            assert [revision for *_, revision in found] == list(range(last + 1, n + 1))


async def test_a_stopping_node_ends_its_watches(api: Api) -> None:
    async with watching(api) as stream:
        await stream.next()
        assert await api.server.drain(timeout_s=5)
        event = await stream.next()
        assert (event["event"], event["data"]["code"], event["data"]["resumable"]) == (
            "error",
            "draining",
            True,
        )
        assert (await stream.next())["event"] == "EOF"


async def test_watchers_are_bounded_and_leave(open_api: Open) -> None:
    async with open_api(watchers_max=1, watch_heartbeat_s=0.01, watch_bookmark_s=0.01) as api:
        async with watching(api) as stream:
            await stream.next()
            (await api.ask("GET", "/v1/watch")).problem(503, "overloaded")
            assert b"acordo_watchers 1.0" in (await api.ask("GET", "/metrics")).body
        while len(api.server.services.watches):
            await asyncio.sleep(0.001)
        async with watching(api) as stream:
            await stream.next()


# -- the ring and the cuts alone
# -------------------------------------------------------------------------------------


def settled(previous: int, keys: list[list[bytes]], *, versions: bool = True) -> Settled:
    records = tuple(
        Recorded(f"o{previous + n}", b"", Applied(), tuple(ks)) for n, ks in enumerate(keys, 1)
    )
    made = tuple(Version(k, previous + n, b"v") for n, ks in enumerate(keys, 1) for k in ks)
    return Settled(previous, previous + len(keys), b"", records, made if versions else None, 0)


groups = st.lists(
    st.tuples(
        st.lists(
            st.lists(st.sampled_from([b"a", b"b", b"pa", b"pb"]), unique=True, max_size=3),
            min_size=1,
            max_size=4,
        ),
        st.booleans(),
    ),
    max_size=20,
)


@settings(deadline=None)
@given(groups, st.sampled_from([b"", b"p", b"z"]), st.integers(0, 20_000))
def test_the_ring_has_no_gap(
    told: list[tuple[list[list[bytes]], bool]], prefix: bytes, bytes_max: int
) -> None:
    """From any position not below `begin` on, exactly the changes under the prefix come, in
    order.
    """
    ring = ChangeRing(bytes_max, 0)
    truth: list[tuple[int, bytes]] = []
    at = 0
    for keys, with_versions in told:
        ring.take(settled(at, keys, versions=with_versions))
        truth += [(at + n, key) for n, ks in enumerate(keys, 1) for key in ks]
        at += len(keys)
        assert ring.begin <= ring.end == at
        for position in range(ring.begin, at + 1):
            found: list[tuple[int, bytes]] = []
            here = position
            while True:
                portion = ring.after(here, prefix)
                found += [(c.revision, v.key) for c in portion.changes for v in c.versions]
                if portion.position == here:
                    break
                here = portion.position
            assert here == at
            assert found == [(r, k) for r, k in truth if r > position and k.startswith(prefix)]


def test_the_ring_goes_back_to_where_the_log_was_cut() -> None:
    ring = ChangeRing(20_000, 0)
    ring.take(settled(0, [[b"a"], [b"lost"], [b"lost"]]))
    assert not ring.take(Settled(1, 1, b"", (), None, 0, undone_after=1))
    assert ring.begin == ring.end == 1
    assert ring.take(settled(1, [[b"kept"]]))
    assert [v.key for c in ring.after(1, b"").changes for v in c.versions] == [b"kept"]


@settings(deadline=None)
@given(groups, st.sampled_from([b"", b"p"]), st.integers(0, 30))
def test_rows_are_cut_at_revisions(
    told: list[tuple[list[list[bytes]], bool]], prefix: bytes, position: int
) -> None:
    rows: list[LedgerRow] = []
    at = 0
    for seq, (keys, _) in enumerate(told, 1):
        event = settled(at, keys)
        rows.append(LedgerRow(seq, 1, "n", at + 1, event.last, b"", 0, event.records))
        at = event.last
    if not rows:
        return
    cut = portions(tuple(rows), position, prefix)
    reached = [to for _, to in cut]
    assert reached == sorted(reached)
    assert reached[-1] == max(position, at)
    found = [(w.revision, key) for wanted, _ in cut for w in wanted for key in w.keys]
    truth = [
        (row.first + n, k) for row in rows for n, record in enumerate(row.body) for k in record.keys
    ]
    assert found == [(r, k) for r, k in truth if r > position and k.startswith(prefix)]
    for wanted, to in cut:
        assert all(w.revision <= to for w in wanted)
        assert sum(len(w.keys) for w in wanted) <= GAP_VERSIONS or len(wanted) == 1
