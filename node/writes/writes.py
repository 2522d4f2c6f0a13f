"""Take intents to the log: admit, stage large values, queue, group, and bring each its answer.

All that is queued goes as one Raft command (group commit 1). It never says "not applied" of an
intent that was handed to consensus, unless consensus or the recorded outcome says so; it never says
"unknown" of one that was not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final, TypeAlias

from kv.errors import BackendUnavailable, KvError, NotApplied, OutcomeUnknown, store_refused
from kv.model import (
    INLINE_BYTES_MAX,
    NODE_OP_ID_PREFIX,
    Answer,
    Applied,
    Cancel,
    Intent,
    Put,
    Reference,
    Write,
)
from kv.ports import Clock, Consensus, Store
from node.settings import ServerSettings

ROUNDS_MAX: Final = 2
"""Submits on their way at a time: while one is ordered and committed the next collects."""
ROUND_INTENTS_MAX: Final = 512
ROUND_BYTES_MAX: Final = 1024 * 1024
"""Inline bytes in one Submit; a single larger intent goes alone."""
ROUND_PATIENCE_S: Final = 0.2
"""A Submit unanswered for so long no longer holds back the next: its leader may be gone."""
INTENT_INLINE_BYTES_MAX: Final = 512 * 1024
"""Inline bytes of one intent: beyond, its largest values are staged too."""
INTENT_OVERHEAD_BYTES: Final = 256
MOVES: Final = frozenset({"not_leader", "deposed"})
"""Refusals that speak of a leader that has just given way: the next attempt finds the new one."""
MOVE_PATIENCE_S: Final = 1.0
"""How long an intent is handed over again after such a refusal, which is definite: nothing is in
any log.
"""
MOVE_PAUSE_S: Final = 0.05
TAKE_BACK_S: Final = 1.0
"""Longest that a refusal waits for its staged values to be taken back."""

Result: TypeAlias = Answer | KvError


class Writes:
    """The way of every write of this node. Bounded in intents and bytes; beyond:
    NotApplied("overloaded").
    """

    def __init__(
        self, consensus: Consensus, store: Store, clock: Clock, settings: ServerSettings
    ) -> None:
        self._consensus, self._store, self._clock = consensus, store, clock
        self._settings = settings
        self._op_id_start = f"{NODE_OP_ID_PREFIX}{settings.node_id}.{settings.incarnation}."
        self._op_ids = 0
        self._queue: deque[_Waiting] = deque()
        self._rounds = 0
        self._pumping = False
        self.held = 0
        """Intents admitted and not yet answered."""
        self.held_bytes = 0
        self.rounds_total = 0
        self.intents_total = 0
        self.acknowledged_total = 0
        """Writes that clients of this node were told are applied, repetitions left out."""

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
        waiting: list[_Waiting] = []
        kept: list[list[Reference]] = []
        """For each intent what was staged for it."""
        try:
            for intent in intents:
                kept.append([])
                staged = await self._staged(intent, deadline, kept[-1])
                waiting.append(_Waiting(staged, inline_bytes(staged), deadline, lifetime_s))
            for each in waiting:
                self._enqueue(each)
            results = [await each.result for each in waiting]
            never = [
                of
                for of, result in zip(kept, results, strict=True)
                if isinstance(result, NotApplied)
            ]
            await self._take_back(never)
            self.acknowledged_total += sum(
                1 for r in results if isinstance(r, Answer) and isinstance(r.outcome, Applied)
            )
            return results
        except NotApplied:  # of staging, or of asking before it: nothing was handed over
            await self._take_back(kept)
            raise
        except (BackendUnavailable, OutcomeUnknown) as exc:
            # staging alone has no effect, and nothing was handed over yet
            await self._take_back(kept)
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

    # -------------------------------------------------------------------------------------- staging

    async def _staged(
        self, intent: Intent | Cancel, deadline: float, kept: list[Reference]
    ) -> Intent | Cancel:
        """Put large values into the store and references to them into the intent; note in `kept`
        what is there.

        Asks before whether the intent would be admitted: refused writes must not fill the store.
        """
        if isinstance(intent, Cancel) or not (chosen := to_stage(intent)):
            return intent
        refused = self._consensus.refuses((intent,))
        if refused is not None:
            raise refused
        references: dict[bytes, Reference] = {}
        for value in chosen:
            left = min(deadline - self._clock.monotonic(), self._settings.store_timeout_s)
            if left <= 0:
                raise BackendUnavailable("store", "out of time")
            references[value] = await self._store.stage(intent.op_id, value, timeout_s=left)
            kept.append(references[value])
        return Intent(
            intent.op_id,
            intent.deadline_ms,
            intent.guards,
            _referring(intent.writes, references),
            None if intent.otherwise is None else _referring(intent.otherwise, references),
            intent.reads,
        )

    async def _take_back(self, kept: Sequence[Sequence[Reference]]) -> None:
        """Unstage the values of intents that were definitely never ordered. What the store does not
        take back now, it sweeps later: it bounds what waits.
        """
        if not any(kept):
            return
        try:
            async with asyncio.timeout(TAKE_BACK_S):
                for reference in (each for of in kept for each in of):
                    await self._store.unstage(reference, timeout_s=TAKE_BACK_S)
        except (KvError, TimeoutError):
            return

    # ------------------------------------------------------------------------------------- grouping

    def _enqueue(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        if not self._pumping and self._rounds < ROUNDS_MAX:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        """Hand over what is queued, while rounds are free."""
        self._pumping = False
        while self._queue and self._rounds < ROUNDS_MAX:
            group = self._next_group()
            if group:
                self._submit(group)

    def _next_group(self) -> list[_Waiting]:
        group: list[_Waiting] = []
        size, now = 0, self._clock.monotonic()
        while self._queue and len(group) < ROUND_INTENTS_MAX:
            if group and size + self._queue[0].size > ROUND_BYTES_MAX:
                break
            waiting = self._queue.popleft()
            if waiting.result.done():
                continue
            if waiting.deadline <= now:
                waiting.expire()
                continue
            group.append(waiting)
            size += waiting.size
        return group

    def _submit(self, group: list[_Waiting]) -> None:
        now, now_ms = self._clock.monotonic(), self._consensus.now_ms()
        ordered = [
            waiting.with_deadline(
                now_ms + int(max(waiting.deadline - now, waiting.lifetime_s) * 1000)
            )
            for waiting in group
        ]
        for waiting in group:
            waiting.handed = True
        try:
            futures = self._consensus.submit(ordered)
        except NotApplied as exc:
            for waiting in group:
                waiting.end(exc)
            return
        self.rounds_total += 1
        self.intents_total += len(group)
        self._rounds += 1
        current = _Round(self, len(group))
        for waiting, future in zip(group, futures, strict=True):
            waiting.round, waiting.writes = current, self
            future.add_done_callback(waiting.answered)

    def again(self, waiting: _Waiting) -> None:
        """Hand an intent over once more, a moment later."""
        asyncio.get_running_loop().call_later(MOVE_PAUSE_S, self._enqueue, waiting)

    def release(self) -> None:
        """Let the next round go."""
        self._rounds -= 1
        if self._queue and not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)


class _Round:
    """One Submit: holds its place until all its intents are answered, or its patience ends."""

    __slots__ = ("_left", "_timer", "_writes")

    def __init__(self, writes: Writes, count: int) -> None:
        self._writes, self._left = writes, count
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            ROUND_PATIENCE_S, self._give_up
        )

    def answered(self) -> None:
        self._left -= 1
        if self._left == 0 and self._timer is not None:
            self._timer.cancel()
            self._give_up()

    def _give_up(self) -> None:
        self._timer = None
        self._writes.release()


class _Waiting:
    """One intent and whoever waits for it. Its `result` never fails: it brings an Answer or an
    KvError.
    """

    __slots__ = (
        "_patient_until", "_timer", "deadline", "handed", "intent", "lifetime_s", "result", "round", "size", "writes",
    )  # fmt: skip

    def __init__(
        self, intent: Intent | Cancel, size: int, deadline: float, lifetime_s: float
    ) -> None:
        loop = asyncio.get_running_loop()
        self.intent, self.size, self.deadline, self.lifetime_s = intent, size, deadline, lifetime_s
        self.result: asyncio.Future[Result] = loop.create_future()
        self.handed = False
        self.round: _Round | None = None
        self.writes: Writes | None = None
        self._patient_until: float | None = None
        self._timer = loop.call_at(deadline, self.expire)

    def with_deadline(self, deadline_ms: int) -> Intent | Cancel:
        intent = self.intent
        if isinstance(intent, Cancel):
            return intent
        return Intent(
            intent.op_id, deadline_ms, intent.guards, intent.writes, intent.otherwise, intent.reads
        )

    def answered(self, future: asyncio.Future[Answer]) -> None:
        """Take what consensus says. Called for every intent that was handed over, also when nobody
        waits any more.
        """
        if self.round is not None:
            self.round.answered()
        if future.cancelled():
            self.end(
                OutcomeUnknown("the wait for the outcome was broken off", op_id=self.intent.op_id)
            )
            return
        error = future.exception()
        if error is None:
            self.end(future.result())
        elif isinstance(error, NotApplied) and error.reason in MOVES and self._may_go_again():
            self.handed = False
            assert self.writes is not None
            self.writes.again(self)
        elif isinstance(error, NotApplied | OutcomeUnknown):
            self.end(error)
        else:
            self.end(OutcomeUnknown(f"{type(error).__name__}: {error}", op_id=self.intent.op_id))

    def _may_go_again(self) -> bool:
        """Say whether somebody still waits, and a leader that gives way has not been met for too
        long.
        """
        now = asyncio.get_running_loop().time()
        if self._patient_until is None:
            self._patient_until = now + MOVE_PATIENCE_S
        return not self.result.done() and now + MOVE_PAUSE_S < min(
            self.deadline, self._patient_until
        )

    def expire(self) -> None:
        """Say what is true when time is out: unknown once handed over, else definitely not
        applied.
        """
        if self.handed:
            self.end(OutcomeUnknown("no outcome was heard in time", op_id=self.intent.op_id))
        else:
            self.end(NotApplied("timeout", "it waited for its turn until its time was out"))

    def end(self, result: Result) -> None:
        if not self.result.done():
            self.result.set_result(result)
            self._timer.cancel()

    def leave(self) -> None:
        """Stop waiting. What was not handed over yet never will be."""
        self._timer.cancel()
        self.result.cancel()


def to_stage(intent: Intent) -> list[bytes]:
    """Return the values that travel as references: large ones, and the largest ones of a large
    intent.

    It depends on the values alone, so a repeated attempt has the same body hash.
    """
    values = [w.value for w in (*intent.writes, *(intent.otherwise or ())) if isinstance(w, Put)]
    inline = [value for value in values if isinstance(value, bytes)]
    left = sum(map(len, inline))
    if left <= INLINE_BYTES_MAX:
        return []
    chosen: list[bytes] = []
    for value in sorted(set(inline), key=lambda v: (len(v), v), reverse=True):
        if len(value) <= INLINE_BYTES_MAX and left <= INTENT_INLINE_BYTES_MAX:
            break
        chosen.append(value)
        left -= len(value) * inline.count(value)
    return chosen


def _referring(writes: tuple[Write, ...], references: dict[bytes, Reference]) -> tuple[Write, ...]:
    return tuple(
        Put(w.key, references.get(w.value, w.value), w.ttl_ms)
        if isinstance(w, Put) and isinstance(w.value, bytes)
        else w
        for w in writes
    )


def inline_bytes(intent: Intent | Cancel) -> int:
    if isinstance(intent, Cancel):
        return INTENT_OVERHEAD_BYTES
    size = (
        INTENT_OVERHEAD_BYTES + sum(len(g.key) for g in intent.guards) + sum(map(len, intent.reads))
    )
    for write in (*intent.writes, *(intent.otherwise or ())):
        size += len(write.key)
        if isinstance(write, Put) and isinstance(write.value, bytes):
            size += len(write.value)
    return size
