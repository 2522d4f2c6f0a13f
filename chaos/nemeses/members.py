"""Changes of the members and of who leads, as an operator makes them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import ClassVar, Final

from typing_extensions import override

from acordo import AcordoError, Client, OutcomeUnknown
from chaos.nemeses.base import Nemesis, some

CALL_TIMEOUT_S: Final = 5.0


class ByApi(Nemesis):
    """A fault that an operator could make by the administrative calls."""

    needs: ClassVar[frozenset[str]] = frozenset({"members"})

    def client(self) -> Client:
        """Return a client for the administrative calls."""
        return Client(list(self.target.looking_urls), timeout_s=CALL_TIMEOUT_S)


class MemberChurn(ByApi):
    """A member that nobody reaches joins as an observer and is removed again: two changes of the
    configuration.
    """

    name: ClassVar[str] = "member-churn"

    @override
    async def choose(self) -> tuple[str, ...]:
        return (f"ghost-{self.rng.getrandbits(48):012x}",)

    @override
    async def start(self) -> None:
        async with self.client() as client:
            # Nobody listens there; discard (RFC 863) is its port. An unknown outcome is seen by the
            # proof.
            with contextlib.suppress(OutcomeUnknown):
                await client.add_member(
                    self.targets[0],
                    raft_address="127.0.0.1:9",
                    url="http://127.0.0.1:9",
                    voter=False,
                )

    @override
    async def proof(self) -> str | None:
        async with self.client() as client:
            with contextlib.suppress(AcordoError):
                members = [m.id for m in (await client.cluster()).members]
                return f"members {', '.join(members)}" if self.targets[0] in members else None
        return None

    @override
    async def heal(self) -> None:
        async with self.client() as client:
            there = True
            while there:
                # until the fault's own bound: nobody may lead just now
                with contextlib.suppress(AcordoError):
                    there = self.targets[0] in [m.id for m in (await client.cluster()).members]
                    if there:
                        await client.remove_member(self.targets[0])
                await asyncio.sleep(0.1)


class TransferLeader(ByApi):
    """The leader hands its leadership on, as it does before an upgrade."""

    name: ClassVar[str] = "transfer-leader"

    @override
    async def choose(self) -> tuple[str, ...]:
        return await some(self.target, self.rng, "leader")

    @override
    async def start(self) -> None:
        async with self.client() as client:
            with contextlib.suppress(OutcomeUnknown):  # the proof tells
                await client.transfer()

    @override
    async def proof(self) -> str | None:
        now = await self.target.leader()
        return f"{self.targets[0]} handed on to {now}" if now not in (None, *self.targets) else None

    async def heal(self) -> None:
        """Nothing is broken by it."""
