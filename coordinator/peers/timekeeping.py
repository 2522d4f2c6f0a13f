"""Keep log time on this member: follow the leader's or, as the leader, determine it.

`logtime` decides. This module passes it the members' readings, and orders a tick after a jump.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog

from coordinator.commit.leadership import LeadersPart, mark_retrieved
from coordinator.log import Log, RaftStatus
from coordinator.logtime import ClockReading, LogTime
from coordinator.machine.commands import TICK, encode
from kv.ports import Clock

_log = structlog.get_logger("acordo.consensus")


class Timekeeping:
    """The log time of one member, and the events that set it."""

    def __init__(self, node: str, log: Log, clock: Clock) -> None:
        self._node, self._log, self._clock = node, log, clock
        self.time = LogTime(clock.monotonic())
        self._led_s = 0.0
        """The monotonic time at which this member's leadership began."""
        self.jumps = 0
        """How often log time jumped away from this leader's monotonic clock."""

    def now_ms(self) -> int:
        """Return the log time now."""
        return self.time.now_ms(self._clock.monotonic())

    def stamp(self, log_time_ms: int) -> None:
        """Record the newest stamp of the log."""
        self.time.stamp(log_time_ms, self._clock.monotonic())

    def led(self) -> None:
        """Note that this member leads now."""
        self._led_s = self._clock.monotonic()

    def look(
        self, raft: RaftStatus, readings: Sequence[ClockReading], committer: LeadersPart
    ) -> None:
        """Follow the leader's time or, as the leader, determine it and carry it on."""
        at_s = self._clock.monotonic()
        if committer.term is None:
            for reading in readings:
                if reading.member == raft.leader != self._node:
                    self.time.follow(reading, at_s)
            return
        knew, voters = self.time.kept, sum(peer.voter for peer in raft.peers)
        jump_ms = self.time.lead(readings, voters, at_s - self._led_s, at_s, raft.term)
        if jump_ms > 0:
            self.jumps += 1
            if knew:
                _log.warning("log time jumps to what a quorum kept", by_ms=jump_ms)
            else:
                _log.info("log time is found", now_ms=self.now_ms(), by_ms=jump_ms)
            if committer.taken_over:  # otherwise the committer orders a tick itself
                through: asyncio.Future[Any] = self._log.propose(encode(TICK))
                through.add_done_callback(mark_retrieved)
        if self.time.kept and not knew:
            committer.wake()
