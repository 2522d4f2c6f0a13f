"""Run one plan: load, faults, healing, collecting, judging. It keeps all that it saw and decides
what the run is worth.

It never leaves a fault behind: an interrupted run heals everything, collects what it can and is
judged all the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import random
import shutil
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from acordo import AcordoError, Client
from chaos.checkers import judge as recheck
from chaos.checkers.verdict import Judgement, Verdict
from chaos.nemeses.base import Inflicted, Nemesis, inflict
from chaos.nemeses.fault_gauge import WINDOWS
from chaos.nemeses.names import EVERY
from chaos.records import collect
from chaos.records.history import HistoryError
from chaos.records.recorder import Recorder
from chaos.records.saved import FINAL_FILE, HISTORY_FILE, LEDGER_FILE, SavedRun, open_run
from chaos.records.subscriber import Subscriber, SubscriberFailed
from chaos.runs.schedule import Step, plan
from chaos.targets.base import Target
from chaos.targets.docker_stack import DockerTarget, NoStack
from chaos.targets.local import LocalTarget
from chaos.targets.services import Servers
from chaos.targets.urls import UrlTarget
from chaos.workloads.base import Load, Workload, WorkloadFailed
from chaos.workloads.names import WORKLOADS
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings

HEALTHY_WITHIN_S: Final = 120.0
"""For all nodes to be ready and one to lead, at first and after each fault. A slow machine may need
most of it.
"""
PROGRESS_S: Final = 1.0
SETTLED_FILE: Final = "settings.json"
FINAL_KEYS_MAX: Final = 600
"""Keys read through every node at every level at the end; a longer run draws as many by its
seed.
"""
TRAFFIC_MIN: Final = 40
"""Operations that took effect, per workload, below which a run proves nothing; long runs need as
many per minute.
"""
FINISH_WITHIN_S: Final = 180.0
TOLD_MAX: Final = 3
"""Undecided findings of one checker that are told one by one."""
BASE_PORT: Final = 23000
STEPS_TOLD: Final = 40
LONGER: Final = 3
"""A run that is to reach so many operations or faults may take so many times its time."""


class TargetUnfit(Exception):
    """The target cannot be reached, is not an Acordo, or is not healthy to begin with."""


@dataclass(frozen=True)
class Plan:
    """Everything that was asked for."""

    folder: Path
    workloads: tuple[str, ...]
    families: dict[str, tuple[str, ...]]
    seconds: float
    seed: int
    clients: int = 6
    rate: float | None = None
    pause_s: float = 0.01
    hot: int = 0
    operations: int = 0
    """The run goes on past its time until so many operations took effect, enough of them in each
    workload …
    """
    faults: int = 0
    """… and so many faults bit; at most LONGER times as long."""
    nodes: int = 3
    servers: tuple[str, ...] = ()
    at_once: bool = False
    broadcast: str = ""
    """URL of the target's broker; with private servers it is known."""
    target: str = "local"
    began: str = ""
    commit: str = ""
    quiet: bool = False
    node_command: tuple[str, ...] | None = None
    """Starts a node in place of `python -m node`; the teeth give another one."""
    node_environ: dict[str, str] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    """Faults in place of those that the seed plans."""
    nemeses: dict[str, type[Nemesis]] = field(default_factory=lambda: dict(EVERY))

    @property
    def command(self) -> str:
        """Return the command that does it again."""
        words = ["python -m chaos run", f"--workload {','.join(self.workloads)}"]
        if self.families:
            words.append(f"--nemesis {','.join(self.families)}")
        words += [f"--time {self.seconds:g}", f"--seed {self.seed}", f"--clients {self.clients}"]
        words += [f"--rate {self.rate:g}"] if self.rate else [f"--pause {self.pause_s:g}"]
        words += [f"--hot {self.hot}"] if self.hot else []
        words += [f"--operations {self.operations}"] if self.operations else []
        words += [f"--faults {self.faults}"] if self.faults else []
        words += [f"--nodes {self.nodes}"] if self.target == "local" and self.nodes != 3 else []
        words += [f"--servers {','.join(self.servers)}"] if self.servers else []
        words += ["--at-once"] if self.at_once else []
        words += [f"--broadcast {without_password(self.broadcast)}"] if self.broadcast else []
        words += [f"--target {self.target}"] if self.target != "local" else []
        return " ".join(words)


@dataclass
class Result:
    """What came of it."""

    plan: Plan
    schedule: list[Step]
    inflicted: list[Inflicted] = field(default_factory=list)
    judgements: list[Judgement] = field(default_factory=list)
    resolved: list[Judgement] = field(default_factory=list)
    """The same with unknown outcomes settled by their look-ups."""
    weak: list[str] = field(default_factory=list)
    """Why the run proves less than it should."""
    versions: dict[str, str] = field(default_factory=dict)
    run: SavedRun | None = None
    interrupted: bool = False

    @property
    def verdict(self) -> Verdict:
        return recheck.overall_verdict([*self.judgements, *self.resolved])

    @property
    def code(self) -> int:
        """Return the exit code: 1 anomaly, 2 weak, 0 neither."""
        if self.verdict is Verdict.ILLEGAL:
            return 1
        return 2 if self.weak else 0


class Interrupt:
    """Ctrl-C: the first time asks the run to end and to write its report, the second time ends the
    process.
    """

    def __init__(self) -> None:
        self.asked = asyncio.Event()

    def told(self) -> None:
        """Take one signal."""
        if self.asked.is_set():
            print("\nkilled: the report is not written", file=sys.stderr)
            os._exit(130)
        self.asked.set()
        print(
            "\ninterrupted: healing everything, then the report (once more: end at once)",
            file=sys.stderr,
        )


async def run(plan: Plan, *, interrupt: Interrupt | None = None) -> Result:
    """Do it all and return the result. Raises TargetUnfit."""
    interrupt = interrupt or Interrupt()
    plan.folder.mkdir(parents=True, exist_ok=True)
    steps = list(plan.steps) or schedule_of(plan)
    result = Result(plan, steps)
    _say(
        plan, f"seed {plan.seed}, workloads {', '.join(plan.workloads)}, run kept in {plan.folder}"
    )
    if steps:
        _say(
            plan,
            f"faults planned (those that fit into {plan.seconds:g} s are inflicted, in this order):",
        )
        for step in steps[:STEPS_TOLD]:
            _say(plan, f"  {step}")
        if len(steps) > STEPS_TOLD:
            _say(plan, f"  … and {len(steps) - STEPS_TOLD} more (all of them: {SETTLED_FILE})")
    else:
        _say(plan, "no faults injected")
    loaded = False
    try:
        async with target_of(plan) as target:
            if not await target.healthy(HEALTHY_WITHIN_S):
                raise TargetUnfit(f"the target was not healthy within {HEALTHY_WITHIN_S:g} s")
            result.versions = await _versions(plan, target)
            _write_settings(plan, result)
            await _loaded(plan, target, result, interrupt)
            loaded = True
    except TargetUnfit as exc:
        if not loaded:
            raise
        # on leaving it: what was seen until then is judged all the same
        result.weak.append(str(exc))
    _say(plan, "judging …")
    _judge(plan, result)
    if plan.target == "local" and result.verdict is not Verdict.ILLEGAL:
        for file in (plan.folder / "data").glob("**/*.sqlite*"):
            file.unlink()
        for folder in (plan.folder / "data").glob("*/raft"):
            shutil.rmtree(folder, ignore_errors=True)
    return result


def schedule_of(plan_: Plan) -> list[Step]:
    """Return the faults that the seed plans."""
    return plan(
        plan_.families,
        plan_.seconds * (LONGER if plan_.operations or plan_.faults else 1),
        plan_.seed,
    )


@contextlib.asynccontextmanager
async def target_of(plan: Plan) -> AsyncIterator[Target]:
    """Bring up, or reach, what is to be disturbed. Raises TargetUnfit."""
    if plan.target == "docker":
        try:
            async with DockerTarget() as containers:
                with WINDOWS.shown(await containers.gateway()) as trouble:
                    if trouble is not None:
                        _say(plan, f"the dashboard will not show the windows of faults: {trouble}")
                    yield containers
        except NoStack as exc:
            raise TargetUnfit(str(exc)) from exc
        return
    if plan.target != "local":
        try:
            async with UrlTarget(
                tuple(u.strip() for u in plan.target.split(",") if u.strip())
            ) as remote:
                yield remote
        except AcordoError as exc:
            raise TargetUnfit(f"{plan.target}: {exc}") from exc
        return
    async with AsyncExitStack() as stack:
        servers = Servers(plan.servers, Random(f"{plan.seed}/servers"))
        try:
            urls = await stack.enter_async_context(servers)
        except (OSError, RuntimeError, TimeoutError) as exc:
            raise TargetUnfit(f"a private server did not start: {exc}") from exc
        settings = RunnerSettings(
            nodes=plan.nodes,
            base_port=free_base_port(plan.nodes, BASE_PORT + os.getpid() % 500 * 10),
            data=plan.folder / "data",
            drain_timeout_s=3,
            **urls,  # type: ignore[arg-type]  # store, cache, broadcast
        )
        target = LocalTarget(
            settings,
            Random(f"{plan.seed}/links"),
            extra=plan.node_environ,
            command=plan.node_command,
            servers=servers,
            clocks=any(
                {"clocks", "disks"} & plan.nemeses[s.nemesis].needs
                for s in plan.steps or schedule_of(plan)
            ),
        )
        await stack.enter_async_context(target)
        yield target


def entrances(target: Target) -> tuple[str, ...]:
    """Return where clients come in: through every node, and through the balancer where there is
    one.

    Without the latter a fault of nginx would hit nobody.
    """
    balancer = target.balancer_url if isinstance(target, DockerTarget) else ""
    return (*target.urls, balancer) if balancer else target.urls


async def _versions(plan: Plan, target: Target) -> dict[str, str]:
    told = {
        "python": platform.python_version(),
        "system": platform.platform(),
        "commit": plan.commit or "?",
    }
    for name in ("aiohttp", "uvloop", "pysyncobj", "msgspec"):
        with contextlib.suppress(PackageNotFoundError):
            told[name] = version(name)
    for node, url in zip(target.nodes, target.urls, strict=True):
        with contextlib.suppress(AcordoError):
            async with Client(url, retries=False, timeout_s=3) as client:
                state = await client.cluster()
                told[f"node {node}"] = f"{state.node}, {state.role} in term {state.term}"
    return told


def _write_settings(plan: Plan, result: Result) -> None:
    kept = {
        "command": plan.command,
        "seed": plan.seed,
        "began": plan.began,
        "workloads": plan.workloads,
        "families": plan.families,
        "seconds": plan.seconds,
        "clients": plan.clients,
        "rate": plan.rate,
        "pause_s": plan.pause_s,
        "nodes": plan.nodes,
        "servers": plan.servers,
        "at_once": plan.at_once,
        "target": plan.target,
        "schedule": [str(s).strip() for s in result.schedule],
        "versions": result.versions,
    }
    (plan.folder / SETTLED_FILE).write_bytes(
        msgspec.json.format(msgspec.json.encode(kept), indent=2)
    )


# --------------------------------------------------------------------------------------------- load


async def _loaded(plan: Plan, target: Target, result: Result, interrupt: Interrupt) -> None:
    """Load and disturb; heal; collect. Everything goes to files of the run."""
    stamp = f"{time.time_ns():x}"
    prefix = f"chaos/{plan.seed}/{stamp}/"
    load = {
        name: Load(
            entrances(target),
            plan.seed,
            prefix,
            clients=plan.clients,
            rate=plan.rate,
            pause_s=plan.pause_s,
            hot=plan.hot,
        )
        for name in plan.workloads
    }
    header: dict[str, Any] = {"began": plan.began, "command": plan.command}
    for name in plan.workloads:
        # A workload says what its checker must know before anything is recorded.
        header |= WORKLOADS[name](load[name], Recorder(plan.folder / "none")).settings()
    with Recorder(plan.folder / HISTORY_FILE, seed=plan.seed, settings=header) as recorder:
        workloads = [WORKLOADS[name](load[name], recorder) for name in plan.workloads]
        stop, quiet = asyncio.Event(), asyncio.Event()
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            stack.callback(quiet.set)
            stack.callback(stop.set)
            tasks.create_task(collect.observe(target.looking_urls, recorder, quiet))
            try:
                subscriber = await _subscribed(
                    plan, target, stack, recorder, f"acordo.chaos.{stamp}"
                )
                for workload in workloads:
                    await workload.open(stack)
                    await workload.set_up(workload.workers[0])
            except (WorkloadFailed, SubscriberFailed, AcordoError) as exc:
                result.weak.append(f"a workload could not be set up: {exc}")
                return
            loads = [tasks.create_task(w.run(stop)) for w in workloads]
            progress = tasks.create_task(_progress(plan, recorder, result))
            await _disturb(plan, target, recorder, result, interrupt)
            stop.set()
            progress.cancel()
            _say(plan, "load over, healing and collecting …")
            if not await target.healthy(HEALTHY_WITHIN_S):
                result.weak.append(
                    f"the cluster was not healthy within {HEALTHY_WITHIN_S:g} s after the last fault"
                )
            try:
                async with asyncio.timeout(max(FINISH_WITHIN_S, plan.seconds / 4)):
                    await asyncio.gather(*loads)
                    for workload in workloads:
                        await workload.finish(workload.workers)
                    async with Client(list(target.looking_urls)) as client:
                        left = await collect.look_up(client, recorder.unknown, recorder)
                        if subscriber is not None and not await subscriber.reach_end(
                            client, f"{prefix}end"
                        ):
                            result.weak.append(
                                "the broker's subscriber was not told of the last write in time"
                            )
                    if left:
                        result.weak.append(f"{left} unknown writes could not be looked up")
            except TimeoutError:
                result.weak.append("the last operations and look-ups were not over in time")
                for task in loads:
                    task.cancel()
            quiet.set()
        result.weak += _thin(plan, target, recorder, workloads)
        result.interrupted = interrupt.asked.is_set()
        if result.interrupted:
            result.weak.append("the run was interrupted")
    await _collect(plan, target, result)


async def _subscribed(
    plan: Plan, target: Target, stack: AsyncExitStack, recorder: Recorder, queue: str
) -> Subscriber | None:
    """Subscribe to the target's broker, if it has one that we know. Raises SubscriberFailed."""
    servers = target.servers if isinstance(target, LocalTarget) else None
    url = plan.broadcast or (servers.broadcast if servers is not None else "")
    if not url:
        return None
    async with Client(target.looking_urls) as client:
        names = (await client.cluster()).raw.get("channels")
    exchange = names["changes"] if isinstance(names, dict) else "acordo.changes"
    return await stack.enter_async_context(Subscriber(url, exchange, queue, recorder))


def without_password(url: str) -> str:
    """Return a URL that can be shown."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":…@") if parts.password else url


async def _disturb(
    plan: Plan, target: Target, recorder: Recorder, result: Result, interrupt: Interrupt
) -> None:
    """Inflict the steps one after another (or a lane each) until the time or the steps are over, or
    Ctrl-C.
    """
    loop = asyncio.get_running_loop()
    ends = loop.time() + plan.seconds
    latest = ends + (LONGER - 1) * plan.seconds

    asked = bool(plan.operations or plan.faults)

    def over() -> bool:
        """Say whether the time is over, and all that was asked for is reached or out of reach."""
        bit = sum(f.proof is not None for f in result.inflicted)
        reached = recorder.count("ok") >= plan.operations and bit >= plan.faults
        enough = not asked or (reached and not _few(plan, recorder))
        return loop.time() >= (ends if enough else latest)

    lanes: dict[str, list[Step]] = {}
    for step in result.schedule:
        lane = "+".join(sorted(plan.nemeses[step.nemesis].needs)) if plan.at_once else ""
        lanes.setdefault(lane, []).append(step)

    async def one(lane: list[Step]) -> None:
        for step in lane:
            lasts = not (asked or plan.steps)
            if not plan.steps and (over() or (lasts and loop.time() + step.gap_s >= ends)):
                return
            await asyncio.sleep(step.gap_s)
            nemesis = plan.nemeses[step.nemesis](target, Random(f"{plan.seed}/{step.number}"))
            hold_s = max(0.5, min(step.hold_s, ends - loop.time())) if lasts else step.hold_s
            result.inflicted.append(await inflict(nemesis, recorder, hold_s))
            if not plan.at_once and not await target.healthy(HEALTHY_WITHIN_S):
                result.weak.append(
                    f"not healthy within {HEALTHY_WITHIN_S:g} s after {step.nemesis}"
                )

    async def all_lanes() -> None:
        async with asyncio.TaskGroup() as tasks:
            for lane in lanes.values():
                tasks.create_task(one(lane))

    faults, told = asyncio.create_task(all_lanes()), asyncio.create_task(interrupt.asked.wait())
    try:
        await asyncio.wait({faults, told}, return_when=asyncio.FIRST_COMPLETED)
        while not interrupt.asked.is_set() and not over():
            await collect.wait(interrupt.asked, min(max(ends - loop.time(), 0.05), PROGRESS_S))
    finally:
        told.cancel()
        faults.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await faults


def _thin(
    plan: Plan, target: Target, recorder: Recorder, workloads: Sequence[Workload]
) -> list[str]:
    """Return where there was too little traffic, or none that counts."""
    found = _few(plan, recorder)
    for workload in workloads:
        if workload.complaints:
            found.append(f"{workload.name} was told that it asks wrongly: {workload.complaints[0]}")
    if (done := recorder.count("ok")) < plan.operations:
        found.append(f"{done} operations took effect, {plan.operations} were asked for")
    # Of somebody else's cluster the URLs are known and not the names: there the answers are counted
    # alone.
    named = not isinstance(target, UrlTarget)
    silent = (
        len(set(target.nodes) - set(recorder.nodes))
        if named
        else len(target.nodes) - len(recorder.nodes)
    )
    if silent > 0:
        found.append(f"{silent} of {len(target.nodes)} nodes answered nothing")
    return found


def _few(plan: Plan, recorder: Recorder) -> list[str]:
    """Return the workloads of which too few operations took effect."""
    least = max(TRAFFIC_MIN, int(TRAFFIC_MIN * plan.seconds / 60))
    counts = {name: recorder.count("ok", workload=name) for name in plan.workloads}
    return [
        f"too little traffic: {done} operations of {name} took effect, {least} are the least"
        for name, done in counts.items()
        if done < least
    ]


async def _progress(plan: Plan, recorder: Recorder, result: Result) -> None:
    if plan.quiet:
        return
    live = sys.stdout.isatty()
    began, last, n = time.monotonic(), 0, 0
    while True:
        await asyncio.sleep(PROGRESS_S)
        n += 1
        ok = recorder.count("ok")
        last_fault = result.inflicted[-1] if result.inflicted else None
        told = (
            f"last fault {last_fault.nemesis} {','.join(last_fault.targets)}" if last_fault else ""
        )
        line = (
            f"{time.monotonic() - began:6.0f} s  {ok:>8} ok {ok - last:>6}/s  {recorder.count('fail'):>6} failed  "
            f"{recorder.count('info'):>5} unknown  {len(result.inflicted):>3} faults  {told}"
        )
        last = ok
        if live:
            print(f"\r\x1b[2K{line[:150]}", end="", flush=True)
        elif n % 5 == 0:
            print(line, flush=True)


def _say(plan: Plan, line: str) -> None:
    if plan.quiet:
        return
    print(("\r\x1b[2K" if sys.stdout.isatty() else "") + line, flush=True)


# --------------------------------------------------------------------------- collecting and judging


async def _collect(plan: Plan, target: Target, result: Result) -> None:
    try:
        async with Client(list(target.looking_urls)) as client:
            await collect.write_ledger(client, plan.folder / LEDGER_FILE)
    except AcordoError as exc:
        (plan.folder / LEDGER_FILE).unlink(missing_ok=True)
        result.weak.append(f"the ledger could not be read whole: {exc}")
    keys = _final_keys(plan)
    found = await collect.evidence(
        target.looking_urls,
        keys,
        broker=bool(plan.broadcast) or "rabbitmq" in plan.servers,
        wiped=any(f.nemesis == "rabbitmq-wipe" for f in result.inflicted),
    )
    (plan.folder / FINAL_FILE).write_bytes(msgspec.json.encode(found))


def _final_keys(plan: Plan) -> list[str]:
    from chaos.records.saved import load_history

    history = load_history(plan.folder / HISTORY_FILE)
    keys = list(
        dict.fromkeys(
            o.key for o in history.operations if o.op in {"put", "cas", "delete"} and o.key
        )
    )
    if len(keys) > FINAL_KEYS_MAX:
        keys = random.Random(f"{plan.seed}/final").sample(keys, FINAL_KEYS_MAX)
    return keys


def _judge(plan: Plan, result: Result) -> None:
    """Judge as recorded (trusting no server), and with look-ups; add what is weak about the faults
    and the verdicts.
    """
    try:
        result.run = open_run(plan.folder)
    except HistoryError as exc:
        result.weak.append(f"cannot be judged: {exc}")
        return
    result.judgements = recheck.judge(result.run)
    if result.run.history.lookups:
        result.resolved = recheck.judge(result.run, resolved=True)
    for judged in (*result.judgements, *result.resolved):
        undecided = [f.message for f in judged.findings if f.verdict is Verdict.UNKNOWN]
        result.weak += [
            f"undecided by {judged.checker}: {message}" for message in undecided[:TOLD_MAX]
        ]
        if len(undecided) > TOLD_MAX:
            result.weak.append(f"undecided by {judged.checker}: {len(undecided) - TOLD_MAX} more")
    for name in plan.workloads:
        if not any(j.operations for j in result.judgements if j.checker == name):
            result.weak.append(f"nothing of {name} was judged")
    for fault in result.inflicted:
        if fault.skipped is not None:
            result.weak.append(f"{fault.nemesis} was skipped: {fault.skipped}")
        elif fault.proof is None:
            result.weak.append(
                f"{fault.nemesis} did not bite" + (f": {fault.error}" if fault.error else "")
            )
        elif fault.error is not None:
            result.weak.append(f"{fault.nemesis}: {fault.error}")
    bit = sum(f.proof is not None for f in result.inflicted)
    if bit < plan.faults:
        result.weak.append(f"{bit} faults bit, {plan.faults} were asked for")
    tried = {f.nemesis for f in result.inflicted}
    for family, names in plan.families.items():
        if not tried & set(names):
            result.weak.append(f"no fault of {family} was tried in the time given")
    result.weak = list(dict.fromkeys(result.weak))
