"""Deadlines of leases in the leader's memory, and requests about them that share a message."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from coordinator.leases.asking import Asking, decode_question, encode_answer
from coordinator.leases.deadlines import Deadlines, Granted
from coordinator.log import Log
from kv.errors import BackendUnavailable, NotApplied
from kv.model import TTL_MS_MAX
from kv.ports import LeaseTime


def test_an_id_may_have_two_entries_of_one_deadline() -> None:
    deadlines = Deadlines()
    for revision in (1, 3, 5):
        deadlines.grant(7, Granted(1000, revision), 0.0)
        deadlines.ends(7, revision + 1)
    deadlines.grant(7, Granted(1000, 7), 0.0)
    assert deadlines.due(0.9, 9) == {}
    assert deadlines.due(1.0, 9) == {7: 7}


def test_what_is_left_of_revoked_leases_is_bounded() -> None:
    deadlines = Deadlines()
    deadlines.grant(1, Granted(1000, 1), 0.0)
    for revision in range(2, 20_000, 2):
        deadlines.grant(2, Granted(TTL_MS_MAX, revision), 0.0)
        deadlines.ends(2, revision + 1)
    assert len(deadlines._heap) <= 1_004
    assert deadlines.due(1.0, 9) == {1: 1}


class Leader:
    """A log that is asked; it fails before it answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)

    async def ask(self, question: bytes, *, timeout_s: float) -> bytes:
        if self.failures:
            raise self.failures.pop()
        asked = decode_question(question)
        return encode_answer([(1000, 900) for _ in asked.renew + asked.look])


@pytest.mark.parametrize(
    "failure", [BackendUnavailable("store", "gone"), NotApplied("not_leader", "another one")]
)
async def test_no_failure_ends_the_requests_of_others(failure: Exception) -> None:
    asking = Asking(cast(Log, cast(Any, Leader(failure))))
    running = asyncio.create_task(asking.run())
    with pytest.raises(NotApplied):
        await asking.time(1, renew=True, timeout_s=5)
    assert await asking.time(1, renew=True, timeout_s=5) == LeaseTime(1000, 900)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
