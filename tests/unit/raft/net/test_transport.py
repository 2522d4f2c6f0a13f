"""Members over loopback sockets, on both event loops: what arrives, what is refused, and what it
costs.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import json
import random
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
import uvloop
from pysyncobj.node import Node

from cluster.ports import free_port
from coordinator.raft.net import connection as connection_module
from coordinator.raft.net.admission import (
    CONNECTIONS_BURST,
    CONNECTIONS_PER_S,
    HOSTS_MAX,
    UNPROVED_MAX,
    Admission,
)
from coordinator.raft.net.connection import (
    JOIN_BYTES_MAX,
    QUEUE_FRAMES_MAX,
    Connection,
    TransportLimits,
)
from coordinator.raft.net.frames import Reply, Session
from coordinator.raft.net.hello import Mode
from coordinator.raft.net.outbound import Outbound
from coordinator.raft.net.peer import Peer
from coordinator.raft.net.security import (
    Certificates,
    Open,
    SharedSecret,
    read_secret,
    split_address,
)
from kv.addresses import is_loopback
from kv.errors import BadRequest
from tests import virtual
from tests.unit.raft.net.members import QUICK, Member, addresses, command, until, vote

SECRET = SharedSecret(b"a secret that all members share")


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def on_loop(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run a test's story on one of the loops, and see that it leaves no task and no complaint
    behind.
    """

    def run(story: Callable[[], Awaitable[None]]) -> None:
        complaints: list[dict[str, Any]] = []

        async def watched() -> None:
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: complaints.append(context)
            )
            await story()
            left = asyncio.all_tasks() - {asyncio.current_task()}
            assert not left, f"tasks left: {left}"
            await asyncio.sleep(0)
            gc.collect()

        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(watched())
        assert not complaints

    return run


@contextlib.asynccontextmanager
async def cluster(*ids: str, **options: Any) -> AsyncIterator[list[Member]]:
    where = addresses(*ids)
    members = [Member(member, where, **options) for member in ids]
    try:
        for member in members:
            await member.transport.start()
        await until(lambda: all(m.connected(o) for m in members for o in ids if o != m.id))
        yield members
    finally:
        for member in members:
            await member.transport.aclose()
            assert not member.fatal


# ------------------------------------------------------------------------------------------ working


@pytest.mark.parametrize("security", [Open(), SECRET], ids=["open", "secret"])
def test_members_find_each_other_and_talk(on_loop: Any, security: Any) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", "n3", security=security) as members:
            for member in members:
                assert sorted(member.events) == [("up", m.id) for m in members if m is not member]
                for other in members:
                    if other is not member:
                        assert member.send(other.id, vote(ord(member.id[1])))
            await until(lambda: all(len(m.received) == 2 for m in members))
            for member in members:
                assert sorted((who, m["term"]) for who, m in member.received) == [
                    (m.id, ord(m.id[1])) for m in members if m is not member
                ]
                assert member.wakes >= 2, "it is told who is connected"
                seen = member.transport.last_seen_s(
                    members[0].nodes["n1" if member.id != "n1" else "n2"]
                )
                assert seen is not None

    on_loop(story)


def test_messages_arrive_in_order_large_and_small(on_loop: Any) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET) as (one, two):
            rng = random.Random(1)
            sent = [
                command(rng.randbytes(rng.choice([0, 10, 300, 70_000, 1_500_000])))
                for _ in range(40)
            ]
            for message in sent:
                assert one.send("n2", message)
                if rng.random() < 0.3:
                    await asyncio.sleep(0)
            await until(lambda: len(two.received) == len(sent))
            assert [message for _, message in two.received] == sent

    on_loop(story)


def test_what_is_sent_in_one_turn_of_the_loop_is_written_at_once(on_loop: Any) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET) as (one, two):
            connection = one.transport._peers["n2"].connection
            assert connection is not None
            assert connection.transport is not None
            writes: list[int] = []
            write = connection.transport.write
            connection.transport = _Counting(connection.transport, writes)  # type: ignore[assignment]
            for term in range(100):
                one.send("n2", vote(term))
            await until(lambda: len(two.received) == 100)
            assert len(writes) == 1
            assert write is not None

    on_loop(story)


class _Counting:
    """A transport that notes the size of each write."""

    def __init__(self, transport: Any, writes: list[int]) -> None:
        self._transport, self._writes = transport, writes

    def write(self, content: bytes) -> None:
        self._writes.append(len(content))
        self._transport.write(content)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def test_one_message_to_many_is_encoded_once() -> None:
    async def story() -> None:
        async with cluster("n1", "n2", "n3") as members:
            encoded: list[Any] = []
            codec = members[0].transport._codec
            encode = codec.encode
            codec.encode = lambda message: encoded.append(message) or encode(message)  # type: ignore[method-assign, func-returns-value]
            message = command(b"x" * 1000)
            assert all(members[0].send(peer, message) for peer in ("n2", "n3"))
            await until(lambda: all(len(member.received) == 1 for member in members[1:]))
            assert len(encoded) == 1

    asyncio.run(story())


def test_members_come_and_go_while_it_runs(on_loop: Any) -> None:
    async def story() -> None:
        where = addresses("n1", "n2", "n3")
        one, two, three = members = [Member(member, where, security=SECRET) for member in where]
        # One knows three, which knows only two yet; two knows nobody but one.
        three.transport.dropNode(three.nodes["n1"])
        two.transport.dropNode(two.nodes["n3"])
        for member in members:
            await member.transport.start()
        await until(lambda: one.connected("n2") and two.connected("n1"))
        await until(lambda: three.transport.counters["refused_not_a_member"] > 1)
        assert one.events == [("up", "n2")], "who was refused never believed that it was connected"
        assert not one.send("n3", vote(1))
        assert three.events == []
        two.transport.addNode(two.nodes["n3"])
        three.transport.addNode(three.nodes["n1"])
        three.transport.addNode(three.nodes["n1"])
        await until(lambda: three.connected("n1") and three.connected("n2") and one.connected("n3"))
        assert one.send("n3", vote(2))
        await until(lambda: len(three.received) == 1)
        one.transport.dropNode(one.nodes["n3"])
        assert ("down", "n3") in one.events
        assert not one.send("n3", vote(3))
        await until(lambda: ("down", "n1") in three.events)
        assert one.connected("n2")
        for member in members:
            await member.transport.aclose()

    on_loop(story)


def test_an_observer_is_told_by_its_own_callbacks() -> None:
    async def story() -> None:
        where = addresses("n1", "n2")
        one, two = Member("n1", where), Member("n2", where)
        one.nodes["n2"].readonly = True  # type: ignore[attr-defined]
        await one.transport.start()
        await two.transport.start()
        await until(lambda: one.connected("n2") and two.connected("n1"))
        await two.transport.aclose()
        await until(lambda: len(one.events) == 2)
        assert one.events == [("observer up", "n2"), ("observer down", "n2")]
        await one.transport.aclose()

    asyncio.run(story())


# ------------------------------------------------------------------------------------- failing well


def test_a_member_that_restarts_is_connected_again_and_clean(on_loop: Any) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET) as (one, two):
            where = {member: node.address for member, node in two.nodes.items()}  # type: ignore[attr-defined]
            lives = [two]
            for _ in range(3):
                lives[-1].send("n1", vote(1))
                await lives[-1].transport.aclose()
                await until(lambda: not one.connected("n2"))
                assert not one.send("n2", vote(7))
                lives.append(Member("n2", where, security=SECRET))
                await lives[-1].transport.start()
                await until(lambda: one.connected("n2") and lives[-1].connected("n1"))
            assert one.events == [("up", "n2"), *[("down", "n2"), ("up", "n2")] * 3]
            assert lives[-1].received == [], "nothing that was queued survives a reconnection"
            await lives[-1].transport.aclose()

    on_loop(story)


def test_a_queue_that_overflows_closes_the_connection_and_drops_no_single_frame(
    on_loop: Any,
) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET) as (one, two):
            count = 0
            while one.send("n2", vote(count)):
                count += 1
                assert count <= QUEUE_FRAMES_MAX, "no await in between: nothing leaves"
            assert count == QUEUE_FRAMES_MAX
            assert one.events[-1] == ("down", "n2")
            assert one.transport.counters["closed_overflow"] == 1
            await until(lambda: one.connected("n2") and two.connected("n1"))
            one.send("n2", vote(count + 1))
            await until(lambda: bool(two.received))
            assert [message["term"] for _, message in two.received] == [count + 1]

    on_loop(story)


def test_a_peer_that_does_not_read_costs_a_bounded_queue() -> None:
    async def story() -> None:
        where = addresses("n1", "n2")
        one = Member("n1", where, limits=TransportLimits(dead_after_s=60, handshake_s=5))
        port = int(where["n2"].rsplit(":", 1)[1])
        stuck: list[asyncio.StreamWriter] = []

        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Shake hands and then never read again."""
            stuck.append(writer)
            session = Session("listener", "test", "n2", bytes(32), mode=Mode.OPEN)
            hello = await reader.read(1000)
            session.get_buffer()[: len(hello)] = hello
            for event in (*session.received(len(hello)), *session.proceed()):
                if isinstance(event, Reply):
                    writer.write(event.content)
            reader._transport.pause_reading()  # type: ignore[attr-defined]  # asyncio has no public way to be deaf

        server = await asyncio.start_server(deaf, "127.0.0.1", port, limit=1 << 10)
        await one.transport.start()
        await until(lambda: one.connected("n2"))
        most = 0
        message = command(b"x" * (1 << 20))
        for _ in range(1000):
            if not one.send("n2", message):
                break
            most = max(most, one.transport.queued_bytes(one.nodes["n2"]))
            await asyncio.sleep(0)
        assert not one.connected("n2")
        assert one.transport.counters["closed_overflow"] == 1
        assert most <= 66 << 20
        await one.transport.aclose()
        for writer in stuck:
            writer.transport.abort()
        server.close()

    asyncio.run(story())


def test_a_silent_peer_is_given_up(on_loop: Any) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET) as (one, two):
            # Two goes silent without closing: nothing of what it writes leaves any more.
            connection = two.transport._peers["n1"].connection
            assert connection is not None
            connection.transport = _Mute(connection.transport)  # type: ignore[assignment]
            await until(lambda: ("down", "n2") in one.events)
            assert one.transport.counters["closed_silent"] == 1
            await until(lambda: one.connected("n2"))

    on_loop(story)


class _Mute(_Counting):
    def __init__(self, transport: Any) -> None:
        super().__init__(transport, [])

    def write(self, content: bytes) -> None:
        """Say nothing."""


def test_an_idle_connection_stays(on_loop: Any) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", "n3", security=SECRET) as members:
            beats = [0] * len(members)

            def beaten() -> bool:
                for position, member in enumerate(members):
                    seen = [
                        member.transport.last_seen_s(node) or 0.0 for node in member.nodes.values()
                    ]
                    beats[position] += max(seen) < QUICK.keepalive_s
                return min(beats) > 300

            await until(beaten)
            assert all(len(member.events) == 2 for member in members)

    on_loop(story)


def test_what_the_core_raises_reaches_who_runs_it() -> None:
    async def story() -> None:
        where = addresses("n1", "n2")
        one, two = Member("n1", where), Member("n2", where)

        def fail(node: Node, message: dict[str, Any]) -> None:
            raise RuntimeError("a bug of the core")

        two.transport.setOnMessageReceivedCallback(fail)
        await one.transport.start()
        await two.transport.start()
        await until(lambda: one.connected("n2"))
        one.send("n2", vote(1))
        await until(lambda: bool(two.fatal))
        assert [str(exc) for exc in two.fatal] == ["a bug of the core"]
        await one.transport.aclose()
        await two.transport.aclose()

    asyncio.run(story())


def test_a_farewell_leaves_before_the_port_closes(on_loop: Any) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET) as (one, two):
            one.send("n2", command(b"x" * 20_000))
            one.send("n2", vote(9))
            await one.transport.aclose()
            await until(lambda: len(two.received) == 2)
            assert two.received[-1] == ("n1", vote(9))

    on_loop(story)


def test_a_reconnection_is_spread_by_the_given_rng_alone() -> None:
    async def story() -> None:
        times: list[float] = []
        loop = asyncio.get_running_loop()

        async def unreachable(factory: object, host: str, port: int) -> Any:
            times.append(loop.time())
            raise ConnectionRefusedError

        def connection(peer: str) -> Connection:
            session = Session("dialer", "test", "n1", bytes(32), mode=Mode.OPEN, expect=peer)
            return Connection(cast(Any, _Deaf()), session, dialer=True)

        outbound = Outbound(
            "n1",
            unreachable,
            connection,
            limits=QUICK,
            rng=random.Random("n1"),
            routes={},
            counters=Counter(),
            on_refused=lambda peer, said: None,
            on_task_done=lambda task: None,
        )
        peer = Peer(Node("n2", address="10.0.0.2:1"))
        outbound.reach(peer)
        await asyncio.sleep(3)
        assert peer.dialling is not None
        peer.dialling.cancel()
        pauses = [after - before for before, after in itertools.pairwise(times)]
        assert all(QUICK.retry_s / 2 <= pause <= QUICK.retry_max_s for pause in pauses)
        assert len({round(pause, 6) for pause in pauses}) > len(pauses) // 2
        assert max(pauses[:2]) < max(pauses)

    virtual.run(story)


class _Deaf:
    """An owner of connections that listens to none of them."""

    def on_closed(self, connection: Connection, reason: str) -> None: ...


# ------------------------------------------------------------------------------------------ refused


def test_without_proof_only_loopback_is_bound() -> None:
    async def story() -> None:
        for address in ("0.0.0.0:0", "192.0.2.1:9", "[::]:0", "example.org:1"):
            member = Member("n1", {"n1": address}, security=Open())
            with pytest.raises(BadRequest, match="nothing that proves who connects") as caught:
                await member.transport.start()
            assert caught.value.code == "raft_unprotected"
        member = Member("n1", {"n1": "0.0.0.0:0"}, security=SECRET)
        await member.transport.start()
        assert member.transport.port > 0
        await member.transport.aclose()

    asyncio.run(story())


def test_what_an_operator_must_mend_is_named(tmp_path: Path) -> None:
    async def story() -> None:
        where = addresses("n1")
        first, second = Member("n1", where), Member("n1", where)
        await first.transport.start()
        with pytest.raises(BadRequest, match="cannot listen") as caught:
            await second.transport.start()
        assert caught.value.code == "port_in_use"
        await first.transport.aclose()
        for security, code in (
            (SharedSecret(b"short"), "secret_too_short"),
            (Certificates("/nowhere/cert", "/nowhere/key", "/nowhere/ca"), "certificates_unusable"),
        ):
            with pytest.raises(BadRequest) as caught:
                await Member("n1", where, security=security).transport.start()
            assert caught.value.code == code
        for address in ("nowhere", "host:port", ":1", "h:70000"):
            with pytest.raises(BadRequest, match="is no address"):
                split_address(address)

    asyncio.run(story())
    path = tmp_path / "secret"
    with pytest.raises(BadRequest, match="No such file"):
        read_secret(path)
    path.write_bytes(b"0123456789abcdef\n")
    path.chmod(0o644)
    with pytest.raises(BadRequest, match="can be read by others"):
        read_secret(path)
    path.chmod(0o600)
    assert read_secret(path) == SharedSecret(b"0123456789abcdef")
    assert "0123" not in repr(read_secret(path))
    path.write_bytes(b"short")
    with pytest.raises(BadRequest, match="at least 16"):
        read_secret(path)
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "10.0.0.1", "x")] == [
        True
    ] * 3 + [False] * 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"security": SharedSecret(b"another secret than the others")}, "bad_proof"),
        ({"security": Open()}, "mode"),
        ({"cluster": "other"}, "foreign_cluster"),
    ],
)
def test_a_member_of_something_else_is_refused_by_name(
    on_loop: Any, options: dict[str, Any], reason: str
) -> None:
    async def story() -> None:
        async with cluster("n1", "n3", security=SECRET) as (one, three):
            where = {"n2": f"127.0.0.1:{free_port()}"}
            for m in (one, three):
                where[m.id] = m.nodes[m.id].address  # type: ignore[attr-defined]
            for member in (one, three):
                member.transport.addNode(Node("n2", address=where["n2"]))
            outsider = Member("n2", where, **({"security": SECRET} | options))
            await outsider.transport.start()
            # It dials n3, and n1 dials it: both sides of the handshake are tried. Whoever sees it
            # first names it.
            for pair in ((one, outsider), (outsider, three)):

                def refused(pair: tuple[Member, Member] = pair) -> bool:
                    return sum(m.transport.counters[f"refused_{reason}"] for m in pair) > 2

                await until(refused)
            assert outsider.events == []
            assert all(member.events == [("up", o)] for member, o in ((one, "n3"), (three, "n1")))
            await outsider.transport.aclose()

    on_loop(story)


async def _connect(port: int, content: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(content)
    return reader, writer


def test_garbage_is_closed_at_once_and_said_once(
    on_loop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET) as (one, two):
            rng = random.Random(1)
            for _ in range(30):
                reader, writer = await _connect(one.transport.port, rng.randbytes(5000))
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b"", "an unknown peer hears nothing"
                writer.close()
            await until(lambda: one.transport.counters["refused_not_ours"] == 30)
            assert one.transport.unproved == 0
            one.send("n2", vote(1))
            await until(lambda: len(two.received) == 1)
            assert one.events == [("up", "n2")]

    on_loop(story)
    said = [line for line in capsys.readouterr().out.splitlines() if "not_ours" in line]
    assert len(said) == 1


def _stop_the_clock_of_admission(member: Any) -> None:
    """Let no time pass between connections: on a busy machine a flood may come more slowly than
    is allowed.
    """
    admit, at = member.transport._inbound.admission.admit, asyncio.get_running_loop().time()
    member.transport._inbound.admission.admit = lambda peer, host, now_s: admit(peer, host, at)


def test_a_flood_costs_a_bounded_number_of_small_buffers(on_loop: Any) -> None:
    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET, limits=TransportLimits(handshake_s=30)) as (
            one,
            two,
        ):
            sockets = []
            most = 0
            _stop_the_clock_of_admission(one)
            for number in range(int(CONNECTIONS_BURST) + 60):
                with contextlib.suppress(OSError):
                    sockets.append(await _connect(one.transport.port, b"ACRF\x01\x01"))
                most = max(most, one.transport.unproved)
                if number % 20 == 0:
                    one.send("n2", vote(number))
            await until(lambda: one.transport.counters["accepted"] >= int(CONNECTIONS_BURST) + 60)
            assert most <= UNPROVED_MAX
            assert one.transport.unproved <= UNPROVED_MAX
            assert one.transport.counters["refused_too_often"] > 0
            assert one.transport.counters["closed_crowded"] > 0
            await until(lambda: len(two.received) == 8)
            assert one.events == [("up", "n2")]
            for _, writer in sockets:
                writer.transport.abort()

    on_loop(story)


def test_a_slow_unproved_peer_is_put_out(on_loop: Any) -> None:
    async def story() -> None:
        async with cluster(
            "n1", "n2", security=SECRET, limits=TransportLimits(handshake_s=0.1)
        ) as (one, _):
            reader, writer = await _connect(one.transport.port, b"")
            hello = b"ACRF\x01\x01\x04\x02" + bytes(32) + b"testn0"
            with contextlib.suppress(ConnectionError):
                for byte in hello:
                    writer.write(bytes([byte]))
                    if await _eof(reader) == b"":
                        break
            await until(lambda: one.transport.counters["refused_handshake_timeout"] == 1)
            assert one.transport.unproved == 0
            writer.close()

    on_loop(story)


async def _eof(reader: asyncio.StreamReader) -> bytes | None:
    try:
        async with asyncio.timeout(0.01):
            return await reader.read(1)
    except TimeoutError:
        return None


def test_a_member_that_sends_what_is_no_message_is_cut_off() -> None:
    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET) as (one, two):
            connection = one.transport._peers["n2"].connection
            assert connection is not None
            connection.send(json.dumps({"type": "shutdown"}).encode())
            await until(lambda: two.transport.counters["refused_undecodable"] == 1)
            await until(lambda: ("down", "n1") in two.events)
            assert two.received == []
            await until(lambda: one.connected("n2"))

    asyncio.run(story())


def test_regression_the_stock_transport_runs_an_unknown_peers_code_and_buffers_its_flood(
    tmp_path: Path,
) -> None:
    """HAZ-14: one unauthenticated connection makes the stock receiver execute a pickle; ours
    closes it.
    """
    import pickle
    import struct
    import zlib

    from pysyncobj.poller import createPoller  # type: ignore[import-untyped]  # used only to show what it does
    from pysyncobj.tcp_connection import TcpConnection  # type: ignore[import-untyped]

    proof = tmp_path / "executed"

    class Exploit:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(proof), "w"))

    packed = zlib.compress(pickle.dumps(Exploit()))
    attack = struct.pack("i", len(packed)) + packed
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    poller = createPoller("auto")
    stock = TcpConnection(
        poller,
        socket=ours,
        timeout=10,
        sendBufferSize=1 << 16,
        recvBufferSize=1 << 16,
        keepalive=None,
    )
    stock.setOnMessageReceivedCallback(lambda message: None)
    theirs.sendall(attack)
    poller.poll(1)
    assert proof.exists(), "the stock transport has run it"
    proof.unlink()
    theirs.close()
    stock.disconnect()

    async def story() -> None:
        async with cluster("n1", "n2", security=SECRET) as (one, _):
            reader, writer = await _connect(one.transport.port, attack)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            assert one.transport.counters["refused_not_ours"] == 1
            assert one.received == []
            # The same from a member that has proved itself: decoded by the allow-list, so it is no
            # message.
            connection = one.transport._peers["n2"].connection
            assert connection is not None
            connection.send(attack)

    asyncio.run(story())
    assert not proof.exists()


# ---------------------------------------------------------------------------------------------- TLS


class Authority:
    """A test's own certificate authority."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self._directory, self._ca = directory, trustme.CA()
        self._ca.cert_pem.write_to_path(str(directory / "ca.pem"))

    def certificates(self, name: str, ca: Authority | None = None) -> Certificates:
        leaf = self._ca.issue_cert(name)
        cert, key = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        leaf.private_key_pem.write_to_path(str(key))
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        return Certificates(str(cert), str(key), str((ca or self)._directory / "ca.pem"))


def test_members_with_certificates(on_loop: Any, tmp_path: Path) -> None:
    async def story() -> None:
        authority, where = Authority(tmp_path), addresses("n1", "n2", "n3")
        members = [Member(m, where, security=authority.certificates(m)) for m in where]
        for member in members:
            await member.transport.start()
        await until(lambda: all(m.connected(o) for m in members for o in where if o != m.id))
        sent = [command(b"x" * size) for size in (0, 5, 100_000, 2_000_000)]
        for message in sent:
            members[0].send("n3", message)
            members[2].send("n1", message)
        await until(lambda: len(members[0].received) == len(members[2].received) == len(sent))
        assert [message for _, message in members[2].received] == sent
        # Silent peers, and those that speak no TLS.
        for content in (b"", b"GET / HTTP/1.1\r\n\r\n", b"ACRF\x01\x02"):
            reader, writer = await _connect(members[0].transport.port, content)
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        await until(lambda: members[0].transport.unproved == 0)
        assert not members[0].transport._inbound.handshakes
        assert all(len(member.events) == 2 for member in members)
        for member in members:
            await member.transport.aclose()
            assert not member.fatal

    on_loop(story)


@pytest.mark.parametrize("case", ["another member's name", "another authority", "no certificate"])
def test_a_certificate_must_be_of_the_members_own(on_loop: Any, tmp_path: Path, case: str) -> None:
    async def story() -> None:
        authority, rogue = Authority(tmp_path / "ca"), Authority(tmp_path / "rogue")
        where = addresses("n1", "n2")
        two = Member("n2", where, security=authority.certificates("n2"))
        await two.transport.start()
        if case == "no certificate":
            context = ssl.create_default_context(cafile=str(tmp_path / "ca" / "ca.pem"))
            context.check_hostname = False
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(
                    "127.0.0.1", two.transport.port, ssl=context
                )
                await reader.read()
                writer.close()
            await until(lambda: two.transport.counters["refused_tls"] > 0)
        else:
            fake = (
                authority.certificates("n3")
                if "name" in case
                else rogue.certificates("n1", authority)
            )
            one = Member("n1", where, security=fake)
            await one.transport.start()
            reason = "wrong_certificate" if "name" in case else "tls"
            await until(lambda: two.transport.counters[f"refused_{reason}"] > 2)
            assert one.events == []
            await one.transport.aclose()
        assert two.events == []
        # The last attempt may only just have lost its connection.
        await until(lambda: two.transport.unproved == 0)
        await two.transport.aclose()

    on_loop(story)


# ---------------------------------------------------------------------------------------- admission


def test_admission_bounds_unproved_peers_and_forgives_with_time() -> None:
    admission: Admission[int] = Admission()
    for number in range(UNPROVED_MAX):
        assert admission.admit(number, f"host{number}", 0.0) is None
    assert admission.admit(1000, "host", 0.0) == 0, "the oldest goes"
    admission.leave(1)
    assert admission.admit(1001, "host", 0.0) is None
    assert admission.unproved == UNPROVED_MAX
    calls = [admission.admit(2000 + n, "flood", 10.0) for n in range(int(CONNECTIONS_BURST) + 5)]
    assert calls.count("too_often") == 5
    assert admission.admit(3000, "other", 10.0) != "too_often", "one host's flood is not another's"
    assert admission.admit(3001, "flood", 10.0 + 2 / CONNECTIONS_PER_S) != "too_often"
    for number in range(HOSTS_MAX * 2):
        admission.admit(4000 + number, f"spoofed{number}", 20.0)
    assert len(admission._hosts) <= HOSTS_MAX


def test_a_queue_that_never_empties_is_bounded_by_what_waits_in_it(
    on_loop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer that always has something to take, and takes it, is no reason to close."""
    monkeypatch.setattr(connection_module, "QUEUE_FRAMES_MAX", 4)

    class Slow:
        """Takes one write, then no more until it is told to go on."""

        owner: Connection

        def get_write_buffer_size(self) -> int:
            return 0

        def write(self, content: bytes) -> None:
            written.append(content)
            self.owner.pause_writing()

        def abort(self) -> None: ...

    class Ready:
        ready = True

        def frame(self, content: bytes) -> tuple[bytes, ...]:
            return (content,)

    class Owner:
        def on_closed(self, connection: Connection, reason: str) -> None: ...

    written: list[bytes] = []

    async def story() -> None:
        one = Connection(cast(Any, Owner()), cast(Any, Ready()), dialer=True)
        slow = Slow()
        slow.owner, one.transport = one, cast(Any, slow)
        one.send(bytes(JOIN_BYTES_MAX))
        for _ in range(20):
            assert one.send(bytes(JOIN_BYTES_MAX)), "closed with one frame waiting"
            await asyncio.sleep(0)
            one.resume_writing()
        assert len(written) >= 19
        one.close("done")

    on_loop(story)
