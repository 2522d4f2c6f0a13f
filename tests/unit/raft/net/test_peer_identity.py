"""What goes with a hello: who may be connected, from where, and two processes that use one id."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.ports import free_port
from coordinator.raft.net.peer_identity import (
    Origin,
    PeerIdentity,
    decode_identity,
    digest_of_voters,
    encode_identity,
    judge_origins,
    never_belonged,
)
from coordinator.raft.net.security import SharedSecret
from tests.unit.raft.net.members import Member, addresses, closed, until

SECRET = SharedSecret(b"a secret that all members share")
ABC, A = digest_of_voters(["A", "B", "C"]), digest_of_voters(["A"])


def test_a_digest_is_of_ids_in_any_order() -> None:
    assert digest_of_voters(["C", "A", "B"]) == ABC
    assert len({ABC, A, digest_of_voters([]), digest_of_voters(["AB", "C"])}) == 4


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict", "wrong"),
    [
        (Origin(b"", ABC), Origin(b"", ABC), None, False),
        (Origin(b"", ABC), Origin(b"", A), "other_members", False),
        (Origin(b"", ABC), Origin(b"h", A), "other_members", True),
        (Origin(b"h", ABC), Origin(b"", A), "other_members", False),
        (Origin(b"h", ABC), Origin(b"i", ABC), "other_history", False),
        (Origin(b"h", ABC), Origin(b"h", A), None, False),
        (Origin(b"", b""), Origin(b"h", A), None, False),
        (Origin(b"", b""), Origin(b"", A), None, False),
        (Origin(b"", ABC), Origin(b"h", ABC), None, False),
    ],
)
def test_only_what_cannot_be_of_one_cluster_is_refused(
    mine: Origin, theirs: Origin, verdict: Any, wrong: bool
) -> None:
    assert judge_origins(mine, theirs) == judge_origins(theirs, mine) == verdict
    assert never_belonged(mine, theirs) == wrong


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_what_cannot_be_read_says_nothing(noise: bytes) -> None:
    assert isinstance(decode_identity(noise), PeerIdentity)


def test_identities_that_once_raised() -> None:
    assert decode_identity(b"\x93\x92\xa0\xa0\xa0\xa3\x00\x00\x80") == PeerIdentity()
    told = PeerIdentity(Origin(b"h", ABC), b"i" * 16, "host:1")
    assert decode_identity(encode_identity(told)) == told
    newer = encode_identity(told)
    assert decode_identity(bytes([newer[0] + 1]) + newer[1:] + b"\x01") == told, (
        "a later version appended a field"
    )
    assert len(encode_identity(PeerIdentity(Origin(b"h" * 16, ABC), b"i" * 16, "ä" * 5000))) < 512


def said(member: str, incarnation: bytes = b"", address: str = "") -> Any:
    return lambda: PeerIdentity(Origin(), incarnation or member.encode(), address)


@pytest.mark.parametrize(("fixed", "moved"), [("n1", "n2"), ("n2", "n1")])
async def test_a_member_that_moved_is_reached_where_it_is_now(fixed: str, moved: str) -> None:
    """Whoever has the lower id, and although the others are told the old address only."""
    where = addresses("n1", "n2")
    one = Member(fixed, where, security=SECRET)
    now = f"127.0.0.1:{free_port()}"
    two = Member(moved, where | {moved: now}, security=SECRET)
    two.transport.identity = said(moved, address=now)
    for member in (one, two):
        await member.transport.start()
    await until(lambda: one.connected(moved) and two.connected(fixed))
    connection = two.transport._peers[fixed].connection
    assert connection is not None
    connection.close("lost")
    two.transport.rest(two.nodes[fixed])  # from here on it waits to be found
    await until(lambda: one.events.count(("up", moved)) >= 2 and two.connected(fixed))
    await closed(one, two)


async def test_a_member_that_is_not_wanted_hears_why() -> None:
    where = addresses("n1", "n2")
    one, two = (Member(name, where, security=SECRET) for name in where)
    heard: list[tuple[str, str]] = []
    two.transport.judge = lambda peer, identity: ("removed", f"{peer} was removed")
    two.transport.rest(two.nodes["n1"])
    one.transport.on_refused = lambda peer, told: heard.append((peer, told))
    for member in (one, two):
        await member.transport.start()
    await until(lambda: ("n2", "removed: n1 was removed") in heard)
    assert "removed" in one.transport.trouble(one.nodes["n2"])
    assert not one.events, "it was never in"
    assert not two.events
    await closed(one, two)


async def test_two_processes_with_one_id_are_both_refused_and_named() -> None:
    where = addresses("n1", "n2")
    one = Member("n1", where, security=SECRET)
    first, second = (
        Member("n2", where, security=SECRET),
        Member("n2", where | addresses("n2"), security=SECRET),
    )
    first.transport.identity, second.transport.identity = (
        said("n2", b"first"),
        said("n2", b"second"),
    )
    heard: list[str] = []
    second.transport.on_refused = lambda peer, told: heard.append(told)
    await one.transport.start()
    await first.transport.start()
    await until(lambda: one.connected("n2") and first.connected("n1"))
    await second.transport.start()
    await until(lambda: one.transport.counters["doubled"] == 1)
    assert not second.events, "while the first one was connected, the second one never was"
    await until(
        lambda: not first.connected("n1") and any(text.startswith("used_twice") for text in heard)
    )
    assert "two processes use the id n2" in one.transport.trouble(one.nodes["n2"])
    await second.transport.aclose()
    await until(lambda: one.connected("n2") and first.connected("n1"))
    await closed(one, first)


async def test_a_member_that_rests_is_never_dialled() -> None:
    where = addresses("n1", "n2")
    one = Member("n1", where, security=SECRET)
    one.transport.rest(one.nodes["n2"])
    await one.transport.start()
    dials = []
    server = await asyncio.start_server(
        lambda r, w: dials.append(w), "127.0.0.1", int(where["n2"].rpartition(":")[2])
    )
    server.close()
    await server.wait_closed()
    two = Member("n2", where, security=SECRET)
    await two.transport.start()
    await until(lambda: one.connected("n2"))
    assert not dials
    assert one.transport.counters["dial_failed"] == 0
    await closed(one, two)
