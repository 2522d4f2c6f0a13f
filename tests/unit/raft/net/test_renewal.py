"""What members prove themselves by is exchanged while they talk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import trustme

from coordinator.raft.net.security import Certificates, Open, SharedSecret, read_secret
from kv.errors import BadRequest
from tests.unit.raft.net.members import Member, addresses, until

OLD, NEW = b"the secret that all members had", b"the secret that they will have"
STEPS = (SharedSecret(OLD, (NEW,)), SharedSecret(NEW, (OLD,)), SharedSecret(NEW))


async def test_three_members_go_from_one_secret_to_another() -> None:
    where = addresses("n1", "n2", "n3")
    members = [Member(name, where, security=SharedSecret(OLD)) for name in where]
    try:
        for member in members:
            await member.transport.start()
        await until(lambda: whole(members))
        for step in STEPS:
            for member in members:
                member.transport.renew(step)
                await until(lambda: whole(members))
            if step is not STEPS[-1]:
                downs = [e for member in members for e in member.events if e[0] == "down"]
                assert downs == [], "connections go on while what they rest on is accepted"
        closed = sum(member.transport.counters["closed_renewed"] for member in members)
        assert closed >= 3, "none rests on the old secret any more"
        late = Member("n1", where | {"n1": "127.0.0.1:0"}, security=SharedSecret(OLD))
        await late.transport.start()
        await until(lambda: late.transport.counters["closed_bad_proof"] > 0)
        assert not late.events
        await late.transport.aclose()
    finally:
        for member in members:
            await member.transport.aclose()
            assert not member.fatal


def whole(members: list[Member]) -> bool:
    return all(a.connected(b.id) for a in members for b in members if a is not b)


async def test_what_is_no_use_changes_nothing() -> None:
    where = addresses("n1", "n2")
    members = [Member(name, where, security=SharedSecret(OLD)) for name in where]
    for member in members:
        await member.transport.start()
    await until(lambda: whole(members))
    for wrong in (SharedSecret(b"short"), SharedSecret(OLD, (b"short",)), Open()):
        with pytest.raises(BadRequest):
            members[0].transport.renew(wrong)
    assert whole(members)
    assert [event for member in members for event, _ in member.events] == ["up", "up"]
    for member in members:
        await member.transport.aclose()


async def test_members_go_from_one_authority_to_another(tmp_path: Path) -> None:
    authorities = trustme.CA(), trustme.CA()
    where = addresses("n1", "n2")

    def certificates(
        name: str, signer: trustme.CA, trusted: tuple[trustme.CA, ...]
    ) -> Certificates:
        own = signer.issue_cert(name)
        (tmp_path / f"{name}.pem").write_bytes(own.cert_chain_pems[0].bytes())
        (tmp_path / f"{name}.key").write_bytes(own.private_key_pem.bytes())
        ca = tmp_path / f"{name}-ca.pem"
        ca.write_bytes(b"".join(each.cert_pem.bytes() for each in trusted))
        return Certificates(str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.key"), str(ca))

    old, new = authorities
    members = {n: Member(n, where, security=certificates(n, old, (old,))) for n in where}
    for member in members.values():
        await member.transport.start()
    await until(lambda: whole(list(members.values())))
    for signer, trusted in ((old, (old, new)), (new, (old, new)), (new, (new,))):
        for name, member in members.items():
            member.transport.renew(certificates(name, signer, trusted))
    events = [event for member in members.values() for event, _ in member.events]
    assert events == ["up", "up"], "connections stay"
    await members["n2"].transport.aclose()
    again = Member("n2", where, security=certificates("n2", new, (new,)))
    await again.transport.start()
    await until(lambda: again.connected("n1") and members["n1"].connected("n2"))
    for end in (again, members["n1"]):
        await end.transport.aclose()


def test_a_file_of_secrets_has_one_a_line(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)

    def read(content: bytes) -> SharedSecret:
        path.write_bytes(content)
        return read_secret(path)

    assert read(OLD + b"\n") == SharedSecret(OLD)
    assert read(OLD + b"\r\n" + NEW + b"\n").secret == OLD
    both = read(NEW + b"\n" + OLD + b"\n")
    assert both == SharedSecret(NEW, (OLD, NEW + b"\n" + OLD)), "the whole text was one in 0.2.0"
    for wrong in (OLD + b"\n\n" + NEW, OLD + b"\nshort", b"", b"\n".join([OLD] * 5)):
        with pytest.raises(BadRequest):
            read(wrong)


async def test_a_member_of_version_0_2_with_a_secret_of_two_lines_is_reached() -> None:
    """It takes all of its file for one secret, and this version takes that too, as a dialer."""
    where = addresses("n1", "n2")
    text = OLD + b"\n" + NEW
    fresh = Member("n1", where, security=SharedSecret(OLD, (NEW, text)))
    before = Member("n2", where, security=SharedSecret(text))
    for member in (fresh, before):
        await member.transport.start()
    async with asyncio.timeout(20):
        await until(lambda: whole([fresh, before]))
    for member in (fresh, before):
        await member.transport.aclose()
