"""Move money between accounts; the total over all accounts never changes. Checked by `bank`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, ClassVar, Final

from typing_extensions import override

import acordo
from acordo import AcordoError
from chaos.workloads.base import SETUP_TIMEOUT_S, Observed, Worker, Workload, WorkloadFailed

ACCOUNTS: Final = 8
TOTAL: Final = 100
AMOUNT_MAX: Final = 5


class Bank(Workload):
    """A workload of transfers between accounts, whose balances are numbers in keys.

    A transfer is a transaction guarded by the revisions of both accounts.
    """

    name: ClassVar[str] = "bank"

    @property
    def accounts(self) -> list[str]:
        """Return the names of all accounts."""
        return [f"a{n}" for n in range(ACCOUNTS)]

    @override
    def settings(self) -> dict[str, Any]:
        return {"bank": {"accounts": self.accounts, "total": TOTAL}}

    def key(self, account: str) -> str:
        """Return the key of an account."""
        return self.prefix + account

    @override
    async def set_up(self, worker: Worker) -> None:
        shares = [TOTAL // ACCOUNTS + (n < TOTAL % ACCOUNTS) for n in range(ACCOUNTS)]
        writes = [
            acordo.put(self.key(a), str(s)) for a, s in zip(self.accounts, shares, strict=True)
        ]
        op_id = worker.op_id()
        try:
            async with asyncio.timeout(SETUP_TIMEOUT_S):
                await worker.client.txn(writes=writes, op_id=op_id, timeout_s=SETUP_TIMEOUT_S)
        except (AcordoError, TimeoutError) as exc:
            raise WorkloadFailed(f"the accounts could not be opened: {exc}") from exc

    @override
    async def step(self, worker: Worker) -> None:
        if worker.rng.random() < 0.4:
            await self.read(worker, listing=worker.rng.random() < 0.5)
        else:
            await self.transfer(worker)

    async def read(self, worker: Worker, *, listing: bool) -> None:
        """Read all accounts in one snapshot: by a transaction, or by a listing with all pages at
        one revision.
        """

        async def by_listing() -> Observed:
            balances: dict[str, int] = {}
            async for page in worker.client.pages(self.prefix, limit=3):
                balances |= {
                    f.key.decode().removeprefix(self.prefix): int(f.value) for f in page.found
                }
                served, revision = page.served, page.revision
            return Observed(served, balances, revision)

        async def by_transaction() -> Observed:
            done = await worker.client.txn(reads=[self.key(a) for a in self.accounts])
            balances = {
                r.key.decode().removeprefix(self.prefix): None if r.value is None else int(r.value)
                for r in done.reads
            }
            return Observed(done.served, balances, done.served.position)

        await worker.do("read", by_listing if listing else by_transaction)

    async def transfer(self, worker: Worker) -> None:
        """Transfer an amount from one account to another if the balance allows it."""
        one, other = worker.rng.sample(self.accounts, 2)
        amount, op_id = worker.rng.randint(1, AMOUNT_MAX), worker.op_id()

        async def call() -> Observed:
            found = await worker.client.txn(reads=[self.key(one), self.key(other)])
            balances = [int(r.value or 0) for r in found.reads]
            if balances[0] < amount:
                return Observed(found.served, False)
            done = await worker.client.txn(
                guards=[acordo.at_revision(r.key, r.revision) for r in found.reads],
                writes=[
                    acordo.put(self.key(one), str(balances[0] - amount)),
                    acordo.put(self.key(other), str(balances[1] + amount)),
                ],
                op_id=op_id,
            )
            return Observed(done.served, True, done.revision, attempts=done.attempts)

        value = {"from": one, "to": other, "amount": amount}
        await worker.do("transfer", call, observes_refusal=True, value=value, op_id=op_id)

    @override
    async def finish(self, workers: Sequence[Worker]) -> None:
        for worker in workers[: len(self.load.urls)]:
            await self.read(worker, listing=True)
            await self.read(worker, listing=False)
