"""The checker of etcd's gateway names each anomaly that is planted in a small history, and its
client says by an error what an answer means.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from acordo import AcordoError, BadRequest, NotApplied, OutcomeUnknown
from chaos.checkers import etcd
from chaos.checkers.verdict import Verdict
from chaos.records.history import ClientOperation
from chaos.records.recorder import Recorder
from chaos.records.saved import load_history
from chaos.workloads import tooz_processes
from chaos.workloads.gateway import Gateway, LeaseGone, b64, text_of

S = 1_000_000_000


def op(name: str, start_s: float, key: str, value: Any, **fields: Any) -> ClientOperation:
    start, end = int(start_s * S), int((start_s + 0.01) * S)
    fields = {"result": True} | fields
    return ClientOperation(1, name, "ok", start, end, key=key, value=value, **fields)


def grant(start_s: float, lease: str) -> ClientOperation:
    return op("grant", start_s, lease, 1_000)


def keep(start_s: float, lease: str, there: bool = True) -> ClientOperation:
    return op("keep", start_s, lease, 1_000, result=there)


def acquire(start_s: float, lease: str, token: int) -> ClientOperation:
    return op("acquire", start_s, "lock", lease, token=token)


def use(start_s: float, lease: str, token: int, revision: int, held: bool) -> ClientOperation:
    return op("use", start_s, "lock", lease, token=token, revision=revision, result=held)


def read(start_s: float, *leases: str) -> ClientOperation:
    return op("read", start_s, "group", None, result=list(leases))


RIGHT = [
    grant(0, "a"),
    grant(0, "b"),
    acquire(0.1, "a", 5),
    use(0.2, "a", 5, 6, held=True),
    op("release", 0.3, "lock", "a"),
    acquire(0.4, "b", 7),
    op("join", 0.5, "group", "a"),
    op("join", 0.5, "group", "b"),
    keep(0.6, "a"),
    read(0.7, "a", "b"),
    op("leave", 0.8, "group", "b"),
    read(0.9, "a"),
    use(1.5, "b", 7, 9, held=False),
    keep(1.55, "b", there=False),
    acquire(1.58, "a", 10),
    read(1.7),
]
PLANTED: dict[str, list[ClientOperation]] = {
    "two_holders": [*RIGHT, acquire(0.2, "b", 6)],
    "fence_passed_back": [*RIGHT, use(0.45, "b", 7, 8, held=True), use(0.42, "a", 5, 9, held=True)],
    "left_and_there": [*RIGHT, read(0.95, "a", "b")],
    "ended_early": [*RIGHT, read(0.75, "b")],
    "came_back": [*RIGHT, keep(1.9, "b")],
    "token_fell": [*RIGHT, acquire(2.5, "c", 4)],
}


def test_what_is_right_is_not_reported() -> None:
    judged = etcd.check(RIGHT)
    assert (judged.anomalies, judged.verdict) == ((), Verdict.OK)
    assert judged.figures["acquired"] == 3
    assert judged.figures["groups_read"] == 3


@pytest.mark.parametrize("anomaly", PLANTED)
def test_each_anomaly_is_named(anomaly: str) -> None:
    assert anomaly in etcd.check(PLANTED[anomaly]).anomalies


def test_a_lock_is_held_no_longer_than_its_lease_was_promised() -> None:
    late = acquire(1.2, "b", 9)
    held = [grant(0, "a"), grant(0.5, "b"), acquire(0.1, "a", 5), late, keep(2.5, "a", there=False)]
    assert etcd.check(held).anomalies == ()
    assert "two_holders" in etcd.check([*held, keep(0.3, "a")]).anomalies


def test_a_member_that_joins_again_may_be_there() -> None:
    again = [*RIGHT[:12], op("join", 0.91, "group", "b"), read(0.95, "a", "b"), *RIGHT[12:]]
    assert etcd.check(again).anomalies == ()


def test_a_member_of_whom_it_is_not_known_whether_he_left_may_be_there_or_not() -> None:
    leaving = ClientOperation(1, "leave", "info", int(0.65 * S), None, key="group", value="a")
    for seen in ([], ["a"]):
        told = [*RIGHT[:9], leaving, read(0.7, "b", *seen), RIGHT[12], RIGHT[13]]
        assert etcd.check(told).anomalies == ()


ANSWERS: dict[str, tuple[int, Any, type[AcordoError]]] = {
    "unknown": (503, {"code": 14, "message": "x: it may have been applied"}, OutcomeUnknown),
    "not applied": (503, {"code": 14, "message": "no leader"}, NotApplied),
    "overloaded": (503, {"code": 8, "message": "too many"}, NotApplied),
    "no lease": (404, {"code": 5, "message": "etcdserver: requested lease not found"}, LeaseGone),
    "session": (500, {"code": 2, "message": "session is expired"}, LeaseGone),
    "wrong": (400, {"code": 3, "message": "etcdserver: key is not provided"}, BadRequest),
    "a proxy": (502, {"detail": "no node"}, OutcomeUnknown),
}


@pytest.mark.parametrize("kind", ANSWERS)
async def test_each_answer_has_its_error(kind: str) -> None:
    status, body, error = ANSWERS[kind]

    async def refuse(request: web.Request) -> web.Response:
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_post("/v3/kv/put", refuse)
    async with TestServer(app) as server, Gateway([f"{server.make_url('')}"], timeout_s=5) as asked:
        with pytest.raises(error):
            await asked.ask("kv/put", key=b64("k"))


async def test_nobody_there_means_that_nothing_was_changed() -> None:
    async with Gateway(["http://127.0.0.1:1"], timeout_s=5) as asked:
        with pytest.raises(NotApplied):
            await asked.ask("kv/put", key=b64("k"))


def test_texts_are_written_as_the_gateway_has_them() -> None:
    assert (b64("foo"), text_of("YmFy")) == ("Zm9v", "bar")


TELLS = """
import json, sys
assert sys.argv[2:] == ["p/", "7/0", "3"], sys.argv
told = (0, "acquire", "ok"), (1, "grant", "ok"), (2, "keep", "info"), (3, "read", "ok")
for n, op, outcome in told:
    end = {} if outcome == "info" else {"end_ns": n + 1}
    print(json.dumps({"op": op, "key": "k", "start_ns": n, "outcome": outcome} | end), flush=True)
sys.stdin.read()
print(json.dumps({"op": "read", "key": "last", "start_ns": 9, "end_ns": 10, "outcome": "ok"}))
"""


async def test_what_processes_tell_is_recorded_until_they_are_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "tells.py"
    program.write_text(TELLS)
    monkeypatch.setattr(tooz_processes, "PROGRAM", program)
    stop = asyncio.Event()
    with Recorder(tmp_path / "h.jsonl") as recorder:
        processes = tooz_processes.ToozProcesses(recorder, "etcd", prefix="p/", seed=7)
        running = asyncio.create_task(processes.run(sys.executable, ["http://x"], stop))
        async with asyncio.timeout(30):
            while recorder.count() < 4:
                await asyncio.sleep(0.01)
        stop.set()
        await running
    told = load_history(tmp_path / "h.jsonl").operations
    assert [(o.client, o.op) for o in told] == [
        ("tooz0.0", "acquire"), ("tooz0.0-leases", "grant"), ("tooz0.0", "keep"),
        ("tooz0.1", "read"), ("tooz0.1", "read"),
    ]  # fmt: skip
    assert {o.workload for o in told} == {"etcd"}
