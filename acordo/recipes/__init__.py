"""What is commonly built on keys, leases and transactions.

    from acordo.recipes import Lock, update

    async with Lock(client, "locks/report") as lock:
        await client.txn(guards=[lock.guard()], writes=[put("report", data)])
    await update(client, "hits", lambda value: str(int(value or 0) + 1))

`acordo.recipes.sync` has the same for a `SyncClient`, without async.
"""

from __future__ import annotations

from acordo._recipes.counting import Counter, Updated, update
from acordo._recipes.errors import Lost, NotAcquired, NotHeld
from acordo._recipes.lock import Election, Lock, Semaphore
from acordo._recipes.meeting import Barrier, Registration
from acordo._recipes.queue import Queue
from acordo._recipes.session import Session
from acordo._recipes.view import View

__all__ = [
    "Barrier",
    "Counter",
    "Election",
    "Lock",
    "Lost",
    "NotAcquired",
    "NotHeld",
    "Queue",
    "Registration",
    "Semaphore",
    "Session",
    "Updated",
    "View",
    "update",
]
