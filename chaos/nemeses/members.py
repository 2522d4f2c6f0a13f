"""Change the members and the leader, as an operator does."""

from __future__ import annotations

import asyncio
import contextlib
from typing import ClassVar, Final

from typing_extensions import override

from acordo import AcordoError, Client, OutcomeUnknown
from chaos.nemeses.base import Nemesis, some

CALL_TIMEOUT_S: Final = 5.0


class ByApi(Nemesis):
    """A fault made by administrative calls that an operator could make."""

    needs: ClassVar[frozenset[str]] = frozenset({"members"})

    def client(self) -> Client:
        """Return a client for the administrative calls."""
        return Client(list(self.target.looking_urls), timeout_s=CALL_TIMEOUT_S)


class MemberChurn(ByApi):
    """An unreachable member joins as an observer and is removed: two configuration changes."""

    name: ClassVar[str] = "member-churn"

    @override
    async def choose(self) -> tuple[str, ...]:
        return (f"ghost-{self.rng.getrandbits(48):012x}",)

    @override
    async def start(self) -> None:
        async with self.client() as client:
            # Nothing listens at that address: port 9 is discard (RFC 863). If the outcome is
            # unknown, the proof shows whether the member was added.
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
                # Retry until `heal_within_s`: there may be no leader at the moment.
                with contextlib.suppress(AcordoError):
                    there = self.targets[0] in [m.id for m in (await client.cluster()).members]
                    if there:
                        await client.remove_member(self.targets[0])
                await asyncio.sleep(0.1)


class TransferLeader(ByApi):
    """The leader transfers its leadership, as it does before an upgrade."""

    name: ClassVar[str] = "transfer-leader"

    @override
    async def choose(self) -> tuple[str, ...]:
        return await some(self.target, self.rng, "leader")

    @override
    async def start(self) -> None:
        async with self.client() as client:
            with contextlib.suppress(OutcomeUnknown):  # the proof shows whether it happened
                await client.transfer()

    @override
    async def proof(self) -> str | None:
        now = await self.target.leader()
        return f"{self.targets[0]} handed on to {now}" if now not in (None, *self.targets) else None

    async def heal(self) -> None:
        """Do nothing: a transfer breaks nothing."""
