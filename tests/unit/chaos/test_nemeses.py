"""Each nemesis bites on a target that can be hurt, does not when replaced by a no-op, and always
heals.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace

import pytest

from chaos.nemeses import base, links, members, packets, processes
from chaos.nemeses.base import Nemesis, inflict
from chaos.nemeses.catalogue import FAMILIES, NEMESES, expand
from chaos.records.intervals import fault_windows
from chaos.records.recorder import Recorder
from chaos.records.saved import load_history
from chaos.targets import memberdisk
from chaos.targets.memberdisk import MemberDisk
from chaos.targets.proxy import Link, Mesh
from chaos.targets.services import KINDS
from tests.services import needs

LISTEN = """
import os, socket, sys, tempfile
log = tempfile.TemporaryFile(buffering=0)
store = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT | os.O_APPEND)
wal = os.open(sys.argv[2] + "-wal", os.O_RDWR | os.O_CREAT | os.O_APPEND)
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(server.getsockname()[1], flush=True)
while True:
    connection, _ = server.accept()
    data = connection.recv(64)
    log.write(b"a line per request, as a node logs")
    try:
        os.fsync(store)
        os.write(store, b"some pages that nobody has synced yet")
        os.write(wal, b"a frame")
    except OSError:
        pass
    if data:
        connection.sendall(data)
    connection.close()
"""


@functools.cache
def _library() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="acordo-library-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return memberdisk.build(folder)


class FakeServices:
    """Back ends that are the first node's process, behind the link of its clients."""

    def __init__(self, target: Fake) -> None:
        self.target = target

    @property
    def links(self) -> dict[str, Link]:
        return dict.fromkeys(KINDS, self.target.mesh.clients["n1"])

    def pid(self, name: str) -> int | None:
        return self.target.pid("n1")

    async def ready(self, name: str) -> bool:
        return await self.target.answers("n1")

    async def kill(self, name: str) -> None:
        await self.target.kill("n1")

    wipe = kill

    async def start(self, name: str) -> None:
        self.target.start("n1")

    def pause(self, name: str) -> None:
        self.target.pause("n1")

    def resume(self, name: str) -> None:
        self.target.resume("n1")


class FakeApi:
    """The client's calls about members, answered by the fake."""

    def __init__(self, target: Fake) -> None:
        self.target = target

    async def __aenter__(self) -> FakeApi:
        return self

    async def __aexit__(self, *exc: object) -> None: ...

    async def cluster(self) -> SimpleNamespace:
        return SimpleNamespace(members=[SimpleNamespace(id=m) for m in self.target.members])

    async def add_member(self, member: str, **more: object) -> None:
        self.target.members.append(member)

    async def remove_member(self, member: str) -> None:
        self.target.members.remove(member)

    async def transfer(self) -> str:
        self.target.led_by = "n2"
        return "n2"


class Fake:
    """Real processes that echo, and a mesh through which they are made to talk; no cluster."""

    nodes: tuple[str, ...] = ("n1", "n2", "n3")
    abilities = frozenset(
        {
            "processes",
            "links",
            "files",
            "clocks",
            "disks",
            "members",
            "raft-ports",
            "store-files",
            "own-stores",
            "member-disks",
            "replacements",
            *KINDS,
        }
    )

    def __init__(self, mesh: Mesh, data: Path | None = None) -> None:
        self.mesh, self.data = mesh, data or Path()
        self.clocks: dict[str, float] = {}
        self.sync_s: dict[str, float] = {}
        self.members = ["n1", "n2", "n3"]
        self.replaced: list[str] = []
        self.led_by = "n1"
        self.services = FakeServices(self)
        self.disks: dict[str, MemberDisk] = {}
        if data is not None and memberdisk.compiler_missing() is None:
            for node in self.nodes:
                self.disks[node] = MemberDisk(_library(), self.folder(node), data / f"disk-{node}")
        self.children: dict[str, subprocess.Popen[str]] = {}
        self.ports = dict.fromkeys(self.nodes, 0)
        self.urls = self.looking_urls = tuple(self.nodes)

    def start(self, node: str) -> None:
        child = self.children.get(node)
        if child is None or child.poll() is not None:
            store = self.folder(node) / "store.sqlite"
            command = [sys.executable, "-S", "-c", LISTEN, str(self.ports[node]), str(store)]
            environ = os.environ | (self.disks[node].environ if node in self.disks else {})
            child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
            assert child.stdout is not None
            self.ports[node] = int(child.stdout.readline())
            self.children[node] = child

    def pid(self, node: str) -> int | None:
        child = self.children[node]
        return child.pid if child.poll() is None else None

    async def kill(self, node: str) -> None:
        self.children[node].kill()
        await asyncio.to_thread(self.children[node].wait)

    async def stop(self, node: str) -> None:
        self.children[node].terminate()
        await asyncio.to_thread(self.children[node].wait)

    def pause(self, node: str) -> None:
        self.children[node].send_signal(19)

    def resume(self, node: str) -> None:
        if self.pid(node) is not None:
            self.children[node].send_signal(18)

    async def replace(self, node: str) -> str:
        self.replaced.append(node)
        return f"new-{node}"

    async def leader(self) -> str | None:
        return self.led_by

    def folder(self, node: str) -> Path:
        folder = self.data / node
        (folder / "raft").mkdir(parents=True, exist_ok=True)
        (folder / "raft" / "journal.0000000001").touch()
        return folder

    @property
    def store_files(self) -> dict[str, Path]:
        return {n: self.data / f"locked-{n}.sqlite" for n in self.nodes}

    def set_clock(self, node: str, offset_s: float) -> None:
        self.clocks[node] = offset_s

    async def skew_s(self, node: str) -> float | None:
        return self.clocks.get(node, 0.0)

    def set_sync_s(self, node: str, seconds: float) -> None:
        self.sync_s[node] = seconds

    async def unsynced_s(self, node: str) -> float | None:
        return 0.9 * self.sync_s.get(node, 0.01)

    def raft_ports(self, node: str) -> tuple[int, ...]:
        return (self.ports[node],)

    async def answers(self, node: str) -> bool:
        return await self._echo(self.ports[node])

    async def ready(self, node: str) -> bool:
        return await self.answers(node)

    async def healthy(self, within_s: float = 10.0) -> bool:
        return all([await self.answers(n) for n in self.nodes])

    async def _echo(self, port: int) -> bool:
        try:
            async with asyncio.timeout(0.3):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"x")
                try:
                    return await reader.read(1) == b"x"
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False

    async def chatter(self) -> None:
        """Let every link carry something, for ever."""
        while True:
            ports = [link.port for link in (*self.mesh.peers.values(), *self.mesh.clients.values())]
            await asyncio.gather(*(self._echo(port) for port in ports))
            await asyncio.sleep(0.01)


@asynccontextmanager
async def fake(data: Path | None = None) -> AsyncIterator[Fake]:
    async with Mesh(Random(1)) as mesh:
        with tempfile.TemporaryDirectory() as made:
            target = Fake(mesh, data or Path(made))
            chatter: asyncio.Task[None] | None = None
            try:
                for node in target.nodes:
                    target.start(node)
                    await mesh.add_client(node, "127.0.0.1", target.ports[node])
                for a in target.nodes:
                    for b in target.nodes:
                        if a != b:
                            await mesh.add_peer(a, b, "127.0.0.1", target.ports[b])
                chatter = asyncio.create_task(target.chatter())
                yield target
            finally:
                if chatter is not None:
                    chatter.cancel()
                for child in target.children.values():
                    child.kill()
                    child.wait()
                    if child.stdout is not None:
                        child.stdout.close()


def recorder(path: Path) -> Recorder:
    return Recorder(path / "history.jsonl")


@pytest.fixture(autouse=True)
def short_gaps(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (processes, links):
        for name in ("GAP_S", "FLAP_S"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, (0.01, 0.05))


@pytest.fixture(autouse=True)
def members_of_the_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members.ByApi, "client", lambda self: FakeApi(self.target))


def _bring(name: str) -> None:
    """Bring what a nemesis asks the machine for; skip where the kernel or the user does not allow
    it.
    """
    if "member-disks" in NEMESES[name].needs and (why := memberdisk.compiler_missing()):
        pytest.skip(why)
    if name == "drop-packets":
        needs("nftables")
        if why := packets.nft_missing():
            pytest.skip(why)


@pytest.mark.parametrize("name", NEMESES)
async def test_it_bites_is_recorded_and_heals(name: str, tmp_path: Path) -> None:
    _bring(name)
    async with fake(tmp_path) as target:
        with recorder(tmp_path) as written:
            result = await inflict(NEMESES[name](target, Random(3)), written, 0.4)
        assert result.error is None
        assert result.proof, "it must bite"
        async with asyncio.timeout(10):
            while not await target.healthy():
                await asyncio.sleep(0.01)
        assert not any(
            link.up.cut or link.down.cut or link.up.delay_s for link in target.mesh.peers.values()
        )
    (window,) = fault_windows(load_history(tmp_path / "history.jsonl").faults)
    assert window.nemesis == name
    assert window.targets == result.targets
    assert window.bit_ns is not None
    assert window.healed_ns is not None
    assert window.start_ns <= window.bit_ns <= window.healed_ns
    assert window.detail == result.proof


@pytest.mark.parametrize("name", NEMESES)
async def test_replaced_by_a_no_op_it_does_not_bite(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "PROOF_WITHIN_S", 0.2)

    async def nothing(*_: object) -> None:
        return None

    _bring(name)
    async with fake(tmp_path) as target:
        nemesis = NEMESES[name](target, Random(3))
        monkeypatch.setattr(nemesis, "start", nothing)
        monkeypatch.setattr(nemesis, "hold", nothing)
        with recorder(tmp_path) as written:
            result = await inflict(nemesis, written, 0.1)
        assert result.proof is None
        async with asyncio.timeout(10):
            while not await target.healthy():
                await asyncio.sleep(0.01)
    (window,) = fault_windows(load_history(tmp_path / "history.jsonl").faults)
    assert window.bit_ns is None
    assert window.healed_ns is not None


class _Fails(links.Halves):
    healed = False

    async def start(self) -> None:
        await super().start()
        raise RuntimeError("half-way")

    async def heal(self) -> None:
        await super().heal()
        _Fails.healed = True


async def test_it_heals_when_it_fails_and_when_it_is_interrupted(tmp_path: Path) -> None:
    async with fake() as target:
        with recorder(tmp_path) as written:
            result = await inflict(_Fails(target, Random(1)), written, 0.1)
            assert result.proof is None
            assert "half-way" in (result.error or "")
            assert _Fails.healed
            task = asyncio.create_task(inflict(links.Halves(target, Random(1)), written, 60))
            async with asyncio.timeout(10):
                while not any(link.up.cut for link in target.mesh.peers.values()):
                    await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not any(link.up.cut for link in target.mesh.peers.values())
    last = load_history(tmp_path / "history.jsonl").faults[-1]
    assert (last.nemesis, last.phase) == ("partition-halves", "healed")


async def test_without_the_ability_it_is_skipped_by_name(tmp_path: Path) -> None:
    async with fake() as target:
        target.abilities = frozenset()
        with recorder(tmp_path) as written:
            result = await inflict(NEMESES["kill-leader"](target, Random(1)), written, 0.1)
    assert result.skipped == "the target has no processes"
    (fault,) = load_history(tmp_path / "history.jsonl").faults
    assert (fault.nemesis, fault.phase, fault.detail) == (
        "kill-leader",
        "skipped",
        "the target has no processes",
    )


async def test_a_leader_that_is_not_known_yet_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with fake(tmp_path) as target:
        said = iter([None, None])

        async def leader() -> str | None:
            return next(said, "n3")

        monkeypatch.setattr(target, "leader", leader)
        assert {await base.some(target, Random(seed), "leader") for seed in range(5)} == {("n3",)}


async def test_a_staggered_restart_without_its_second_step_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody leads: the leader that was to go as the rest rises did not go."""

    async def nobody() -> None:
        return None

    monkeypatch.setattr(processes, "READY_WITHIN_S", 0.2)
    monkeypatch.setattr(base, "LEADER_WITHIN_S", 0.1)
    async with fake(tmp_path) as target:
        monkeypatch.setattr(target, "leader", nobody)
        with recorder(tmp_path) as written:
            result = await inflict(NEMESES["staggered-restart"](target, Random(3)), written, 0.1)
        assert result.proof is None and "nobody led" in (result.error or "")
        assert await target.healthy()


def test_names_and_families() -> None:
    assert {n for names in FAMILIES.values() for n in names} == set(NEMESES)
    assert expand("kill-all, weather,kill-all") == ["kill-all", *FAMILIES["weather"]]
    assert expand("all") == list(NEMESES)
    with pytest.raises(KeyError, match="nonsense"):
        expand("kill,nonsense")


async def test_shapes_of_partitions() -> None:
    class Five(Fake):
        nodes: tuple[str, ...] = ("n1", "n2", "n3", "n4", "n5")

    target = Five(Mesh(Random(1)))

    async def cuts(kind: type[links.Partition], seed: int) -> set[tuple[str, str]]:
        nemesis: Nemesis = kind(target, Random(seed))
        assert isinstance(nemesis, links.Partition)
        return set(await nemesis.plan())

    for seed in range(10):
        ring = await cuts(links.Ring, seed)
        for node in target.nodes:
            heard = {n for n in target.nodes if (n, node) not in ring}
            assert len(heard) >= 3, "each still hears a majority, itself included"
        assert (
            len(
                {
                    frozenset(n for n in target.nodes if (n, node) not in ring)
                    for node in target.nodes
                }
            )
            == 5
        )
        bridge = await cuts(links.Bridge, seed)
        whole = [n for n in target.nodes if not any(n in pair for pair in bridge)]
        assert len(whole) == 1
        assert whole != ["n1"], "the leader is not the bridge"
        assert {a for a, b in await cuts(links.OneWay, seed)} in ({"n1"}, {"n2", "n3", "n4", "n5"})
        halves = await cuts(links.Halves, seed)
        assert all((b, a) in halves for a, b in halves)
        assert len(halves) == 12
        assert {pair for pair in await cuts(links.IsolateLeader, seed) if "n1" not in pair} == set()
