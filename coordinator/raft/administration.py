"""Serve an operator's requests: transfer the leadership, add and remove members.

Never reports an attempt as refused that may still take effect (INV-4). What is safe is decided by
core/rules/membership.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from pysyncobj.node import Node

from coordinator.log import Position
from coordinator.raft.core.environment import Spawn
from coordinator.raft.core.protocol import Core
from coordinator.raft.core.pysyncobj_library import SUCCESS
from coordinator.raft.core.rules.membership import Add, Change, Promote, Refusal, Remove
from coordinator.raft.proposals import as_error
from kv.errors import BadRequest, NotApplied, OutcomeUnknown

RETRY_S: Final = 0.05
"""Seconds before a membership change that was refused for now is requested again."""
UNKNOWN: Final = "unknown"
"""The problem in a leader's answer when it cannot tell whether a transfer will happen."""
SERVED_MAX: Final = 64
"""Number of transfers for other members that may be under way here; further requests get no answer.
"""
SERVED_S_MAX: Final = 60.0


class Administration:
    """The administration of the cluster through one member, which acts or asks the leader."""

    def __init__(
        self,
        core: Core,
        loop: asyncio.AbstractEventLoop,
        spawn: Spawn,
        *,
        first_request: int,
    ) -> None:
        """`first_request` must be random, so that a late answer to an earlier process of this
        member does not match one of our requests.
        """
        self._core, self._loop, self._spawn = core, loop, spawn
        self._watchers: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._asked: dict[int, asyncio.Future[tuple[str, str]]] = {}
        self._next_request = first_request
        self._serving = 0
        core.handle("ask", self._on_ask)
        core.handle("answer", self._on_answer)

    def look(self) -> None:
        """Notify the waiters whose condition holds now; must be called after each tick."""
        if self._watchers:
            self._watchers = [watcher for watcher in self._watchers if not _seen(*watcher)]

    def close(self) -> None:
        """End all waits, because this member stops; transfers asked of a leader become unknown."""
        for _, future in self._watchers:
            future.cancel()
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(OutcomeUnknown("this member stops"))

    # ------------------------------------------------------------------------------- leadership

    async def transfer(self, to: str | None, *, timeout_s: float) -> str:
        """Move the leadership to `to`, or to the most up-to-date voter if None; return the id of
        the leader afterwards, as this member sees it.

        Works on any member. Raises BadRequest (`to` is not a voter), NotApplied, OutcomeUnknown.
        """
        core, deadline = self._core, self._core.now() + timeout_s
        if to is not None and not core.configuration.votes(to):
            raise BadRequest(
                "not_a_voter", f"{to} is not a voter", allowed=", ".join(core.configuration.voters)
            )
        while True:
            if core.leads:
                return await self._hand_over(to, deadline)
            leader = core.leader_node
            if leader is not None:
                if leader.id == to:
                    return leader.id
                return await self._ask(leader, to or "", deadline)
            await self._wait_until(lambda: core.leader_node is not None, deadline, "no_leader")

    async def _hand_over(self, to: str | None, deadline: float) -> str:
        core, term = self._core, self._core.term
        if to == core.node_id:
            return core.node_id
        asked = False
        """Whether a voter was asked to stand. It may do so at any later time, so from then on no
        failure is "not applied" (INV-4).
        """
        try:
            while core.leads and core.term == term:
                target = core.leader.transfer_target(to)
                if target is None:
                    raise _not_moved(
                        asked,
                        "no_quorum",
                        f"no connected voter can take over{f': {to}' if to else ''}",
                    )
                asked = await self._ask_to_stand(target, deadline) or asked
                if core.now() >= deadline and core.leads:
                    raise _not_moved(asked, "no_quorum", "the leadership did not move in time")
            try:
                await self._wait_until(
                    lambda: core.leader_node is not None and core.term > term,
                    deadline,
                    "no_leader",
                )
            except NotApplied as exc:
                raise _not_moved(asked, exc.reason, "no other leader is heard in time") from exc
        finally:
            core.commands.hold(0)
        leader = core.leader_node
        return "" if leader is None else leader.id

    async def _ask_to_stand(self, target: Node, deadline: float) -> bool:
        """Wait until a voter holds our log, ask it to stand, and wait until we no longer lead; say
        whether it was asked.
        """
        core, asked = self._core, False
        # New commands wait in the queue until the target holds our log; otherwise the target might
        # never catch up. They are forwarded to the new leader afterwards.
        core.commands.hold(core.election_max_s)
        attempt = min(deadline, core.now() + core.election_max_s)
        with contextlib.suppress(NotApplied):
            await self._wait_until(
                lambda: not core.leads or core.leader.holds_all(target), attempt, ""
            )
        if core.leads and core.leader.maybe_hand_over(target):
            asked = True
            with contextlib.suppress(NotApplied):
                await self._wait_until(lambda: not core.leads, attempt, "")
        return asked

    async def _ask(self, leader: Node, to: str, deadline: float) -> str:
        """Ask the leader to transfer its leadership to `to` (empty: to any voter)."""
        self._next_request += 1
        request = self._next_request
        future: asyncio.Future[tuple[str, str]] = self._loop.create_future()
        self._asked[request] = future
        left = max(0.0, deadline - self._core.now())
        message = {"type": "ask", "ask": request, "to": to, "timeout_s": left}
        try:
            if not self._core.tell(leader, message):
                raise NotApplied("no_leader", f"{leader.id} is not reached")
            async with asyncio.timeout(left):
                problem, answer = await future
        except TimeoutError as exc:
            raise OutcomeUnknown("no answer to the transfer in time") from exc
        finally:
            del self._asked[request]
        if problem == UNKNOWN:
            raise OutcomeUnknown(answer)
        if problem:
            raise NotApplied(problem, answer)
        return answer

    def _on_ask(self, node: Node, message: dict[str, Any]) -> None:
        """Transfer the leadership at the request of another member, and answer it."""

        def answer(result: Any, exc: BaseException | None) -> None:
            problem, text = result or (UNKNOWN, repr(exc))
            self._core.tell(
                node, {"type": "answer", "ask": message["ask"], "problem": problem, "text": text}
            )

        def served(result: Any, exc: BaseException | None) -> None:
            self._serving -= 1
            answer(result, exc)

        if not self._core.leads:
            answer(("not_leader", f"{self._core.node_id} does not lead"), None)
        elif self._serving < SERVED_MAX:
            self._serving += 1
            timeout_s = min(message["timeout_s"], SERVED_S_MAX)
            self._spawn(self._serve(message["to"] or None, timeout_s), served)

    async def _serve(self, to: str | None, timeout_s: float) -> tuple[str, str]:
        try:
            return "", await self.transfer(to, timeout_s=timeout_s)
        except NotApplied as exc:
            return exc.reason, exc.detail
        except BadRequest as exc:
            return "no_leader", exc.detail
        except OutcomeUnknown as exc:
            return UNKNOWN, exc.detail

    def _on_answer(self, node: Node, message: dict[str, Any]) -> None:
        future = self._asked.get(message["ask"])
        if future is not None and not future.done():
            future.set_result((message["problem"], message["text"]))

    # ---------------------------------------------------------------------------------- members

    async def add_member(self, member: str, address: str, *, voter: bool, timeout_s: float) -> str:
        """Add an observer; with `voter`, promote it once it has caught up. Repeating this is safe.

        Return "" if everything was done, otherwise a message that says what was not: there was
        nothing to do, or the member was added but is not a voter yet. Raises BadRequest
        "membership_refused" or "unsafe" with the reason, NotApplied, OutcomeUnknown.
        """
        deadline = self._core.now() + timeout_s
        added = await self._change(Add(member, address), deadline)
        if not voter:
            return "" if added else f"{member} is a member already: there was nothing to do"
        try:
            promoted = await self._change(Promote(member), deadline)
        except (BadRequest, NotApplied) as exc:
            if not added:
                raise  # it was a member when we were asked: nothing has changed
            why = exc.detail
            return (
                why if why.startswith(member) else f"{member} is a member, not yet a voter: {why}"
            )
        return "" if added or promoted else f"{member} is a voter already: there was nothing to do"

    async def remove_member(self, member: str, *, timeout_s: float) -> str:
        """Remove a member for good; if it leads, transfer the leadership first.

        Returns and raises as `add_member` does.
        """
        core, deadline = self._core, self._core.now() + timeout_s
        leader = core.leader_node
        if leader is not None and leader.id == member and len(core.configuration.voters) > 1:
            await self.transfer(None, timeout_s=timeout_s)
        removed = await self._change(Remove(member), deadline)
        return "" if removed else f"{member} was removed before: there was nothing to do"

    async def _change(self, change: Change, deadline: float) -> bool:
        """Request a change until it is in force, is refused for good, or the deadline is near. A
        change that is in force already changes nothing, so requesting it again is safe.

        Return whether it was made now; if the answer to an earlier attempt was lost, that attempt
        may have made it, so this returns True. A refusal answers only one attempt: after an attempt
        with an unknown outcome, which may still take effect, only success is definite (INV-4).
        """
        unknown: OutcomeUnknown | None = None
        while True:
            result, reason = await self._attempt(change, deadline)
            if reason == SUCCESS:
                return isinstance(result, Position) or unknown is not None
            refusal: Exception
            if isinstance(result, Refusal):
                refusal = BadRequest(
                    "unsafe" if result.later else "membership_refused", result.reason
                )
            else:
                refusal = as_error(reason)
            if isinstance(refusal, OutcomeUnknown):
                unknown = refusal
            for_good = isinstance(result, Refusal) and not result.later
            # Stop while the refusal is definite: another attempt might get no answer in time.
            if for_good or deadline - self._core.now() < 2 * RETRY_S:
                if unknown is None or unknown is refusal:
                    raise refusal
                raise OutcomeUnknown(
                    f"an earlier attempt may take effect; the last one did not: {refusal}"
                ) from refusal
            await asyncio.sleep(RETRY_S)

    async def _attempt(self, change: Change, deadline: float) -> tuple[Any, int]:
        answered: asyncio.Future[tuple[Any, int]] = self._loop.create_future()
        self._core.commands.change(change, _into(answered))
        try:
            async with asyncio.timeout(max(0.0, deadline - self._core.now())):
                return await answered
        except TimeoutError as exc:
            raise OutcomeUnknown("no answer to the membership change in time") from exc

    # ---------------------------------------------------------------------------------- waiting

    async def _wait_until(self, holds: Callable[[], bool], deadline: float, reason: str) -> None:
        """Wait for a condition that ticks may bring about. Raises NotApplied(reason) at the
        deadline.
        """
        if holds():
            return
        future: asyncio.Future[None] = self._loop.create_future()
        self._watchers.append((holds, future))
        try:
            async with asyncio.timeout(max(0.0, deadline - self._core.now())):
                await future
        except TimeoutError as exc:
            raise NotApplied(reason or "no_leader", "not in time") from exc


def _seen(holds: Callable[[], bool], future: asyncio.Future[None]) -> bool:
    if not future.done() and holds():
        future.set_result(None)
    return future.done()


def _not_moved(asked: bool, reason: str, detail: str) -> NotApplied | OutcomeUnknown:
    """Return the error for a failed transfer: unknown if a voter was asked to stand."""
    return (
        OutcomeUnknown(f"a voter was told to take over, and may yet: {detail}")
        if asked
        else NotApplied(reason, detail)
    )


def _into(future: asyncio.Future[tuple[Any, int]]) -> Callable[[Any, int], None]:
    def settle(result: Any, reason: int) -> None:
        if not future.done():
            future.set_result((result, reason))

    return settle
