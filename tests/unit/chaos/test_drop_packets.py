"""Packets that the kernel drops really do not arrive, come late once it heals, and no rule stays
behind unseen.
"""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path
from random import Random

import pytest

from chaos.nemeses import packets
from chaos.nemeses.base import inflict
from chaos.nemeses.packets import DropPackets, NftFailed
from chaos.records.recorder import Recorder
from chaos.targets.local import LocalTarget
from chaos.targets.proxy import Mesh
from chaos.waiting import until
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings
from tests.services import needs


@pytest.fixture(autouse=True)
def nftables() -> None:
    """Bring the program; what then still fails is the kernel's or the user's, and no installation
    cures it.
    """
    needs("nftables")
    if why := packets.nft_missing():
        pytest.skip(why)


class OnePort:
    """A target of one node, which is a port of this process."""

    nodes = ("n1",)
    abilities = frozenset({"raft-ports"})

    def __init__(self, port: int) -> None:
        self.mesh, self.port = Mesh(Random(1)), port

    def raft_ports(self, node: str) -> tuple[int, ...]:
        return (self.port,)

    async def leader(self) -> str:
        return "n1"


async def test_an_open_connection_carries_nothing_and_goes_on_afterwards() -> None:
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(64):
            heard.append(data)
        writer.close()

    async def arrived(data: bytes, within_s: float) -> bool:
        async def there() -> bool:
            return data in b"".join(heard)

        return await until(there, within_s)

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    nemesis = DropPackets(OnePort(port), Random(1))  # type: ignore[arg-type]  # what it needs of a target
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"before")
        assert await arrived(b"before", 10)
        nemesis.targets = await nemesis.choose()
        await nemesis.start()
        assert await nemesis.proof() is None, "nothing was sent yet"
        writer.write(b"meanwhile")
        assert not await arrived(b"meanwhile", 0.5)
        assert (await nemesis.proof() or "").startswith("dropped ")
        await nemesis.heal()
        assert await arrived(b"meanwhile", 20)
    finally:
        await nemesis.heal()
        writer.close()
        server.close()
    assert not nemesis._there()


async def test_rules_that_are_refused_or_stay_are_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    nemesis = DropPackets(OnePort(1), Random(1))  # type: ignore[arg-type]
    nemesis.targets = ("n1",)
    await nemesis.start()
    try:
        strange = DropPackets(OnePort(1 << 20), Random(1))  # type: ignore[arg-type]
        strange.targets = ("n1",)
        with pytest.raises(NftFailed, match="nft -f -"):
            await strange.start()
        run = subprocess.run

        def refuse(command: list[str], **how: object) -> object:
            return run(["false"] if command[1] == "delete" else command, **how)  # type: ignore[call-overload]

        with monkeypatch.context() as patched:
            patched.setattr(subprocess, "run", refuse)
            with pytest.raises(NftFailed, match="refused"):
                await nemesis.heal()
    finally:
        await nemesis.heal()


async def test_a_leader_of_a_real_cluster_loses_its_peers_and_another_leads(tmp_path: Path) -> None:
    settings = RunnerSettings(nodes=3, base_port=free_base_port(3, 16400), data=tmp_path / "data")
    async with LocalTarget(settings, Random(1)) as target:
        assert await target.healthy()
        old = await target.leader()

        class Leader(DropPackets):
            async def choose(self) -> tuple[str, ...]:
                assert old is not None
                return (old,)

            async def hold(self, seconds: float) -> None:
                async def another_leads() -> bool:
                    return await target.leader() not in (None, old)

                assert await until(another_leads, 30)

        with Recorder(tmp_path / "history.jsonl") as recorder:
            result = await inflict(Leader(target, Random(1)), recorder, 1)
        assert result.error is None and result.proof
        assert await target.healthy(), "it finds its peers again"
