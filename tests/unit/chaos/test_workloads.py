"""Workers record each operation once, with the outcome that its ending means; an unknown one ends a
name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

import pytest

from acordo import (
    AcordoError,
    BadRequest,
    Client,
    NotApplied,
    OutcomeUnknown,
    PreconditionFailed,
    ReadFailed,
    Served,
    Unreachable,
)
from chaos.records.history import ClientOperation
from chaos.records.recorder import Recorder
from chaos.records.saved import load_history
from chaos.workloads.base import LoadSettings, Observed, Rotation, Worker, Workload
from chaos.workloads.catalogue import WORKLOADS
from chaos.workloads.lock import Resource


class Nothing(Workload):
    name = "nothing"

    async def step(self, worker: Worker) -> None:
        await worker.do("put", answered(Observed()), key="k", value=worker.unique())


def answered(seen: Observed) -> Callable[[], Awaitable[Observed]]:
    async def call() -> Observed:
        return seen

    return call


def raising(exc: BaseException) -> Callable[[], Awaitable[Observed]]:
    async def call() -> Observed:
        raise exc

    return call


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    with Recorder(tmp_path / "h.jsonl", clock=count(1).__next__) as made:
        yield made


@pytest.fixture
def worker(recorder: Recorder) -> Worker:
    workload = Nothing(LoadSettings(("http://127.0.0.1:1",), 7, "p/"), recorder)
    return Worker("w0", 0, Client("http://127.0.0.1:1"), Random(1), workload)


def refused() -> PreconditionFailed:
    return PreconditionFailed(
        "no", guard=0, key=b"k", current=3, revision=9, op_id="o", node="n2", attempts=2
    )


ENDINGS: dict[str, tuple[AcordoError, str, bool, str, Any]] = {
    # name: (raised, op, observes a refusal, outcome, result)
    "not applied": (NotApplied("no leader", reason="no_leader"), "put", False, "fail", None),
    "unreachable": (Unreachable("nobody", reason="unreachable"), "put", False, "fail", None),
    "malformed": (BadRequest("odd", code="odd"), "put", False, "fail", None),
    "unknown write": (OutcomeUnknown("time-out"), "put", False, "info", None),
    "failed read": (ReadFailed("time-out", reason="timeout"), "get", False, "fail", None),
    "unknown read": (OutcomeUnknown("time-out"), "get", False, "fail", None),
    "refusal that says something": (refused(), "cas", True, "ok", False),
    "refusal that says nothing": (refused(), "txn", False, "fail", False),
}


@pytest.mark.parametrize("kind", ENDINGS)
async def test_each_ending_has_its_outcome(kind: str, worker: Worker) -> None:
    raised, op, observes, *expected = ENDINGS[kind]
    outcome, result = expected
    done = await worker.do(op, raising(raised), observes_refusal=observes, key="k", value=1)
    assert done.outcome == outcome
    assert (done.end_ns is None) == (outcome == "info")
    if result is not None:
        assert (done.result, done.revision, done.node, done.attempts) == (result, 9, "n2", 2)
    assert worker.logical == ("w0.1" if outcome == "info" else "w0")


async def test_an_answer_is_recorded_with_all_that_explains_it(
    worker: Worker, recorder: Recorder, tmp_path: Path
) -> None:
    served = Served(node="n3", position=12, level="stale", age_ms=40)
    done = await worker.do(
        "get", answered(Observed(served, "v", 12, 9, attempts=2)), key="k", level="stale"
    )
    assert done == ClientOperation(
        "w0",
        "get",
        "ok",
        1,
        2,
        key="k",
        result="v",
        workload="nothing",
        level="stale",
        served="stale",
        node="n3",
        revision=12,
        version=9,
        age_ms=40,
        attempts=2,
    )
    recorder.__exit__(None, None, None)
    assert load_history(tmp_path / "h.jsonl").operations == [done]
    recorder.__enter__()


async def test_a_cancelled_write_is_unknown_and_an_attempt_of_its_own_is_named(
    worker: Worker, recorder: Recorder
) -> None:
    async def call() -> Observed:
        worker.attempt = "op.2"
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await worker.do("put", call, key="k", value=1, op_id="op.1")
    assert recorder.ended["nothing", "put", "info"] == 1
    assert worker.life == 1
    assert (await worker.do("put", answered(Observed()), key="k", value=2, op_id="x")).op_id == "x"


async def test_what_a_client_remembered_is_forgotten_with_its_name(worker: Worker) -> None:
    worker.memory["k"] = 1
    await worker.do("put", raising(OutcomeUnknown("?")), key="k", value=1)
    assert worker.memory == {}


async def test_malformed_requests_are_told(worker: Worker) -> None:
    await worker.do("put", raising(BadRequest("odd", code="odd")), key="k", value=1)
    assert worker.workload.complaints == ["odd: odd"]


def test_values_and_op_ids_are_unique_across_workers_and_lives(worker: Worker) -> None:
    other = Worker("w1", 1, worker.client, Random(1), worker.workload)
    made = [f() for w in (worker, other) for _ in range(50) for f in (w.unique, w.op_id)]
    assert len(set(made)) == len(made)
    assert all("/" not in m for m in made)


def test_keys_are_given_up_after_a_random_number_of_operations() -> None:
    rotation = Rotation("p/", Random(3), 2, (5, 9))
    used = [rotation.key(0) for _ in range(100)]
    lengths = [used.count(k) for k in dict.fromkeys(used)]
    assert all(5 <= n <= 9 for n in lengths[:-1])
    assert len(set(lengths)) > 1
    assert rotation.every == list(dict.fromkeys(used))
    rotation.retire(0)
    assert rotation.key(0) != used[-1]


def test_a_resource_refuses_tokens_below_the_highest() -> None:
    resource = Resource()
    assert [resource.use(t) for t in (3, 5, 4, 5, 6)] == [True, True, False, True, True]


@pytest.mark.parametrize("rate", [None, 400.0])
async def test_loops_make_operations_until_they_are_stopped_and_lose_none(
    rate: float | None, recorder: Recorder, tmp_path: Path
) -> None:
    workload = Nothing(
        LoadSettings(("http://127.0.0.1:1",), 7, "p/", clients=4, rate=rate), recorder
    )
    stop = asyncio.Event()
    async with AsyncExitStack() as stack:
        await workload.open(stack)
        running = asyncio.create_task(workload.run(stop))
        async with asyncio.timeout(20):
            while recorder.count("ok") < 60:
                await asyncio.sleep(0.01)
        stop.set()
        await running
    recorder.__exit__(None, None, None)
    history = load_history(tmp_path / "h.jsonl")
    recorder.__enter__()
    assert len(history.operations) == recorder.count()
    assert len({o.value for o in history.operations}) == len(history.operations)
    assert {o.client for o in history.operations} <= {w.name for w in workload.workers}


def test_every_workload_has_a_name_and_the_same_seed_makes_the_same_choices(
    recorder: Recorder,
) -> None:
    assert set(WORKLOADS) == {
        "register",
        "set",
        "append",
        "bank",
        "watch",
        "session",
        "stale",
        "lock",
        "counter",
        "ttl",
        "lease",
        "recipes",
        "etcd",
    }
    for kind in WORKLOADS.values():
        one, other = (
            kind(LoadSettings(("http://127.0.0.1:1",), 7, "p/"), recorder) for _ in range(2)
        )
        assert [one.rng.random() for _ in range(5)] == [other.rng.random() for _ in range(5)]
        assert one.prefix.startswith("p/")


def test_an_interrupted_run_leaves_a_whole_history(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Recorder(tmp_path / "h.jsonl", seed=5) as recorder:
            recorder.add(ClientOperation(1, "put", "ok", 1, 2, key="k", value=1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    history = load_history(tmp_path / "h.jsonl")
    assert len(history.operations) == 1
    assert history.header is not None
    assert history.header.seed == 5
