"""Loading and dumping: interrupted anywhere and run again, nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from random import Random

import msgspec
import pytest
from aiohttp import web

from acordo import BadRequest, Change, Client, NotApplied, OutcomeUnknown, Pruned
from acordo._bulk.checkpoints import checkpoint_of_load
from acordo._bulk.dump import dump
from acordo._bulk.lines import BATCH_BYTES, LARGE_BYTES, LINE_BYTES_MAX
from acordo._bulk.load import TIMEOUT_S, LoadDone, load
from acordo._bulk.progress import Progress
from acordo._bulk.tally import Rejected
from acordo._wire import forms
from tests.unit.acordo.fake_cluster import FakeCluster, problem
from tests.unit.node.conftest import opened


def write_lines(path: Path, count: int, keys: int | None = None) -> dict[bytes, bytes]:
    """Write lines of which the last of each key wins; some are large, binary, or blank."""
    wanted: dict[bytes, bytes] = {}
    with path.open("wb") as file:
        for n in range(count):
            key = f"k{n % (keys or count):04}"
            if n % 50 == 7:
                value: object = "x" * (LARGE_BYTES + 1 + n)
            elif n % 50 == 9:
                value = {"base64": "/wD+"}
            else:
                value = f"value {n}"
            file.write(
                msgspec.json.encode({"key": key, "value": value})
                + (b"\n\n" if n % 11 == 0 else b"\n")
            )
            wanted[key.encode()] = (
                b"\xff\x00\xfe" if isinstance(value, dict) else str(value).encode()
            )
    return wanted


def held(cluster: FakeCluster) -> dict[bytes, bytes]:
    return {key: value for key in cluster.history if (value := cluster.at(key)[1]) is not None}


async def load_file(client: Client, path: Path, timeout_s: float = TIMEOUT_S) -> LoadDone:
    with path.open("rb") as source:
        return await load(client, source, checkpoint=checkpoint_of_load(path), timeout_s=timeout_s)


async def test_load_takes_the_last_line_of_each_key(tmp_path: Path) -> None:
    path = tmp_path / "in.ndjson"
    wanted = write_lines(path, 700, keys=90)
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        done = await load_file(client, path)
        assert (done.lines, done.again, done.rejected, done.resumed_at) == (700, 0, 0, 0)
        assert held(cluster) == wanted
        assert list(tmp_path.iterdir()) == [path]


async def run_until_cut(
    cluster: FakeCluster, path: Path, random: Random, cut_at: int
) -> LoadDone | None:
    """Load until the cluster has seen `cut_at` requests, losing 30 % of its answers; None: it was
    interrupted.
    """
    seen = 0

    def trouble(request: web.Request) -> web.StreamResponse | str | None:
        nonlocal seen
        seen += 1
        if seen == cut_at:
            task.cancel()
        return "drop" if random.random() < 0.3 else None

    cluster.trouble = trouble
    async with Client(cluster.urls) as client:
        task = asyncio.create_task(load_file(client, path))
        try:
            return await task
        except asyncio.CancelledError:
            assert checkpoint_of_load(path).exists()
            return None


@pytest.mark.parametrize("seed", range(8))
async def test_an_interrupted_load_goes_on_without_losing_or_doubling(
    tmp_path: Path, seed: int
) -> None:
    """INV-3 across processes: each line takes effect once, whenever the load was cut, answers lost
    or not.
    """
    random = Random(seed)
    path = tmp_path / "in.ndjson"
    wanted = write_lines(path, 1500, keys=400)
    async with FakeCluster() as cluster:
        done, runs = None, 0
        while done is None:
            runs += 1
            done = await run_until_cut(
                cluster, path, random, random.randrange(2, 12) if runs < 6 else 10**9
            )
        assert runs > 1
        assert done.resumed_at or done.again
        assert held(cluster) == wanted
        assert cluster.applied == 1500
        assert sum(len(versions) for versions in cluster.history.values()) == 1500
        assert not checkpoint_of_load(path).exists()


async def test_loading_a_file_again_writes_again(tmp_path: Path) -> None:
    path = tmp_path / "in.ndjson"
    write_lines(path, 10)
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        await load_file(client, path)
        await client.put("k0003", "changed meanwhile")
        done = await load_file(client, path)
        assert done.again == 0
        assert cluster.at(b"k0003")[1] == b"value 3"


async def test_another_file_under_the_same_name_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "in.ndjson"
    write_lines(path, 500)
    async with FakeCluster() as cluster:
        async with Client(cluster.urls) as client:
            seen = iter(range(100))
            cluster.trouble = lambda r: (
                problem(503, "no_quorum", outcome="not_applied") if next(seen) > 1 else None
            )
            with pytest.raises(NotApplied):
                await load_file(client, path, timeout_s=1.5)
            cluster.trouble = lambda r: None
            text = path.read_bytes()
            path.write_bytes(b"#" + text[1:])
            with pytest.raises(BadRequest) as caught:
                await load_file(client, path)
            assert caught.value.code == "file_changed"
            path.write_bytes(text)
            assert (await load_file(client, path)).resumed_at > 0
        assert cluster.applied == 500


async def test_unknown_outcomes_stop_the_load_and_the_next_run_settles_them(tmp_path: Path) -> None:
    path = tmp_path / "in.ndjson"
    wanted = write_lines(path, 300)
    async with FakeCluster() as cluster, Client(cluster.urls, attempt_timeout_s=0.2) as client:
        cluster.trouble = lambda request: "drop"
        with pytest.raises(OutcomeUnknown):
            await load_file(client, path, timeout_s=1.0)
        cluster.trouble = lambda request: None
        done = await load_file(client, path)
        assert done.again > 0
        assert (held(cluster), cluster.applied) == (wanted, 300)


async def test_expired_lines_go_on_under_the_next_op_id_also_in_the_next_run(
    tmp_path: Path,
) -> None:
    path = tmp_path / "in.ndjson"
    wanted = write_lines(path, 130)
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        cluster.trouble = lambda request: "drop"
        with pytest.raises(OutcomeUnknown):
            await load_file(client, path, timeout_s=1.0)
        cluster.trouble = lambda request: None
        taken = dict(cluster.ops)
        for op_id in taken:  # as if none of it had been applied in time
            cluster.ops[op_id] = (taken[op_id][0], {"outcome": "expired", "revision": 1})
        done = await load_file(client, path)
        assert (done.lines, held(cluster)) == (130, wanted)
        assert sum(op_id.endswith("-1") and op_id.count("-") == 4 for op_id in cluster.ops) == len(
            taken
        )


@pytest.mark.parametrize(
    "bad",
    [
        b"not json\n",
        b'{"key": "", "value": "v"}\n',
        b'{"key": 5, "value": "v"}\n',
        b'{"key": "k"}\n',
        b'{"key": "k", "value": {"base64": "?"}}\n',
        b'{"key": "k", "value": null}\n',
        b'["k", "v"]\n',
    ],
)
async def test_bad_lines_are_named(bad: bytes) -> None:
    good = b'{"key": "a", "value": "1"}\n'
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        with pytest.raises(Rejected, match=r"line 2: "):
            await load(client, io.BytesIO(good + bad + good), checkpoint=None)
        told: list[int] = []
        done = await load(
            client,
            io.BytesIO(good + bad + good),
            checkpoint=None,
            keep_going=True,
            on_rejected=lambda line, why: told.append(line),
        )
        assert (done.lines, done.rejected, told) == (2, 1, [2])


async def test_one_bad_line_does_not_take_its_batch_along() -> None:
    lines = [msgspec.json.encode({"key": "k" * n, "value": "v"}) for n in (1, 2, 1025, 3)]
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        with pytest.raises(Rejected, match="line 3: "):
            await load(client, io.BytesIO(b"\n".join(lines)), checkpoint=None)
        told: list[int] = []
        done = await load(
            client,
            io.BytesIO(b"\n".join(lines)),
            checkpoint=None,
            keep_going=True,
            on_rejected=lambda line, why: told.append(line),
        )
        assert (told, done.rejected) == ([3], 1)
        assert sorted(held(cluster)) == [b"k", b"kk", b"kkk"]


@pytest.mark.parametrize(
    "value", [b"\xff" * 60_000, b"\x01" * 60_000, b'"' * 60_000, b"v" * 60_000]
)
@pytest.mark.parametrize("takes", [BATCH_BYTES, 400_000])
async def test_a_batch_is_weighed_as_it_is_sent_and_split_where_less_is_taken(
    value: bytes, takes: int
) -> None:
    """Values that are no text grow in JSON; and what stands between may take less than a
    node does.
    """
    lines = [
        msgspec.json.encode({"key": f"k{n}", "value": forms.to_json(value)}) for n in range(45)
    ]
    sizes: list[int] = []

    def refuse(request: web.Request) -> web.StreamResponse | None:
        sizes.append(request.content_length or 0)
        return problem(413, "body_too_large", outcome="not_applied") if sizes[-1] > takes else None

    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        cluster.trouble = refuse
        done = await load(client, io.BytesIO(b"\n".join(lines)), checkpoint=None)
        assert (done.lines, done.rejected) == (45, 0)
        assert held(cluster) == {f"k{n}".encode(): value for n in range(45)}
        assert max(sizes) <= BATCH_BYTES + 1024


async def test_a_line_without_end_is_bounded() -> None:
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        with pytest.raises(Rejected):
            await load(client, io.BytesIO(b"x" * (LINE_BYTES_MAX + 2)), checkpoint=None)


async def test_a_value_that_the_cluster_refuses_is_named() -> None:
    line = msgspec.json.encode({"key": "big", "value": "x" * (1024 * 1024 + 1)})
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        with pytest.raises(Rejected, match="line 1: the value has more than"):
            await load(client, io.BytesIO(line), checkpoint=None)


async def test_dump_and_load_are_inverse(tmp_path: Path) -> None:
    path, out = tmp_path / "in.ndjson", tmp_path / "out.ndjson"
    wanted = write_lines(path, 400)
    async with FakeCluster() as cluster, FakeCluster() as other:
        async with Client(cluster.urls) as client:
            await load_file(client, path)
            done = await dump(client, out, page=37)
            assert (done.keys, done.bytes, done.revision) == (
                400,
                out.stat().st_size,
                cluster.revision,
            )
        async with Client(other.urls) as client:
            await load_file(client, out)
        assert held(other) == wanted
        assert sorted(p.name for p in tmp_path.iterdir()) == ["in.ndjson", "out.ndjson"]


@pytest.mark.parametrize("seed", range(5))
async def test_an_interrupted_dump_goes_on_at_its_revision(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    path, out, clean = tmp_path / "in.ndjson", tmp_path / "out.ndjson", tmp_path / "clean.ndjson"
    write_lines(path, 400)
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        await load_file(client, path)
        await dump(client, clean)
        runs = 0
        while True:
            runs += 1
            cut_at = random.randrange(2, 6) if runs < 5 else 10**9

            def interrupt(progress: Progress) -> None:
                nonlocal cut_at
                cut_at -= 1
                if not cut_at:
                    raise asyncio.CancelledError

            try:
                done = await dump(client, out, page=20, on_progress=interrupt)
                break
            except asyncio.CancelledError:
                assert not out.exists()
                with (tmp_path / "out.ndjson.acordo-part").open("ab") as part:
                    part.write(b"torn page that the checkpoint does not speak of")
                await client.put("k0001", f"changed meanwhile {runs}")
                await client.delete(f"k{399 - runs:04}")
        assert runs > 1
        assert done.resumed_at > 0
        assert out.read_bytes() == clean.read_bytes()


async def test_a_dump_whose_revision_is_gone_says_so(tmp_path: Path) -> None:
    path, out = tmp_path / "in.ndjson", tmp_path / "out.ndjson"
    write_lines(path, 60)
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        await load_file(client, path)

        def forget(progress: Progress) -> None:
            cluster.floor = cluster.revision + 1

        with pytest.raises(Pruned):
            await dump(client, out, page=20, on_progress=forget)
        with pytest.raises(BadRequest):
            await dump(client, out, b"another prefix")


async def test_what_expires_keeps_its_moment_through_dump_and_load(tmp_path: Path) -> None:
    """A lock that is restored ends when it would have ended, or is not restored at all; old dumps
    have no moment.
    """
    async with opened() as api, Client(api.url) as client:
        await client.put("lock", "mine", ttl_s=600)
        await client.put("short", "gone", ttl_s=5)
        await client.put("plain", "kept")
        lock = await client.get("lock")
        assert lock is not None and lock.expires_ms is not None
        listed = {found.key: found.expires_ms async for found in client.list()}
        assert listed[b"lock"] == lock.expires_ms and listed[b"plain"] is None
        events = client.watch(after=0)
        told = [await anext(events) for _ in range(3)]
        assert [e.expires_ms for e in told if isinstance(e, Change)][::2] == [lock.expires_ms, None]
        path = tmp_path / "out.ndjson"
        await dump(client, path)
        assert path.read_bytes().count(b'"expires_ms":%d}' % lock.expires_ms) == 1
    async with opened() as api, Client(api.url) as client:
        api.consensus.now_offset_ms += 60_000  # restored a minute later
        done = await load_file(client, path)
        assert (done.lines, done.expired, done.rejected) == (2, 1, 0)
        restored = await client.get("lock")
        assert restored is not None and restored.expires_ms is not None
        assert 0 <= restored.expires_ms - lock.expires_ms < 10_000  # as long as the load took
        assert await client.get("short") is None
        plain = await client.get("plain")
        assert plain is not None and plain.expires_ms is None
        path.write_text('{"key": "old", "value": "1", "revision": 5}\n')
        await load_file(client, path)
        old = await client.get("old")
        assert old is not None and old.expires_ms is None


async def test_a_line_that_is_sent_again_after_an_interruption_has_the_same_ttl(
    tmp_path: Path,
) -> None:
    """Else its op_id would be known with another body, and the load could never end."""
    path = tmp_path / "in.ndjson"
    async with opened() as api, Client(api.url) as client:
        line = {"key": "a", "value": "1", "expires_ms": api.consensus.now_ms() + 600_000}
        path.write_bytes(msgspec.json.encode(line) + b"\n")
        api.consensus.lose = True  # it takes effect, and nobody hears of it
        with pytest.raises(OutcomeUnknown):
            await load_file(client, path, timeout_s=0.3)
        api.consensus.lose = False
        api.consensus.now_offset_ms += 5000
        done = await load_file(client, path)
        assert (done.lines, done.again, done.rejected) == (1, 1, 0)


async def test_a_line_with_two_ends_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.ndjson"
    path.write_text('{"key": "a", "value": "1", "ttl": 5, "expires_ms": 5}\n')
    async with FakeCluster() as cluster, Client(cluster.urls) as client:
        with pytest.raises(Rejected, match="both ttl and expires_ms"):
            await load_file(client, path)
