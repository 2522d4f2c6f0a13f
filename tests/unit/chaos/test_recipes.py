"""The workload of recipes and its checker: what is right passes, and each planted bug is found."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

import acordo
from acordo import recipes as client_recipes
from acordo._recipes import counting, lock, queue
from chaos.checkers import recipes
from chaos.checkers.verdict import Verdict
from chaos.records.history import ClientOperation
from chaos.records.recorder import Recorder
from chaos.records.saved import load_history
from chaos.workloads import recipes as workloads
from chaos.workloads.base import LoadSettings
from chaos.workloads.recipes import Recipes
from tests.unit.node.conftest import opened

STEPS = 14


@pytest.fixture(autouse=True)
def places_are_held_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "LOOKS", 2)


async def judged(directory: Path, *kinds: str) -> Any:
    """Let six workers do some steps against one node, and judge what they saw."""
    async with opened() as node, AsyncExitStack() as stack:
        with Recorder(directory / "h.jsonl") as recorder:
            workload = Recipes(LoadSettings((node.url,), 3, "p/", clients=6), recorder)
            workload.kinds = kinds or workload.kinds
            await workload.open(stack)

            async def work(worker: Any) -> None:
                for _ in range(STEPS):
                    await workload.step(worker)

            await asyncio.gather(*(work(worker) for worker in workload.workers))
            await workload.finish(workload.workers)
        return recipes.check(load_history(directory / "h.jsonl").operations)


async def test_recipes_that_are_right_pass(tmp_path: Path) -> None:
    judgement = await judged(tmp_path)
    assert (judgement.verdict, judgement.anomalies) == (Verdict.OK, ())
    assert judgement.figures["held"] > 10
    assert judgement.figures["taken"] > 2


def jumps_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody believes that nobody stands before them."""
    queue_up = lock.Semaphore._queue_up

    async def jump(self: Any, deadline: float | None) -> bool:
        self._places = 1_000_000
        return await queue_up(self, deadline)

    monkeypatch.setattr(lock.Semaphore, "_queue_up", jump)


def one_place_more(monkeypatch: pytest.MonkeyPatch) -> None:
    made = lock.Semaphore.__init__

    def init(self: Any, *given: Any, places: int, **named: Any) -> None:
        made(self, *given, places=places + (places > 1), **named)

    monkeypatch.setattr(lock.Semaphore, "__init__", init)


def token_of_the_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token is a number that does not grow."""
    numbers = itertools.count(10_000, -1)
    monkeypatch.setattr(lock.Semaphore, "token", property(lambda self: next(numbers)))


def counts_without_a_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    once = counting.exactly_once

    async def unguarded(client: Any, guards: Sequence[Any], writes: Sequence[Any]) -> int | None:
        await asyncio.sleep(0.005)
        return await once(client, [], list(writes))

    monkeypatch.setattr(counting, "exactly_once", unguarded)


def takes_without_a_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    once = counting.exactly_once

    async def unguarded(client: Any, guards: Sequence[Any], writes: Sequence[Any]) -> int | None:
        await asyncio.sleep(0.01)
        return await once(client, [], list(writes))

    monkeypatch.setattr(queue, "exactly_once", unguarded)


def deletes_before_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that was taken is forgotten now and then."""
    take, turns = queue.Queue.take, itertools.count(1)

    async def forgetful(self: Any, *, timeout_s: float | None = 0.0) -> bytes | None:
        item = await take(self, timeout_s=timeout_s)
        if item is not None and next(turns) % 5 == 0:
            return await take(self, timeout_s=timeout_s)
        return item

    monkeypatch.setattr(queue.Queue, "take", forgetful)


@pytest.mark.parametrize(
    ("bug", "kinds", "found"),
    [
        (jumps_the_line, "lock", "too_many_holders"),
        (jumps_the_line, "election", "too_many_holders"),
        (one_place_more, "semaphore", "too_many_holders"),
        (token_of_the_listing, "lock", "token_fell"),
        (counts_without_a_guard, "increment read", "lost_increment"),
        (takes_without_a_guard, "enqueue take", "taken_twice"),
        (deletes_before_it_answers, "enqueue take", "item_lost"),
    ],
)
async def test_a_planted_bug_is_found(
    bug: Callable[[pytest.MonkeyPatch], None],
    kinds: str,
    found: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bug(monkeypatch)
    assert found in (await judged(tmp_path, *kinds.split())).anomalies


def op(name: str, start: int, end: int | None, key: str, **more: Any) -> ClientOperation:
    outcome: Any = "info" if end is None else "ok"
    return ClientOperation(f"c{start}", name, outcome, start, end, key=key, **more)


@pytest.mark.parametrize(
    ("operations", "anomalies"),
    [
        # a holder that trusts a lease which has ended, beside the next one
        (
            [
                op("acquire", 1, 2, "lock", result=True, token=5, max_age_ms=1),
                op("hold", 2, 9, "lock", result=True, token=5, value=1),
                op("acquire", 4, 5, "lock", result=True, token=8, max_age_ms=1),
                op("hold", 5, 7, "lock", result=True, token=8, value=1),
            ],
            ("too_many_holders",),
        ),
        # one that knew that it had lost it
        (
            [
                op("acquire", 1, 2, "lock", result=True, token=5, max_age_ms=1),
                op("hold", 2, 9, "lock", result=False, token=5, value=1),
                op("acquire", 4, 5, "lock", result=True, token=8, max_age_ms=1),
                op("hold", 5, 7, "lock", result=True, token=8, value=1),
            ],
            (),
        ),
        # an item of an unknown take is nowhere else
        (
            [
                op("enqueue", 1, 2, "queue", value="a", result=True),
                op("take", 3, None, "queue"),
                op("take", 5, 6, "queue", result=None),
            ],
            (),
        ),
        ([op("take", 5, 6, "queue", result="a")], ("taken_from_nowhere",)),
    ],
)
def test_histories(operations: list[ClientOperation], anomalies: tuple[str, ...]) -> None:
    found = recipes.check(operations).findings
    assert tuple(f.anomaly for f in found if f.verdict is Verdict.ILLEGAL) == anomalies


async def test_a_look_up_without_an_answer_leaves_the_write_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent:
        async def txn(self, **_: Any) -> Any:
            raise acordo.OutcomeUnknown("no answer", op_id="o")

        async def operation(self, *_: Any, **__: Any) -> Any:
            raise acordo.Unreachable("nobody", reason="unreachable")

        async def read(self, key: Any) -> Any:
            served = acordo.Served(node="n1", position=0)
            return acordo.Reading(key=b"k", value=None, revision=0, served=served)

    with pytest.raises(acordo.OutcomeUnknown):
        await client_recipes.update(Silent(), "k", lambda value: "v")  # type: ignore[arg-type]
