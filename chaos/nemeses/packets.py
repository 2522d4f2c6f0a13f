"""Drop packets in the kernel, where nftables can be used."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import ClassVar, Final, Protocol, runtime_checkable

from typing_extensions import override

from chaos.nemeses.base import Nemesis, some

NFT_TIMEOUT_S: Final = 10.0


@runtime_checkable
class RaftPorts(Protocol):
    """A target whose packets between nodes can be recognised by their ports."""

    def raft_ports(self, node: str) -> tuple[int, ...]:
        """Return every port used by packets between this node and its peers."""
        ...


class NftFailed(Exception):
    """The kernel's packet filter was not changed as requested."""


class DropPackets(Nemesis):
    """The kernel drops every packet between one node and its peers (nftables), like a pulled cable.

    Unlike a cut in the proxies this closes no connection: TCP sends the data again, and it arrives
    late.
    """

    name: ClassVar[str] = "drop-packets"
    needs: ClassVar[frozenset[str]] = frozenset({"raft-ports"})

    @override
    def missing(self) -> str | None:
        return super().missing() or nft_missing()

    @override
    async def choose(self) -> tuple[str, ...]:
        return await some(self.target, self.rng, "one")

    @property
    def table(self) -> str:
        """Return the name of the table with our rules.

        Each process has its own, so that runs never share one.
        """
        return f"acordo_chaos_{os.getpid()}"

    @override
    async def start(self) -> None:
        assert isinstance(self.target, RaftPorts)
        dropped = ", ".join(str(p) for p in self.target.raft_ports(self.targets[0]))
        rules = (
            f"table inet {self.table} {{\n counter towards {{\n }}\n counter back {{\n }}\n"
            f" chain out {{\n"
            f"  type filter hook output priority 0;\n"
            f"  oif lo tcp dport {{ {dropped} }} counter name towards drop\n"
            f"  oif lo tcp sport {{ {dropped} }} counter name back drop\n }}\n}}\n"
        )
        await asyncio.to_thread(_nft, "-f", "-", text=rules)

    async def proof(self) -> str | None:
        """Prove that packets were dropped.

        Dropped packets towards the ports are enough, because then there are no answers to drop.
        """
        towards, back = [
            await asyncio.to_thread(self._packets, counter) for counter in ("towards", "back")
        ]
        return f"dropped {towards + back} packets of {self.targets[0]}" if towards else None

    def _packets(self, counter: str) -> int:
        if not self._there():
            return 0
        return int(
            _nft("list", "counter", "inet", self.table, counter).partition("packets")[2].split()[0]
        )

    async def heal(self) -> None:
        """Stop dropping packets. Raises NftFailed if packets may still be dropped."""
        if await asyncio.to_thread(self._there):
            await asyncio.to_thread(_nft, "delete", "table", "inet", self.table)

    def _there(self) -> bool:
        return self.table in _nft("list", "tables", "inet").split()


def _nft(*words: str, text: str | None = None) -> str:
    """Run nft and return its output. Raises NftFailed."""
    try:
        done = subprocess.run(
            ["nft", *words],
            input=text,
            capture_output=True,
            text=True,
            timeout=NFT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise NftFailed(f"nft {' '.join(words)}: {exc}") from exc
    if done.returncode:
        raise NftFailed(f"nft {' '.join(words)}: {' '.join(done.stderr.split()) or 'refused'}")
    return done.stdout


def nft_missing() -> str | None:
    """Return why packets cannot be dropped here; None if they can.

    It tries to add and delete an empty table.
    """
    name = f"acordo_probe_{os.getpid()}"
    try:
        _nft("add", "table", "inet", name)
        _nft("delete", "table", "inet", name)
    except NftFailed as exc:
        return f"nftables cannot be used: {exc}"
    return None
