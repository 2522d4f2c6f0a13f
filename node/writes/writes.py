"""Bring writes to their outcomes: admit them within bounds, stage large values, queue, and wait.

It waits no longer than a request has time, and then says what is true: not applied, if the intent
was not handed over, else unknown.
"""

from __future__ import annotations

from collections.abc import Sequence

from kv.errors import BackendUnavailable, KvError, NotApplied, OutcomeUnknown, store_refused
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
from node.writes.staging import Staging, inline_bytes
from node.writes.submit_queue import QueuedIntent, Result, SubmitQueue


class Writes:
    """The way of every write of this node. Bounded in intents and bytes; beyond:
    NotApplied("overloaded").
    """

    def __init__(
        self, consensus: Consensus, store: Store, clock: Clock, settings: ServerSettings
    ) -> None:
        self._consensus = consensus
        self._settings = settings
        self._op_id_start = f"{NODE_OP_ID_PREFIX}{settings.node_id}.{settings.incarnation}."
        self._op_ids = 0
        self._staging = Staging(consensus, store, clock, settings)
        self.queue = SubmitQueue(consensus, clock)
        self.held = 0
        """Intents admitted and not yet answered."""
        self.held_bytes = 0
        self.acknowledged_total = 0
        """Writes acknowledged to clients of this node as applied, repetitions left out."""

    def new_op_id(self) -> str:
        """Return an op_id that never comes again: made of node, incarnation and a counter."""
        self._op_ids += 1
        return f"{self._op_id_start}{self._op_ids}"

    async def one(self, intent: Intent, *, deadline: float, lifetime_s: float = 0.0) -> Answer:
        """Bring one intent to its outcome. `deadline`: loop time. Raises NotApplied or
        OutcomeUnknown.
        """
        result = (await self.many((intent,), deadline=deadline, lifetime_s=lifetime_s))[0]
        if isinstance(result, KvError):
            raise result
        return result

    async def many(
        self, intents: Sequence[Intent | Cancel], *, deadline: float, lifetime_s: float = 0.0
    ) -> list[Result]:
        """Bring intents to their outcomes, each for itself, in order; `deadline_ms` of each is set
        here.

        They are waited for until `deadline` (loop time), and may take effect until then, or for
        `lifetime_s` from the moment they are handed over if that is longer. Raises NotApplied when
        they are not admitted, all of them together.
        """
        size = sum(inline_bytes(intent) for intent in intents)
        self._admit(len(intents), size)
        waiting: list[QueuedIntent] = []
        staged: list[list[Reference]] = []
        """For each intent what was staged for it."""
        try:
            for intent in intents:
                staged.append([])
                ready = await self._staging.stage(intent, deadline, staged[-1])
                waiting.append(QueuedIntent(ready, inline_bytes(ready), deadline, lifetime_s))
            for each in waiting:
                self.queue.add(each)
            results = [await each.result for each in waiting]
            never = [
                of
                for of, result in zip(staged, results, strict=True)
                if isinstance(result, NotApplied)
            ]
            await self._staging.take_back(never)
            self.acknowledged_total += sum(
                1 for r in results if isinstance(r, Answer) and isinstance(r.outcome, Applied)
            )
            return results
        except NotApplied:
            # It comes from staging, or from the question before it: nothing was handed over.
            await self._staging.take_back(staged)
            raise
        except (BackendUnavailable, OutcomeUnknown) as exc:
            # Whether a value is staged may be unknown, but staging alone has no effect and nothing
            # was handed over: the write itself is definitely not applied.
            await self._staging.take_back(staged)
            raise NotApplied("store_away", f"a large value could not be staged: {exc}") from exc
        finally:
            for each in waiting:
                each.leave()
            self.held -= len(intents)
            self.held_bytes -= size

    def _admit(self, count: int, size: int) -> None:
        refusal = self._consensus.refusal
        if refusal is not None:
            raise store_refused(refusal)
        limits = self._settings
        if self.held + count > limits.writes_max or self.held_bytes + size > limits.write_bytes_max:
            raise NotApplied("overloaded", f"{self.held} writes are waiting for their outcome")
        self.held += count
        self.held_bytes += size
