"""Carry questions about the leader's own memory to the leader, and its answers back.

Never knows what a question means, and never repeats one: who asked has to, if no answer comes.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from pysyncobj.node import Node

from coordinator.raft.core.environment import Spawn
from coordinator.raft.core.protocol import Core
from kv.errors import BadRequest, KvError, NotApplied

ASKED_MAX: Final = 64
"""Questions of this member that may wait for an answer; more are refused at once."""
SERVED_MAX: Final = 256
"""Questions of other members that may be worked on here; more are refused at once."""


class Questions:
    """The questions of one member, and those that it answers as the leader."""

    def __init__(
        self, core: Core, loop: asyncio.AbstractEventLoop, spawn: Spawn, *, first_id: int
    ) -> None:
        """`first_id` must be random, so that a late answer to an earlier process of this member
        does not match one of our questions.
        """
        self._core, self._loop, self._spawn = core, loop, spawn
        self._next_id = first_id
        self._asked: dict[int, tuple[Node, asyncio.Future[bytes]]] = {}
        self._served = 0
        core.handle("question", self._on_question)
        core.handle("reply", self._on_reply)

    async def ask(self, question: bytes, *, timeout_s: float) -> bytes:
        """Return the leader's answer. Raises NotApplied when there is no leader, when it refuses,
        or when it does not answer in time.
        """
        core = self._core
        try:
            async with asyncio.timeout(timeout_s):
                if core.leads:
                    return await core.environment.replica.answer(question)
                return await self._ask(question)
        except TimeoutError as exc:
            raise NotApplied("no_leader", "the leader did not answer in time") from exc

    async def _ask(self, question: bytes) -> bytes:
        leader = self._core.leader_node
        if len(self._asked) >= ASKED_MAX:
            raise NotApplied("overloaded", "too many questions wait for the leader")
        self._next_id += 1
        id = self._next_id
        answer: asyncio.Future[bytes] = self._loop.create_future()
        message = {"type": "question", "id": id, "question": question}
        if leader is None or not self._core.tell(leader, message):
            raise NotApplied("no_leader", "no leader is connected", retry_after_s=0.1)
        self._asked[id] = (leader, answer)
        try:
            return await answer
        finally:
            del self._asked[id]

    def _on_question(self, node: Node, message: dict[str, Any]) -> None:
        id: int = message["id"]
        if not self._core.leads:
            self._reply(node, id, b"", "not_leader")
        elif self._served >= SERVED_MAX:
            self._reply(node, id, b"", "overloaded")
        else:
            self._served += 1
            self._spawn(
                self._answer(message["question"]), lambda done, _: self._served_one(node, id, done)
            )

    async def _answer(self, question: bytes) -> tuple[bytes, str]:
        """Return the answer, or the reason for a refusal. It never fails because of a question."""
        try:
            return await self._core.environment.replica.answer(question), ""
        except NotApplied as exc:
            return b"", exc.reason
        except BadRequest as exc:
            return b"", exc.code
        except (KvError, TimeoutError):
            return b"", "not_applied"

    def _served_one(self, node: Node, id: int, done: tuple[bytes, str]) -> None:
        self._served -= 1
        self._reply(node, id, *done)

    def _reply(self, node: Node, id: int, answer: bytes, problem: str) -> None:
        self._core.tell(node, {"type": "reply", "id": id, "answer": answer, "problem": problem})

    def _on_reply(self, node: Node, message: dict[str, Any]) -> None:
        sent = self._asked.get(message["id"])
        if sent is None or sent[0] != node or sent[1].done():
            return
        if message["problem"]:
            sent[1].set_exception(
                NotApplied(message["problem"], "the leader refused", retry_after_s=0.1)
            )
        else:
            sent[1].set_result(message["answer"])

    def close(self) -> None:
        """Refuse all questions that wait, because this member stops."""
        for _, answer in self._asked.values():
            if not answer.done():
                answer.set_exception(NotApplied("draining", "this member stops"))
