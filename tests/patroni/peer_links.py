"""Stand between the members of a store, so that one of them can be cut off from the others.

Members of etcd have one address for all others, so a proxy in front of a member is dialled by both
of them: who did is found by the process that has the other end of the connection (/proc, Linux).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Self

CHUNK: Final = 1 << 16
ESTABLISHED: Final = "01"


def owner_of(port: int, pids: Mapping[int, int]) -> int | None:
    """Return which of the processes has a connection from this port of 127.0.0.1. `pids`: member by
    process id.
    """
    wanted = f"0100007F:{port:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == wanted and fields[3] == ESTABLISHED:
            socket = f"socket:[{fields[9]}]"
            for pid, member in pids.items():
                with contextlib.suppress(OSError):
                    for held in os.scandir(f"/proc/{pid}/fd"):
                        with contextlib.suppress(OSError):
                            if os.readlink(held.path) == socket:
                                return member
    return None


class PeerLinks:
    """The ways between members: `ports[n]` is where the others dial member n.

    What a cut swallows is never delivered: the connection is closed when it is healed.
    """

    def __init__(self, targets: list[int], pids: Callable[[], Mapping[int, int]]) -> None:
        self._targets, self._pids = targets, pids
        self._servers: list[asyncio.Server] = []
        self._open: dict[asyncio.StreamWriter, tuple[int, int | None]] = {}
        """By each end of a connection: the member that is dialled, and who dialled it."""
        self.alone: int | None = None
        """The member that is cut off."""
        self.swallowed = 0
        """Bytes that a cut has swallowed."""

    async def __aenter__(self) -> Self:
        for target in range(len(self._targets)):

            async def accept(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int = target
            ) -> None:
                await self._carry(target, reader, writer)

            self._servers.append(await asyncio.start_server(accept, "127.0.0.1", 0))
        return self

    async def __aexit__(self, *exc: object) -> None:
        for server in self._servers:
            server.close()
        for writer in list(self._open):
            writer.transport.abort()

    @property
    def ports(self) -> list[int]:
        """Return where each member is dialled."""
        return [server.sockets[0].getsockname()[1] for server in self._servers]

    def cut_off(self, member: int) -> None:
        """Let this member and the others hear nothing of each other."""
        self.alone = member

    def heal(self) -> None:
        """Let all hear each other again."""
        cut = [writer for writer, ends in self._open.items() if self.alone in ends]
        self.alone = None
        for writer in cut:
            writer.transport.abort()

    async def _carry(
        self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        port = writer.get_extra_info("peername")[1]
        ends = (target, owner_of(port, self._pids()))
        self._open[writer] = ends
        there: asyncio.StreamWriter | None = None
        try:
            answers, there = await asyncio.open_connection("127.0.0.1", self._targets[target])
            self._open[there] = ends
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, there, ends))
                group.create_task(self._pump(answers, writer, ends))
        except* OSError:
            pass  # the member is not there, or went
        finally:
            for end in (writer, there):
                if end is not None:
                    self._open.pop(end, None)
                    end.close()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ends: tuple[int, int | None],
    ) -> None:
        while chunk := await reader.read(CHUNK):
            if self.alone in ends and self.alone is not None:
                self.swallowed += len(chunk)
                continue
            writer.write(chunk)
            await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()
