"""Run writes to their outcomes: admit them within bounds, stage large values, queue them, and wait.

It waits no longer than the request has time. At the deadline an intent that was not handed over is
not applied; one that was is unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from kv.access import ACCESS_PREFIX
from kv.errors import (
    BackendUnavailable,
    BadRequest,
    KvError,
    NotApplied,
    OutcomeUnknown,
    store_refused,
)
from kv.leases import LEASES_PREFIX
from kv.model import (
    NODE_OP_ID_PREFIX,
    Answer,
    Applied,
    Cancel,
    Intent,
    Reference,
)
from kv.ports import Clock, Consensus, Store
from node.settings import ServerSettings
from node.writes.activity import WriteActivity
from node.writes.staging import Staging, inline_bytes
from node.writes.submit_queue import QueuedIntent, Result, SubmitQueue

_RESERVED: Final = (LEASES_PREFIX, ACCESS_PREFIX)
LEADER_LOOK_S: Final = 0.1
"""How often the status is read to tell clients who leads: building it costs as much as a write."""


def check_reserved(intent: Intent | Cancel) -> None:
    """Raise BadRequest for an intent that writes a key of the system itself."""
    for key in intent.touched:
        if key.startswith(_RESERVED):
            raise BadRequest(
                "reserved_key",
                f"keys that begin with {key[: key.index(b'/', 7) + 1].decode()} are the system's",
                allowed="/v1/leases and /v1/access change them",
            )


class Writes:
    """The write service of one node. It is bounded in intents and bytes; beyond:
    NotApplied("overloaded").

    Large values are staged in a shared `store`; None: they travel in the log (R11).
    """

    def __init__(
        self, consensus: Consensus, store: Store | None, clock: Clock, settings: ServerSettings
    ) -> None:
        self._consensus = consensus
        self._settings = settings
        self._op_id_start = f"{NODE_OP_ID_PREFIX}{settings.node_id}.{settings.incarnation}."
        self._op_ids = 0
        self._staging = None if store is None else Staging(consensus, store, clock, settings)
        self.queue = SubmitQueue(consensus, clock)
        self._clock = clock
        self._leader_url: str | None = None
        self._look_again_at = 0.0
        self.held = 0
        """Intents admitted and not answered yet."""
        self.held_bytes = 0
        self.activity = WriteActivity()

    def new_op_id(self) -> str:
        """Return a new op_id that never repeats: it is made of node, incarnation and a counter."""
        self._op_ids += 1
        return f"{self._op_id_start}{self._op_ids}"

    def leader_url(self) -> str | None:
        """Return where the leader serves clients, as known here at most LEADER_LOOK_S ago."""
        now = self._clock.monotonic()
        if now >= self._look_again_at:
            self._look_again_at = now + LEADER_LOOK_S
            self._leader_url = self._consensus.status().leader_url
        return self._leader_url

    async def one(
        self,
        intent: Intent,
        *,
        deadline: float,
        lifetime_s: float = 0.0,
        system: bool = False,
    ) -> Answer:
        """Run one intent to its outcome. `deadline` is loop time. Raises NotApplied or
        OutcomeUnknown.
        """
        if self._staging is not None:
            results = await self.many(
                (intent,), deadline=deadline, lifetime_s=lifetime_s, system=system
            )
            result = results[0]
        else:
            if not system:
                check_reserved(intent)
            began = self._clock.monotonic()
            size = inline_bytes(intent)
            self._admit(1, size)
            waiting = self._queued(intent, size, deadline, lifetime_s)
            try:
                self.queue.add(waiting)
                result = await waiting.result
            finally:
                waiting.leave()
                self._release(1, size)
            self._count(result, began)
        if isinstance(result, KvError):
            raise result
        return result

    async def many(
        self,
        intents: Sequence[Intent | Cancel],
        *,
        deadline: float,
        lifetime_s: float = 0.0,
        system: bool = False,
    ) -> list[Result]:
        """Run intents to their outcomes, each on its own, and return the results in order. The
        `deadline_ms` of each intent is set here.

        The call waits until `deadline` (loop time). The intents may take effect until then, or for
        `lifetime_s` seconds after they are handed over if that is longer. Raises NotApplied when
        the intents are not admitted or cannot be staged; then none of them was handed over. Raises
        BadRequest("reserved_key") when one names a key of the system, unless it is the `system`'s.
        """
        if not system:
            for intent in intents:
                check_reserved(intent)
        began = self._clock.monotonic()
        size = sum(inline_bytes(intent) for intent in intents)
        self._admit(len(intents), size)
        waiting: list[QueuedIntent] = []
        staged: list[list[Reference]] = []
        """The staged references of each intent, in the order of `intents`."""
        try:
            for intent in intents:
                staged.append([])
                ready = intent
                if self._staging is not None:
                    ready = await self._staging.stage(intent, deadline, staged[-1])
                waiting.append(self._queued(ready, inline_bytes(ready), deadline, lifetime_s))
            for each in waiting:
                self.queue.add(each)
            results = [await each.result for each in waiting]
            never = [
                of
                for of, result in zip(staged, results, strict=True)
                if isinstance(result, NotApplied)
            ]
            await self._take_back(never)
            for result in results:
                self._count(result, began)
            return results
        except NotApplied:
            # The refusal comes from admission or staging, before anything was handed over.
            await self._take_back(staged)
            raise
        except (BackendUnavailable, OutcomeUnknown) as exc:
            # It may be unknown whether a value was staged, but staging alone has no effect and
            # nothing was handed over. So the write is definitely not applied.
            await self._take_back(staged)
            raise NotApplied("store_away", f"a large value could not be staged: {exc}") from exc
        finally:
            for each in waiting:
                each.leave()
            self._release(len(intents), size)

    def _queued(
        self, intent: Intent | Cancel, size: int, deadline: float, lifetime_s: float
    ) -> QueuedIntent:
        return QueuedIntent(intent, size, deadline, lifetime_s, self.queue.deadlines)

    def _count(self, result: Result, began: float) -> None:
        if isinstance(result, Answer) and isinstance(result.outcome, Applied):
            self.activity.note(began, self._clock.monotonic(), self._clock.wall_ms())

    async def _take_back(self, staged: Sequence[Sequence[Reference]]) -> None:
        if self._staging is not None:
            await self._staging.take_back(staged)

    def _admit(self, count: int, size: int) -> None:
        refusal = self._consensus.refusal
        if refusal is not None:
            raise store_refused(refusal)
        limits = self._settings
        if self.held + count > limits.writes_max or self.held_bytes + size > limits.write_bytes_max:
            raise NotApplied("overloaded", f"{self.held} writes are waiting for their outcome")
        self.held += count
        self.held_bytes += size

    def _release(self, count: int, size: int) -> None:
        self.held -= count
        self.held_bytes -= size
