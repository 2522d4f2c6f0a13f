"""Run many clients against all nodes, closed loop or open loop, and record each logical operation
once.

What an ending means is the client library's table (`acordo/DESIGN.md`): refused is an observation,
NotApplied is a failure for good, OutcomeUnknown is unknown. It never calls an operation failed that
may have taken effect.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, Final

import msgspec

from acordo import AcordoError, BadRequest, Client, OutcomeUnknown, Refused, Served
from chaos.records.history import READS, ClientOperation, OutcomeName
from chaos.records.recorder import Recorder
from chaos.waiting import wait_for_stop

OPERATION_TIMEOUT_S: Final = 10.0
ATTEMPT_TIMEOUT_S: Final = 2.0
SETUP_TIMEOUT_S: Final = 30.0
INFLIGHT_MAX: Final = 256
"""Operations at once in an open loop; what comes above is shed, and counted."""


class WorkloadFailed(Exception):
    """The workload could not be set up or finished; the run is worth nothing."""


@dataclass(frozen=True)
class Observed:
    """What an operation observed, besides having taken effect. Fields are those of
    `history.ClientOperation`.
    """

    served: Served | None = None
    result: Any = msgspec.UNSET
    revision: int | None = None
    version: int | None = None
    token: int | None = None
    attempts: int = 1
    value: Any = msgspec.UNSET
    """Replaces the value that was asked for, where that came up only on the way."""


@dataclass
class LoadSettings:
    """How much load, where to, and from which seed."""

    urls: tuple[str, ...]
    """One per node, and the balancer's where there is one."""
    seed: int
    prefix: str
    """Every key begins so: unique to the run, so that an earlier one leaves no values behind."""
    clients: int = 6
    rate: float | None = None
    """Operations per second of an open loop; None: a closed loop, each client as fast as it is
    answered.
    """
    pause_s: float = 0.0
    """Mean pause of a client between two operations of a closed loop."""
    timeout_s: float = OPERATION_TIMEOUT_S
    hot: int = 0
    """Above 0: `register` uses so many keys at a time, reads back at once what it wrote, and some
    clients only read.
    """
    shed: int = 0


class Worker:
    """One client at a time: does one operation after another, and goes on under a new name after an
    unknown outcome.
    """

    def __init__(
        self, name: str, number: int, client: Client, rng: Random, workload: Workload
    ) -> None:
        self.name, self.number = name, number
        self.client, self.rng, self.workload = client, rng, workload
        self.life = 0
        self.written = 0
        self.memory: dict[str, Any] = {}
        """What the workload wants to remember for this client. Forgotten when it gets a new
        name.
        """
        self.attempt: str | None = None
        """Op_id of the newest attempt of the operation under way, where each attempt is a request
        of its own.
        """

    @property
    def logical(self) -> str:
        """Return the name in the history."""
        return f"{self.name}.{self.life}" if self.life else self.name

    def unique(self) -> str:
        """Return a value that nobody else ever writes."""
        self.written += 1
        return f"{self.name}-{self.written}"

    def op_id(self) -> str:
        """Return an op_id that nobody else ever uses."""
        self.written += 1
        return f"{self.workload.load.prefix}{self.name}-{self.written}".replace("/", ".")

    async def do(
        self,
        op: str,
        call: Callable[[], Awaitable[Observed]],
        *,
        observes_refusal: bool = False,
        **fields: Any,
    ) -> ClientOperation:
        """Make one operation, record it, return its record.

        `observes_refusal`: a guard that did not hold is an observation (ok, result false), else a
        failure.
        """
        recorder = self.workload.recorder
        self.attempt = None
        start_ns = recorder.clock()
        seen = Observed()
        outcome: OutcomeName = "info"
        error: str | None = None
        try:
            seen = await call()
            outcome = "ok"
        except Refused as exc:
            seen = Observed(result=False, revision=exc.revision, attempts=exc.attempts)
            outcome = "ok" if observes_refusal else "fail"
            error = None if observes_refusal else f"refused: guard {exc.guard}"
            fields.setdefault("node", exc.node)
        except OutcomeUnknown as exc:
            error = str(exc)
        except AcordoError as exc:
            outcome, error = "fail", f"{type(exc).__name__}: {exc.detail}"
            if isinstance(exc, BadRequest):
                self.workload.rejected(exc)
        except asyncio.CancelledError:
            self._record(start_ns, op, "info", seen, fields | {"error": "cancelled"})
            raise
        return self._record(start_ns, op, outcome, seen, fields | {"error": error})

    def _record(
        self, start_ns: int, op: str, ending: OutcomeName, seen: Observed, fields: dict[str, Any]
    ) -> ClientOperation:
        end_ns = self.workload.recorder.clock()
        if ending == "info" and op in READS:
            ending = "fail"  # a read without an answer observed nothing
        noted: dict[str, Any] = {
            "workload": self.workload.name,
            "attempts": max(1, seen.attempts),
            **fields,
        }
        if self.attempt is not None:
            noted["op_id"] = self.attempt
        if seen.served is not None:
            noted |= {
                "node": seen.served.node,
                "served": seen.served.level,
                "age_ms": seen.served.age_ms,
            }
        noted |= {
            "result": seen.result,
            "revision": seen.revision,
            "version": seen.version,
            "token": seen.token,
        }
        if seen.value is not msgspec.UNSET:
            noted["value"] = seen.value
        done = ClientOperation(
            self.logical, op, ending, start_ns, None if ending == "info" else end_ns, **noted
        )
        self.workload.recorder.add(done)
        if ending == "info":
            self.life += 1
            self.memory.clear()
        return done


class Workload(ABC):
    """One kind of load. Made once per run: `set_up`, then `step` by many workers at once, then
    `finish`.
    """

    name: ClassVar[str]
    client_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        self.load, self.recorder = load, recorder
        self.rng = Random(f"{load.seed}/{self.name}")
        self.prefix = f"{load.prefix}{self.name}/"
        self.workers: list[Worker] = []
        self.complaints: list[str] = []
        """Requests that nodes called malformed: bugs of the workload (or of the nodes)."""

    def settings(self) -> dict[str, Any]:
        """Return what the checker must know, for the header of the history."""
        return {}

    async def set_up(self, worker: Worker) -> None:  # noqa: B027 - most need nothing
        """Prepare the data. Raises WorkloadFailed."""

    @abstractmethod
    async def step(self, worker: Worker) -> None:
        """Make one operation (or a few that belong together) as this worker."""

    async def finish(self, workers: Sequence[Worker]) -> None:  # noqa: B027 - most need nothing
        """Read at the end, after healing, through every node."""

    def rejected(self, exc: BadRequest) -> None:
        """Note a request that can never work."""
        if len(self.complaints) < 20:
            self.complaints.append(f"{exc.code}: {exc.detail}")

    # -------------------------------------------------------------------------------------- running

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the workers: one half keep to one node each, so that each node's own answers are
        seen; the other half roam.
        """
        nodes = len(self.load.urls)
        begun = len(self.workers)
        for n in range(begun, begun + self.load.clients):
            rng = Random(f"{self.load.seed}/{self.name}/{n}")
            pinned = n - begun < max(nodes, self.load.clients // 2)
            first = n % nodes
            urls = (
                self.load.urls[first : first + 1]
                if pinned
                else self.load.urls[first:] + self.load.urls[:first]
            )
            options = {
                "timeout_s": self.load.timeout_s,
                "attempt_timeout_s": ATTEMPT_TIMEOUT_S,
            } | self.client_options
            client = await stack.enter_async_context(Client(urls, spread=not pinned, **options))
            self.workers.append(Worker(f"{self.name}{n}", n, client, rng, self))

    async def run(self, stop: asyncio.Event) -> None:
        """Make operations until `stop` is set; those under way end by themselves, within their own
        time-out.
        """
        if self.load.rate is None:
            async with asyncio.TaskGroup() as tasks:
                for worker in self.workers:
                    tasks.create_task(self._closed(worker, stop))
        else:
            await self._open_loop(stop, self.load.rate)

    async def _closed(self, worker: Worker, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.step(worker)
            # Also with no pause this lets others run: a step that fails at once must not spin.
            mean_s = self.load.pause_s or 0.0005
            await wait_for_stop(stop, worker.rng.expovariate(1 / mean_s))

    async def _open_loop(self, stop: asyncio.Event, rate: float) -> None:
        """Begin operations at random times of a given mean rate, whoever is slow: load does not
        wait for answers.
        """
        idle = list(self.workers)
        loop = asyncio.get_running_loop()
        due = loop.time()

        async def one(worker: Worker) -> None:
            await self.step(worker)
            idle.append(worker)

        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            while not stop.is_set():
                due += self.rng.expovariate(rate)
                if (wait_s := due - loop.time()) > 0:
                    await wait_for_stop(stop, wait_s)
                if not idle and len(self.workers) < INFLIGHT_MAX:
                    before = len(self.workers)
                    await self.open(stack)
                    idle += self.workers[before:]
                if idle:
                    tasks.create_task(one(idle.pop(self.rng.randrange(len(idle)))))
                else:
                    self.load.shed += 1


@dataclass
class Rotation:
    """Keys that are given up after a random number of operations, so that counterexamples stay
    readable.
    """

    prefix: str
    rng: Random
    slots: int
    operations: tuple[int, int] = (200, 500)
    _left: dict[int, int] = field(default_factory=dict)
    _generation: dict[int, int] = field(default_factory=dict)
    every: list[str] = field(default_factory=list)
    """All keys that were ever handed out."""

    def key(self, slot: int | None = None) -> str:
        """Return the present key of a slot (None: of a random one), counting one operation."""
        slot = self.rng.randrange(self.slots) if slot is None else slot
        if self._left.get(slot, 0) <= 0:
            self._generation[slot] = self._generation.get(slot, -1) + 1
            self._left[slot] = self.rng.randint(*self.operations)
            self.every.append(self.present(slot))
        self._left[slot] -= 1
        return self.present(slot)

    def present(self, slot: int) -> str:
        """Return the present key of a slot."""
        return f"{self.prefix}{slot}.{self._generation.get(slot, 0)}"

    def retire(self, slot: int) -> None:
        """Give the present key up now."""
        self._left[slot] = 0
