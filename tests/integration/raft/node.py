"""One member as a process: `python -m tests.integration.raft.node ID DIR FSYNC SYNC_S
ID=ADDRESS...`; lines in and out.

FSYNC is the policy; each sync of its disk takes SYNC_S seconds longer than it does. `propose TEXT`
-> `ok INDEX TERM` | `not_applied REASON` | `unknown`; `read`; `status`; `tape`; `transfer ID`.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from coordinator.log import PeerAddress
from coordinator.raft.member import Member, Settings
from coordinator.raft.net.security import SharedSecret
from coordinator.raft.sockets import over_sockets
from coordinator.raft.storage.real_disk import RealDisk
from kv.errors import NotApplied, OutcomeUnknown
from tests.unit.raft.cluster import RealClock, Tape

SECRET = SharedSecret(b"a secret that only this test knows, 32 bytes or more")


class Opened(Tape):
    """A replica that lets reads be answered as soon as it leads."""

    member: Member

    def led(self, term: int) -> None:
        super().led(term)
        self.member.open_reads(term)


def make(
    name: str, folder: str, fsync: Any, members: list[PeerAddress], **more: Any
) -> tuple[Member, Opened]:
    rng, tape = random.Random(), Opened()
    own = next(m for m in members if m.id == name)

    def stop(exc: BaseException) -> None:
        sys.stderr.write(f"fatal: {exc!r}\n")
        os._exit(70)

    member = Member(
        name,
        members,
        cluster="test",
        replica=tape,
        disk=RealDisk(folder),
        transport=over_sockets("test", own.address, SECRET, rng=rng, entropy=os.urandom),
        clock=RealClock(),
        rng=rng,
        on_fatal=stop,
        settings=Settings(fsync=fsync, **more),
    )
    tape.member = member
    return member, tape


async def answer(member: Member, tape: Tape, line: str) -> str:
    verb, _, rest = line.partition(" ")
    try:
        match verb:
            case "propose":
                position = await member.propose(rest.encode())
                return f"ok {position.index} {position.term}"
            case "read":
                position = await member.read_index(timeout_s=2)
                await member.wait_applied(position, timeout_s=2)
                return f"ok {position.index} {position.term}"
            case "transfer":
                return "ok " + await member.transfer(rest or None, timeout_s=5)
            case "tape":
                return "ok " + " ".join(command.decode() for command in tape.commands)
            case _:
                return "ok " + msgspec.json.encode(member.status()).decode()
    except NotApplied as exc:
        return f"not_applied {exc.reason}"
    except (OutcomeUnknown, TimeoutError):
        return "unknown"


def slow(sync: Callable[[Any], None], longer_s: float) -> Callable[[Any], None]:
    """Return a sync that takes so much longer, in the thread that calls it."""

    def slowly(fd: Any) -> None:
        time.sleep(longer_s)
        sync(fd)

    return slowly


async def main(name: str, folder: str, fsync: str, sync_s: str, *members: str) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    peers = [
        PeerAddress(id, address) for id, _, address in (member.partition("=") for member in members)
    ]
    if float(sync_s):
        for sync in ("fsync", "fdatasync"):
            setattr(os, sync, slow(getattr(os, sync), float(sync_s)))
    member, tape = make(name, folder, fsync, peers)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async with member:
        print("ready", flush=True)
        while line := await reader.readline():
            print(await answer(member, tape, line.decode().rstrip("\n")), flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
