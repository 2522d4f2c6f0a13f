"""Carry ReadIndex messages between members: a follower asks the leader, the leader asks the voters
(readindex.py decides).

Never answers from a leader that has not taken over, nor from a round that began before the read
arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any, Final, TypeAlias

from pysyncobj.node import Node

from coordinator.log import Position
from coordinator.raft.core.protocol import Core
from coordinator.raft.core.rules.readindex import WAITING_MAX, Round, Rounds
from kv.errors import NotApplied

REQUESTS_MAX: Final = 8
"""Read requests that this member may have open at the leader; reads that arrive meanwhile wait and
share the next request.
"""

Local: TypeAlias = asyncio.Future[Position]
Remote: TypeAlias = tuple[Node, int]


class ReadIndex:
    """The ReadIndex traffic of one member. `drive` must be called once after each tick."""

    def __init__(
        self, core: Core, loop: asyncio.AbstractEventLoop, rng: Random, wake: Callable[[], None]
    ) -> None:
        self._core, self._loop, self._wake = core, loop, wake
        self._rounds: Rounds[Local | Remote] = Rounds(first_id=rng.getrandbits(48))
        self._asked_at = float("-inf")
        self._opened = 0
        self._asked_in, self._asked_since = 0, 0.0
        """The newest term of ours in which a read came before we had taken over, and since when."""
        self._early: list[Local | Remote] = []
        """Reads that came before we had taken over, and wait for it."""
        self._arrived: list[Local] = []
        self._requests: dict[int, tuple[Node, list[Local], float]] = {}
        """By request: the node asked, the reads that share the request, and its deadline."""
        self._next_request = rng.getrandbits(48)
        self._closed = False
        core.handle("read_ping", self._on_ping)
        core.handle("read_pong", self._on_pong)
        core.handle("read_request", self._on_request)
        core.handle("read_response", self._on_response)
        core.on_connection_lost = self._on_connection_lost

    def open(self, term: int) -> None:
        """Allow reads to be confirmed in `term`: its leader has taken over the ledger."""
        self._opened = max(self._opened, term)

    def arrive(self) -> Local:
        """Return a future for the position that the next round confirms, here or at the leader. A
        refused read gets NotApplied in the future.
        """
        future: Local = self._loop.create_future()
        if self._closed or len(self._arrived) >= WAITING_MAX:
            future.set_exception(NotApplied("overloaded", "too many reads wait for a quorum round"))
        else:
            self._arrived.append(future)
            self._wake()
        return future

    def drive(self) -> None:
        """Begin, repeat, finish or abandon rounds and requests, as the current role allows."""
        core = self._core
        if not (self._arrived or self._requests or self._early) and self._rounds.idle:
            return
        if core.leads:
            arrived, self._early, self._arrived = [*self._early, *self._arrived], [], []
            for read in arrived:
                self._join(read)
            self._lead()
            return
        early, self._early = self._early, []
        for given_up in (*self._rounds.abandon(), *early):
            self._refuse(given_up, "deposed")
        self._give_up()
        if self._arrived and len(self._requests) < REQUESTS_MAX:
            self._ask_leader()

    def _give_up(self) -> None:
        """Refuse reads whose request went to an earlier leader or was not answered in time."""
        core, leader = self._core, self._core.leader_node
        for request in sorted(
            request
            for request, (node, _, until) in self._requests.items()
            if node != leader or core.now() > until
        ):
            for read in self._requests.pop(request)[1]:
                self._refuse(read, "no_leader")

    def _ask_leader(self) -> None:
        """Ask the leader for one round for all reads that wait here."""
        core, leader = self._core, self._core.leader_node
        arrived, self._arrived = [read for read in self._arrived if not read.done()], []
        self._next_request += 1
        request = self._next_request
        if leader is None or not core.tell(leader, {"type": "read_request", "request": request}):
            for read in arrived:
                self._refuse(read, "no_leader")
        elif arrived:
            self._requests[request] = (leader, arrived, core.now() + 2 * core.election_max_s)

    def _join(self, read: Local | Remote) -> None:
        core = self._core
        if not core.own_term_committed or self._opened != core.term:
            if self._may_wait():
                self._early.append(read)
            else:
                self._refuse(read, "not_taken_over")
        elif not self._rounds.arrive(read):
            self._refuse(read, "overloaded")

    def _may_wait(self) -> bool:
        """Say whether a read may wait until we have taken over: that takes some milliseconds, and
        who asks would wait longer after a refusal. Only where it has not happened an election
        time-out after the term's first read, those after it are refused at once: the store may be
        away, and a shared one answers reads by itself.
        """
        core = self._core
        if self._asked_in != core.term:
            self._asked_in, self._asked_since = core.term, core.now()
        held = core.now() - self._asked_since < core.election_max_s
        return held and len(self._early) < WAITING_MAX

    def _lead(self) -> None:
        core = self._core
        voters, now = core.configuration.voters, core.now()
        open_round = self._rounds.open
        if open_round is not None and open_round.term != core.term:
            for given_up in self._rounds.abandon():
                self._refuse(given_up, "deposed")
        if not core.own_term_committed:
            # Reads that wait arrived in an earlier term of ours. Their round begins once an entry
            # of this term is committed; before that the commit index may be too low.
            return
        while True:
            begun = self._rounds.maybe_begin(core.term, core.committed, core.node_id)
            open_round = self._rounds.open
            if open_round is not None and (
                begun is not None or now - self._asked_at >= core.heartbeat_s
            ):
                self._asked_at = now
                ping = {"type": "read_ping", "term": open_round.term, "round": open_round.id}
                for voter in self._rounds.missing(voters):
                    core.tell_member(voter, ping)
            confirmed = self._rounds.maybe_finish(voters)
            if confirmed is None:
                return
            for read in confirmed.reads:
                self._serve(read, confirmed.position)

    def _serve(self, read: Local | Remote, position: Position) -> None:
        if isinstance(read, tuple):
            node, request = read
            answer = {
                "type": "read_response",
                "request": request,
                "index": position.index,
                "term": position.term,
            }
            self._core.tell(node, {**answer, "problem": ""})
        elif not read.done():
            read.set_result(position)

    def _refuse(self, read: Local | Remote, reason: str) -> None:
        if isinstance(read, tuple):
            node, request = read
            answer = {
                "type": "read_response",
                "request": request,
                "index": 0,
                "term": 0,
                "problem": reason,
            }
            self._core.tell(node, answer)
        elif not read.done():
            read.set_exception(
                NotApplied(reason, "the read was not confirmed by a quorum", retry_after_s=0.1)
            )

    def _on_ping(self, node: Node, message: dict[str, Any]) -> None:
        """Confirm only if our term is the one asked for: a voter in a newer term may have elected
        another leader already.
        """
        core = self._core
        if message["term"] == core.term and core.votes and not core.leads:
            core.tell(
                node, {"type": "read_pong", "term": message["term"], "round": message["round"]}
            )

    def _on_pong(self, node: Node, message: dict[str, Any]) -> None:
        if self._core.leads and message["term"] == self._core.term:
            self._rounds.answer(node.id, Round(message["round"], message["term"]))
            self._wake()

    def _on_request(self, node: Node, message: dict[str, Any]) -> None:
        read = (node, message["request"])
        if self._core.leads:
            self._join(read)
            self._wake()
        else:
            self._refuse(read, "not_leader")

    def _on_response(self, node: Node, message: dict[str, Any]) -> None:
        sent = self._requests.get(message["request"])
        if sent is None or sent[0] != node:
            return
        del self._requests[message["request"]]
        for read in sent[1]:
            if message["problem"]:
                self._refuse(read, message["problem"])
            else:
                self._serve(read, Position(message["index"], message["term"]))
        if self._arrived:
            self._wake()

    def _on_connection_lost(self, node: Node) -> None:
        for request in sorted(
            request for request, (to, *_) in self._requests.items() if to == node
        ):
            for read in self._requests.pop(request)[1]:
                self._refuse(read, "no_leader")

    def close(self) -> None:
        """Refuse all reads that wait, because this member stops."""
        self._closed = True
        reads: list[Local | Remote] = [*self._rounds.abandon(), *self._early, *self._arrived]
        reads += [read for request in sorted(self._requests) for read in self._requests[request][1]]
        for read in reads:
            if not isinstance(read, tuple) and not read.done():
                read.set_exception(NotApplied("draining", "this member stops"))
