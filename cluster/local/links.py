"""Relay the members' connections to each other, so that a member can be cut off from the others.

It passes bytes on as they are. It never loses some of a stream and goes on: what was cut waits, as
it does behind a network that lost its packets, and connections end with either side.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Final, Self

from cluster.settings.values import MemberSetting

CHUNK_BYTES: Final = 64 * 1024
HOST: Final = "127.0.0.1"
DIAL_S: Final = 3.0
"""How long a new connection waits behind a cut link. A member dials again and again meanwhile, and
nobody would notice here which of its attempts it has given up.
"""


class Links:
    """Relays for every ordered pair of members. Used as an async context manager."""

    def __init__(self, members: Iterable[MemberSetting]) -> None:
        self._members = tuple(members)
        self._servers: dict[tuple[str, str], asyncio.Server] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.cut: set[str] = set()
        self._healed = asyncio.Event()

    async def __aenter__(self) -> Self:
        for sender in self._members:
            for receiver in self._members:
                if sender.id != receiver.id:
                    await self._listen(sender, receiver)
        return self

    async def __aexit__(self, *exc: object) -> None:
        for server in self._servers.values():
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _listen(self, sender: MemberSetting, receiver: MemberSetting) -> None:
        ends = frozenset((sender.id, receiver.id))
        host, _, port = receiver.raft_address.rpartition(":")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                await self._relay(reader, writer, host, int(port), ends)
            finally:
                writer.close()
                self._tasks.discard(task)

        server = await asyncio.start_server(serve, HOST, 0)
        self._servers[sender.id, receiver.id] = server

    async def _relay(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        host: str,
        port: int,
        ends: frozenset[str],
    ) -> None:
        """Connect to the receiver once the link is not cut, and pass on until either side ends."""
        with contextlib.suppress(OSError):
            async with asyncio.timeout(DIAL_S):
                await self._until_whole(ends)
            there, back = await asyncio.open_connection(host, port)
            pumps = [
                asyncio.ensure_future(self._pump(reader, back, ends)),
                asyncio.ensure_future(self._pump(there, writer, ends)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
                back.close()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ends: frozenset[str]
    ) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._until_whole(ends)
            writer.write(chunk)
            await writer.drain()

    async def _until_whole(self, ends: frozenset[str]) -> None:
        while not self.cut.isdisjoint(ends):
            await self._healed.wait()

    def routes_of(self, member: str) -> str:
        """Return where a member dials the others, as the setting `raft_routes` has it."""
        return ",".join(
            f"{receiver}={HOST}:{server.sockets[0].getsockname()[1]}"
            for (sender, receiver), server in self._servers.items()
            if sender == member
        )

    def lead_to(self, member: str) -> bool:
        """Say whether what a member says goes through here; not that of one that came later."""
        return any(member in ends for ends in self._servers)

    def cut_off(self, member: str) -> None:
        """Let nothing pass between a member and the others."""
        self.cut.add(member)

    def heal(self, member: str) -> None:
        """Let all pass again."""
        self.cut.discard(member)
        waiting, self._healed = self._healed, asyncio.Event()
        waiting.set()
