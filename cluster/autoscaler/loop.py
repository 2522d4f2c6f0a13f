"""Add and remove observers, never voters, depending on what Prometheus reports.

Each round looks at the actual members and containers or processes, repairs what a crash left half
done, asks `plan`, and makes at most one change. An observer drains before it is removed. A name is
never used twice, because a member that came back without its log could vote twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from typing import Final

import aiohttp
import msgspec
import structlog
from prometheus_client import Counter, Gauge

from acordo import AcordoError, Client
from cluster.autoscaler.driver import Driver, NotReady
from cluster.autoscaler.figures import QUERIES, asked, value_of
from cluster.autoscaler.plan import Band, Bounds, Decision, Figures, Memory, plan
from cluster.settings.autoscaler import AutoscalerSettings
from kv.errors import BadRequest

READY_WITHIN_S: Final = 120.0
ASK_TIMEOUT_S: Final = 5.0
CHANGE_TIMEOUT_S: Final = 10.0
CLEAN_UP_WITHIN_S: Final = 60.0
"""Longest time for removing an observer that did not become ready. If that is not enough, the next
round removes it.
"""
ROUND_WITHIN_S: Final = 420.0
"""Longest time that one round may take before it counts as failed. It leaves a slow engine enough
time to add an observer and to remove it again.
"""
DECISIONS_KEPT: Final = 100
QUIET: Final = ("steady", "at_minimum")
"""Reasons that are logged at info level only when they are new, not in every round."""
FAILURES_MAX: Final = 5
"""After this many failed rounds in a row the log says error instead of warning."""

_DECISIONS: Final = Counter(
    "acordo_autoscaler_decisions", "Decisions, by what was done and why.", ["change", "reason"]
)
_FAILED: Final = Counter("acordo_autoscaler_failed", "Rounds that failed, by step.", ["step"])
_OBSERVERS: Final = Gauge("acordo_autoscaler_observers", "Observers that run and are members.")
_FIGURES: Final = Gauge("acordo_autoscaler_figure", "Figures of the last decision.", ["figure"])
_log = structlog.get_logger("acordo.autoscaler")


class Autoscaler:
    """The control loop over one cluster, one Prometheus and one driver."""

    def __init__(
        self,
        settings: AutoscalerSettings,
        client: Client,
        http: aiohttp.ClientSession,
        driver: Driver,
    ) -> None:
        self.settings, self.driver = settings, driver
        self.client, self.http = client, http
        self.bounds = bounds_of(settings)
        self.memory = Memory()
        self.decisions: list[Decision] = []
        """The last DECISIONS_KEPT decisions, oldest first."""

    async def serve(self) -> None:
        """Run rounds for ever. A round that fails is logged, counted and tried again."""
        failures = 0
        while True:
            try:
                async with asyncio.timeout(ROUND_WITHIN_S):
                    await self.round()
                failures = 0
            except (
                AcordoError,
                BadRequest,
                aiohttp.ClientError,
                TimeoutError,
                OSError,
                NotReady,
                NoQuorum,
            ) as exc:
                failures += 1
                kind = type(exc).__name__
                _FAILED.labels(kind).inc()
                say = _log.error if failures >= FAILURES_MAX else _log.warning
                say("round failed", kind=kind, reason=str(exc)[:500])
            await asyncio.sleep(self.settings.autoscaler_period_s)

    async def round(self) -> Decision:
        """Run one round: repair what is inconsistent, decide, and act. Return the decision."""
        observers = await self.reconcile()
        figures = await self.figures()
        loop = asyncio.get_running_loop()
        decision = plan(figures, len(observers), self.bounds, self.memory, loop.time())
        self.memory = decision.memory
        again = bool(self.decisions) and self.decisions[-1].reason == decision.reason
        self.decisions = [*self.decisions[1 - DECISIONS_KEPT :], decision]
        _DECISIONS.labels(str(decision.change), decision.reason).inc()
        _OBSERVERS.set(len(observers))
        say = _log.debug if again and decision.reason in QUIET else _log.info
        say(
            "decided",
            change=decision.change,
            reason=decision.reason,
            because=decision.because,
            observers=len(observers),
            **msgspec.to_builtins(figures),
        )
        try:
            if decision.change > 0:
                await self.add()
            elif decision.change < 0:
                await self.remove(observers[-1])
        finally:  # a change that failed may have taken effect in part, so the cool-down begins too
            self.memory = _rested(self.memory, decision, loop.time())
        return decision

    async def reconcile(self) -> list[str]:
        """Return our observers that both run and are members, oldest first; remove the others.

        Raises NoQuorum if the node that answers reaches no quorum: its list of members may be old,
        and acting on it could remove an observer that is fine.
        """
        view = await self.client.cluster(timeout_s=CHANGE_TIMEOUT_S)
        if not view.quorum:
            raise NoQuorum(
                f"{view.node} reaches no quorum: what it knows of the members may be old"
            )
        members = {m.id for m in view.members if not m.voter and ours(m.id)}
        running = await self.driver.running()
        for name in sorted(running - members):
            _log.warning("runs without being a member", observer=name)
            await self.driver.stop(name)
        for name in sorted(members - running):
            _log.warning("is a member without running", observer=name)
            await self.driver.stop(name)
            await self.client.remove_member(name, timeout_s=CHANGE_TIMEOUT_S)
        return sorted(members & running)

    async def add(self) -> str:
        """Start one observer, wait until it is ready, and return its name.

        If any step fails, the observer is removed again and the error is raised: NotReady if it did
        not become ready within READY_WITHIN_S.
        """
        view = await self.client.cluster(timeout_s=CHANGE_TIMEOUT_S)
        name = f"o{time.time_ns() // 1_000_000:x}"
        others = ",".join(
            f"{m.id}={m.raft_address}{'' if m.voter else '/observer'}" for m in view.members
        )
        address, url = await self.driver.start(name, others)
        try:
            await self.client.add_member(
                name, raft_address=address, url=url, timeout_s=CHANGE_TIMEOUT_S
            )
            await self._ready(url)
        except BaseException:
            _FAILED.labels("start").inc()
            # What fails here (an engine's errors are OSErrors) must not hide why it was needed; the
            # next round's `reconcile` removes what is left.
            with contextlib.suppress(AcordoError, TimeoutError, OSError, NotReady):
                async with asyncio.timeout(CLEAN_UP_WITHIN_S):
                    await self.driver.stop(name)
                    await self.client.remove_member(name, timeout_s=CHANGE_TIMEOUT_S)
            raise
        _log.info("observer added", observer=name, url=url)
        _OBSERVERS.inc()
        return name

    async def remove(self, name: str) -> None:
        """Stop one observer, then remove it from the members.

        In the other order it would refuse the requests that it still holds.
        """
        await self.driver.stop(name)
        await self.client.remove_member(name, timeout_s=CHANGE_TIMEOUT_S)
        _log.info("observer removed", observer=name)
        _OBSERVERS.dec()

    async def _ready(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + READY_WITHIN_S
        while loop.time() < give_up:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self.http.get(url + "/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.25)
        raise NotReady(f"{url} was not ready within {READY_WITHIN_S:g} s")

    async def figures(self) -> Figures:
        """Query Prometheus. A figure that it does not have is None."""
        found = {name: await self._ask(query) for name, query in QUERIES.items()}
        for name, value in found.items():
            _FIGURES.labels(name).set(math.nan if value is None else value)
        return Figures(found["in_flight"], found["p99_s"], found["cpu"])

    async def _ask(self, query: str) -> float | None:
        try:
            answer = await asked(self.http, self.settings.autoscaler_prometheus, query)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            _FAILED.labels("prometheus").inc()
            return None
        return value_of(answer)


class NoQuorum(Exception):
    """The node that answered reaches no quorum."""


def _rested(memory: Memory, decision: Decision, now: float) -> Memory:
    """Return the memory with the cool-down starting at `now`, when the change has ended."""
    return Memory(memory.high, memory.low, now) if decision.change else memory


def ours(member: str) -> bool:
    """Return whether a member's name is one that the autoscaler makes."""
    return (
        len(member) >= 10 and member[0] == "o" and all(c in "0123456789abcdef" for c in member[1:])
    )


def bounds_of(settings: AutoscalerSettings) -> Bounds:
    """Convert the settings to the form that `plan` takes."""
    return Bounds(
        observers_min=settings.autoscaler_observers_min,
        observers_max=settings.autoscaler_observers_max,
        in_flight=Band(settings.autoscaler_in_flight_low, settings.autoscaler_in_flight_high),
        p99_s=Band(settings.autoscaler_p99_low_s, settings.autoscaler_p99_high_s),
        cpu=Band(settings.autoscaler_cpu_low, settings.autoscaler_cpu_high),
        rounds_high=settings.autoscaler_rounds_high,
        rounds_low=settings.autoscaler_rounds_low,
        cool_down_s=settings.autoscaler_cool_down_s,
    )
