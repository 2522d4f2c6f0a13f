"""Ask the leader how long leases live, and to let them live on: thousands of requests share a
message.

It never keeps an answer: only the leader's memory knows deadlines.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from coordinator.leases.deadlines import ENDING
from coordinator.log import Log
from kv.errors import KvError, NotApplied
from kv.ports import LeaseTime

SENDERS: Final = 4
"""Questions of this member that may be under way; requests that come meanwhile share the next."""
ASKED_MAX: Final = 2_000
"""Leases in one question."""
WAITING_MAX: Final = 50_000
ANSWER_TIMEOUT_S: Final = 2.0


class LeaseQuestion(msgspec.Struct, frozen=True, array_like=True):
    """What is asked of the leader: to renew these leases, and to look at those."""

    renew: tuple[int, ...] = ()
    look: tuple[int, ...] = ()


LeaseAnswer = tuple[tuple[int, int] | None, ...]
"""(ttl, time left) in milliseconds for each lease that is renewed, then looked at; a ttl of -1: its
end is ordered; None: it is not there.
"""

encode_question = msgspec.msgpack.Encoder().encode
decode_question = msgspec.msgpack.Decoder(LeaseQuestion).decode
encode_answer = msgspec.msgpack.Encoder().encode
_decode_answer = msgspec.msgpack.Decoder(LeaseAnswer).decode

Asked = tuple[int, bool, asyncio.Future[LeaseTime | None]]


class Asking:
    """The requests of one member about leases. Call `run` once."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._waiting: list[Asked] = []
        self._wake = asyncio.Event()

    async def time(self, lease: int, *, renew: bool, timeout_s: float) -> LeaseTime | None:
        """Return how long a lease lives, after it was renewed if that is asked for; None: it is not
        there. Raises NotApplied.
        """
        if len(self._waiting) >= WAITING_MAX:
            raise NotApplied("overloaded", "too many requests about leases wait for the leader")
        answered: asyncio.Future[LeaseTime | None]
        answered = asyncio.get_running_loop().create_future()
        self._waiting.append((lease, renew, answered))
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                found = await answered
        except TimeoutError as exc:
            raise NotApplied("timeout", "the leader did not answer in time") from exc
        if found == ENDING:
            raise NotApplied("lease_ending", f"lease {lease:016x} is about to end")
        return found

    async def run(self) -> None:
        """Send questions, forever."""
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(self._send_for_ever())

    async def _send_for_ever(self) -> None:
        while True:
            await self._wake.wait()
            batch, self._waiting = self._waiting[:ASKED_MAX], self._waiting[ASKED_MAX:]
            if not self._waiting:
                self._wake.clear()
            batch = [asked for asked in batch if not asked[2].done()]
            if batch:
                await self._send(batch)

    async def _send(self, batch: list[Asked]) -> None:
        batch.sort(key=lambda asked: not asked[1])  # those to be renewed first
        renew = tuple([lease for lease, renew, _ in batch if renew])
        look = tuple([lease for lease, renew, _ in batch if not renew])
        question = encode_question(LeaseQuestion(renew, look))
        try:
            said = await self._log.ask(question, timeout_s=ANSWER_TIMEOUT_S)
            times = _decode_answer(said)
            if len(times) != len(batch):
                raise NotApplied("not_leader", "the leader's answer cannot be used")
        except (KvError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            failed = exc if isinstance(exc, NotApplied) else NotApplied("not_leader", str(exc))
            for _, _, answered in batch:
                if not answered.done():
                    answered.set_exception(
                        NotApplied(failed.reason, failed.detail, retry_after_s=failed.retry_after_s)
                    )
            return
        for (_, _, answered), time in zip(batch, times, strict=True):
            if not answered.done():
                answered.set_result(None if time is None else LeaseTime(*time))
