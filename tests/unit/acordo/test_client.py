"""The client against a server that ends requests in every way a network can."""

from __future__ import annotations

import msgspec
import pytest

import acordo
from acordo import (
    BadRequest,
    Client,
    Mismatch,
    NotApplied,
    OutcomeUnknown,
    PreconditionFailed,
    Pruned,
    ReadFailed,
    Unreachable,
)
from tests.unit.acordo.scripted import Play, Scripted, closed_port, http, problem

pytestmark = pytest.mark.usefixtures("both_forms")

WRITTEN = http(200, b'{"revision": 5}', kind="application/json", headers={"ETag": '"5"'})
NOT_APPLIED = problem(503, code="no_leader", outcome="not_applied", headers={"Retry-After": "1"})
UNKNOWN = problem(504, code="timed_out", outcome="unknown")


def op_id_of(request: bytes) -> bytes:
    return next(
        line for line in request.split(b"\r\n") if line.lower().startswith(b"idempotency-key:")
    )


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("ending", ["reset", "close"])
async def test_one_call_is_one_request(method: str, ending: str) -> None:
    """aiohttp repeats idempotent methods on a kept-alive connection by itself: that must be off."""
    script = [Play(http(200, b"v", headers={"ETag": '"5"'})), Play(then=ending)]
    async with Scripted(script) as server, Client(server.url, retries=False) as client:
        await client.get("warm up the connection")
        calls = {
            "GET": client.get,
            "PUT": lambda key: client.put(key, "v"),
            "DELETE": client.delete,
        }
        with pytest.raises(ReadFailed if method == "GET" else OutcomeUnknown):
            await calls[method]("k")  # type: ignore[operator]
        assert len(server.requests) == 2


async def test_refused_connection_is_definite_and_goes_elsewhere() -> None:
    async with Scripted(otherwise=Play(WRITTEN)) as server:
        async with Client([f"http://127.0.0.1:{await closed_port()}", server.url]) as client:
            written = await client.put("k", "v")
        assert (written.revision, written.attempts) == (5, 2)


async def test_nobody_there_is_unreachable_not_unknown() -> None:
    async with Client(f"http://127.0.0.1:{await closed_port()}", timeout_s=0.2) as client:
        with pytest.raises(Unreachable) as caught:
            await client.put("k", "v")
        assert not caught.value.maybe_applied
        with pytest.raises(Unreachable):
            await client.get("k")


@pytest.mark.parametrize(
    "play",
    [
        Play(then="close"),
        Play(then="reset"),
        Play(then="reset", head_only=True),
        Play(http(200, b'{"rev', length=99), then="close"),
        Play(b"HTTP/1.1 200 OK\r\nAcor", then="close"),
        Play(b"no http at all\r\n\r\n", then="close"),
        Play(b"HTTP/1.1 200 OK\r\nAcordo-Node: n1\r\nConnection: close\r\n\r\n", then="close"),
        Play(http(200, b"<html>hello</html>", node=None)),
        Play(http(200, b"{", kind="application/json")),
        Play(http(502, b"<html>bad gateway</html>", node=None)),
        Play(http(504, b"", node=None)),
        Play(http(503, b"", node=None)),
        Play(problem(503, node=None, outcome="not_applied")),
        Play(http(503, b'{"outcome": "not_app', kind="application/problem+json")),
        Play(http(500)),
        Play(UNKNOWN),
        Play(then="hang"),
    ],
)
async def test_after_a_byte_left_silence_is_unknown_and_repeated_with_the_same_op_id(
    play: Play,
) -> None:
    async with Scripted([play], Play(WRITTEN)) as server:
        async with Client(server.url, attempt_timeout_s=0.5) as client:
            written = await client.put("k", "v")
        assert (written.revision, written.attempts) == (5, 2)
        assert len(server.requests[0]) == 1 or op_id_of(server.requests[-1]) == op_id_of(
            server.requests[0]
        )
    async with Scripted([play], Play(WRITTEN)) as server:
        async with Client(server.url, attempt_timeout_s=0.3, retries=False) as client:
            with pytest.raises(OutcomeUnknown) as caught:
                await client.put("k", "v", op_id="mine")
            assert caught.value.op_id == "mine"
        assert len(server.requests) == 1


async def test_a_refusal_after_an_unknown_attempt_stays_unknown() -> None:
    async with (
        Scripted([Play(UNKNOWN)], Play(NOT_APPLIED)) as server,
        Client(server.url, timeout_s=1.5) as client,
    ):
        with pytest.raises(OutcomeUnknown) as caught:
            await client.put("k", "v")
        assert caught.value.attempts > 1


async def test_the_recorded_refusal_of_a_repeated_op_id_is_definite() -> None:
    refusal = problem(412, code="precondition_failed", guard=0, current=9, revision=11)
    async with Scripted([Play(UNKNOWN)], Play(refusal)) as server, Client(server.url) as client:
        with pytest.raises(PreconditionFailed) as caught:
            await client.cas("k", "v", if_revision=3)
        assert (caught.value.current, caught.value.revision, caught.value.key) == (9, 11, b"k")
        assert not caught.value.maybe_applied


async def test_definite_refusals_are_retried_and_told_as_such_at_the_end() -> None:
    async with (
        Scripted([Play(NOT_APPLIED)] * 3, Play(WRITTEN)) as server,
        Client(server.url) as client,
    ):
        assert (await client.put("k", "v")).attempts == 4
    async with (
        Scripted(otherwise=Play(NOT_APPLIED)) as server,
        Client(server.url, timeout_s=1.5) as client,
    ):
        with pytest.raises(NotApplied) as caught:
            await client.put("k", "v")
        assert caught.value.reason == "no_leader"
        assert not caught.value.maybe_applied


EXPIRED = problem(503, code="expired", outcome="not_applied")


async def test_an_expired_operation_goes_on_under_a_new_op_id() -> None:
    """Its own op_id is spent: whatever is sent under it is answered with the expiry."""
    async with (
        Scripted([Play(UNKNOWN), Play(EXPIRED)], Play(WRITTEN)) as server,
        Client(server.url) as client,
    ):
        written = await client.put("k", "v")
        assert written.attempts == 3
        first, second, third = (op_id_of(request) for request in server.requests)
        assert first == second != third


async def test_an_expired_operation_with_the_callers_op_id_is_the_callers_to_repeat() -> None:
    async with Scripted(otherwise=Play(EXPIRED)) as server, Client(server.url) as client:
        with pytest.raises(NotApplied) as caught:
            await client.put("k", "v", op_id="mine")
        assert caught.value.reason == "expired"
        assert len(server.requests) == 1


async def test_expired_items_of_a_batch_go_on_under_new_op_ids() -> None:
    first = [{"outcome": "expired", "revision": 1}, {"outcome": "expired", "revision": 2}]
    second = [{"outcome": "applied", "revision": 3}]
    script = [Play(http(200, msgspec.json.encode({"results": each}))) for each in (first, second)]
    async with Scripted(script) as server, Client(server.url) as client:
        items = await client.batch(
            [acordo.Intent(writes=(acordo.put("a", "1"),), op_id="mine"), acordo.put("b", "2")]
        )
        assert [(item.outcome, item.op_id == "mine") for item in items] == [
            ("expired", True),
            ("applied", False),
        ]
        assert b"mine" not in server.requests[1]


async def test_nodes_are_told_how_long_a_whole_write_may_take_and_a_read_this_attempt() -> None:
    async with (
        Scripted() as server,
        Client(server.url, attempt_timeout_s=10, retries=False) as client,
    ):
        await client.get("k")
        with pytest.raises(OutcomeUnknown):
            await client.put("k", "v", timeout_s=50)
        told = [float(r.split(b"Acordo-Timeout: ")[1].split(b"\r\n")[0]) for r in server.requests]
        assert told[0] == 9
        assert 40 < told[1] <= 45


async def test_what_cannot_work_is_not_tried_again() -> None:
    bad = problem(400, code="bad_ttl", detail="ttl is negative", allowed="seconds from 0.001")
    async with Scripted(otherwise=Play(bad)) as server, Client(server.url) as client:
        with pytest.raises(BadRequest) as caught:
            await client.put("k", "v", ttl_s=-1)
        assert (caught.value.code, caught.value.allowed) == ("bad_ttl", "seconds from 0.001")
        assert len(server.requests) == 1


async def test_mismatch_and_pruned_have_types_of_their_own() -> None:
    async with (
        Scripted(otherwise=Play(problem(422, code="mismatch"))) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(Mismatch):
            await client.put("k", "v", op_id="used")
    async with (
        Scripted(otherwise=Play(problem(410, code="pruned", floor=40))) as server,
        Client(server.url) as client,
    ):
        with pytest.raises(Pruned) as caught:
            await client.get("k", at_revision=3)
        assert caught.value.floor == 40


async def test_a_missing_key_is_none_and_says_how_fresh_that_is() -> None:
    missing = problem(404, code="key_not_found")
    async with Scripted(otherwise=Play(missing)) as server, Client(server.url) as client:
        assert await client.get("k") is None
        reading = await client.read("k")
        assert (reading.value, reading.revision, reading.served.position) == (None, 0, 7)
        assert (await client.delete("k")).existed is False
    async with Scripted([Play(problem(404, node=None))]) as server, Client(server.url) as client:
        found = await client.get("k")
        assert found is not None
        assert found.value == b"v"


async def test_truncated_value_is_read_again() -> None:
    cut = Play(http(200, b"half", length=100, headers={"ETag": '"5"'}), then="close")
    async with Scripted([cut]) as server, Client(server.url) as client:
        found = await client.get("k")
        assert found is not None
        assert (found.value, found.revision) == (b"v", 5)


async def test_session_reads_carry_the_newest_revision_seen() -> None:
    async with Scripted() as server, Client(server.url, level="session") as client:
        await client.get("k")
        await client.get("k")
        assert b"min_revision=7" in server.requests[-1]


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a/b", b"/v1/kv/a%2Fb"),
        ("..", b"/v1/kv/%2E%2E"),
        ("ä ?#%", b"/v1/kv/%C3%A4%20%3F%23%25"),
        (b"\xff\x00", b"/v1/kv/%FF%00"),
    ],
)
async def test_keys_travel_as_they_are(key: str | bytes, path: bytes) -> None:
    async with Scripted() as server, Client(server.url) as client:
        await client.get(key)
        assert server.requests[0].split(b" ")[1].split(b"?")[0] == path


@pytest.mark.parametrize(
    "urls", [[], [""], ["ftp://x"], ["http://"], ["http://h:99999"], ["http://h/?q=1"]]
)
def test_urls_that_cannot_be(urls: list[str]) -> None:
    with pytest.raises(BadRequest):
        Client(urls)


async def test_empty_key_and_unknown_level_never_leave() -> None:
    async with Scripted() as server, Client(server.url) as client:
        with pytest.raises(BadRequest):
            await client.get("")
        with pytest.raises(BadRequest):
            await client.get("k", level="strong")  # type: ignore[arg-type]
        assert server.requests == []


async def test_batch_sends_again_only_what_is_not_definite() -> None:
    first = [
        {"outcome": "applied", "revision": 1},
        {"outcome": "unknown"},
        {"outcome": "not_applied"},
        {"outcome": "refused", "guard": 0, "current": 4, "revision": 2},
    ]
    second = [
        {"outcome": "applied", "revision": 3, "again": True},
        {"outcome": "applied", "revision": 4},
    ]
    script = [Play(http(200, msgspec.json.encode({"results": each}))) for each in (first, second)]
    async with Scripted(script) as server, Client(server.url) as client:
        items = await client.batch(
            [
                acordo.put("a", "1"),
                acordo.put("b", "2"),
                acordo.delete("c"),
                acordo.Intent(guards=(acordo.absent("d"),)),
            ]
        )
        assert [(i.outcome, i.revision) for i in items] == [
            ("applied", 1),
            ("applied", 3),
            ("applied", 4),
            ("refused", 2),
        ]
        assert len(server.requests) == 2


async def test_batch_item_once_unknown_stays_unknown() -> None:
    script = [Play(then="close")]
    refused = http(200, msgspec.json.encode({"results": [{"outcome": "not_applied"}]}))
    async with (
        Scripted(script, Play(refused)) as server,
        Client(server.url, timeout_s=1.5) as client,
    ):
        (item,) = await client.batch([acordo.put("a", "1")])
        assert item.outcome == "unknown"


def test_spreading_clients_begin_anywhere_and_go_on_in_turn() -> None:
    """Each used to begin at the second URL: many clients of one call each were one node's load."""
    urls = ["http://a", "http://b", "http://c"]
    begun: set[int] = set()
    for _ in range(200):
        nodes = Client(urls, spread=True)._caller.nodes
        first, second, third = nodes.choose(), nodes.choose(), nodes.choose()
        assert ((first + 1) % 3, (first + 2) % 3) == (second, third)
        begun.add(first)
    assert begun == {0, 1, 2}
    assert {Client(urls)._caller.nodes.choose() for _ in range(20)} == {0}


async def test_writes_go_to_the_leader_once_it_is_known_and_reads_stay() -> None:
    async with Scripted() as follower, Scripted() as leader:
        written = http(
            200,
            msgspec.json.encode({"revision": 7, "existed": True, "again": False, "op_id": "o"}),
            kind="application/json",
            headers={"Acordo-Leader": leader.url, "ETag": '"7"'},
        )
        follower._otherwise = leader._otherwise = Play(written)
        async with Client([follower.url, leader.url]) as client:
            for _ in range(3):
                await client.put("k", b"v")
            assert (len(follower.requests), len(leader.requests)) == (1, 2)
            follower._otherwise = Play(http(200, b"v", headers={"ETag": '"5"'}))
            assert await client.get("k") is not None
            assert (len(follower.requests), len(leader.requests)) == (2, 2)


def test_a_leader_that_fails_or_is_not_ours_is_not_asked() -> None:
    nodes = Client(["http://a", "http://b", "http://c"])._caller.nodes
    nodes.leads("http://elsewhere")
    assert nodes.choose(writes=True) == 0
    nodes.leads("http://c/")
    assert (nodes.choose(writes=True), nodes.choose()) == (2, 0)
    nodes.avoid(2)
    assert nodes.choose(writes=True) == 0
    nodes.trust(2)
    assert nodes.choose(writes=True) == 0, "whoever answers next says who leads now"
