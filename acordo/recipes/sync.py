"""The recipes of `acordo.recipes` for a `SyncClient`: with threads in place of tasks.

from acordo.recipes.sync import Lock

with Lock(client, "locks/report") as lock:
client.txn(guards=[lock.guard()], writes=[put("report", data)])
"""

from __future__ import annotations

from acordo._recipes.errors import Lost, NotAcquired, NotHeld
from acordo._sync._recipes.counting import Counter, Updated, update
from acordo._sync._recipes.lock import Election, Lock, Semaphore
from acordo._sync._recipes.meeting import Barrier, Registration
from acordo._sync._recipes.queue import Queue
from acordo._sync._recipes.session import Session
from acordo._sync._recipes.view import View

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
