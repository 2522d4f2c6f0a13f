"""Run many clients against all nodes, in a closed or an open loop, and record each operation once.

The client library's table (`acordo/DESIGN.md`) defines the outcomes: Refused is an observation,
NotApplied is a definite failure, OutcomeUnknown is unknown. An operation that may have taken effect
is never recorded as failed.
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
"""Most concurrent operations of an open loop; more are dropped and counted."""


class WorkloadFailed(Exception):
    """The workload could not be set up or finished, so the run proves nothing."""


@dataclass(frozen=True)
class Observed:
    """What an operation observed, besides having taken effect.

    The fields are those of `history.ClientOperation`.
    """

    served: Served | None = None
    result: Any = msgspec.UNSET
    revision: int | None = None
    version: int | None = None
    token: int | None = None
    attempts: int = 1
    value: Any = msgspec.UNSET
    """Replaces the requested value, if the actual one was determined only during the operation."""


@dataclass
class LoadSettings:
    """The settings of the load: its amount, its target and its seed."""

    urls: tuple[str, ...]
    """One URL per node, and that of the balancer if there is one."""
    seed: int
    prefix: str
    """Prefix of every key, unique to the run, so that no values of an earlier run are found."""
    clients: int = 6
    rate: float | None = None
    """Operations per second of an open loop; None: a closed loop, in which each client waits for
    its answer.
    """
    pause_s: float = 0.0
    """Mean pause of a client between two operations of a closed loop."""
    timeout_s: float = OPERATION_TIMEOUT_S
    hot: int = 0
    """Above 0: the workload `register` uses this many keys at a time, reads back at once what it
    wrote, and has some clients that only read.
    """
    shed: int = 0


class Worker:
    """A client that does one operation after another.

    After an unknown outcome it continues under a new name.
    """

    def __init__(
        self, name: str, number: int, client: Client, rng: Random, workload: Workload
    ) -> None:
        self.name, self.number = name, number
        self.client, self.rng, self.workload = client, rng, workload
        self.life = 0
        self.written = 0
        self.memory: dict[str, Any] = {}
        """State that the workload keeps for this client. It is cleared when the client gets a new
        name.
        """
        self.attempt: str | None = None
        """Op_id of the newest attempt of the current operation, for operations in which each
        attempt is a request of its own.
        """

    @property
    def logical(self) -> str:
        """Return the client's current name in the history."""
        return f"{self.name}.{self.life}" if self.life else self.name

    def unique(self) -> str:
        """Return a value that is never written again."""
        self.written += 1
        return f"{self.name}-{self.written}"

    def op_id(self) -> str:
        """Return an op_id that is never used again."""
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
        """Execute one operation, record it, and return the record.

        With `observes_refusal` a guard that does not hold is an observation (ok, result false);
        otherwise it is a failure.
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
            fields.setdefault("node", exc.node)
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
    """A kind of load, created once per run.

    `set_up` is called first, then `step` by many workers concurrently, then `finish`.
    """

    name: ClassVar[str]
    client_options: ClassVar[dict[str, Any]] = {}

    def __init__(self, load: LoadSettings, recorder: Recorder) -> None:
        self.load, self.recorder = load, recorder
        self.rng = Random(f"{load.seed}/{self.name}")
        self.prefix = f"{load.prefix}{self.name}/"
        self.workers: list[Worker] = []
        self.complaints: list[str] = []
        """Requests that nodes rejected as malformed: bugs of the workload (or of the nodes)."""

    def settings(self) -> dict[str, Any]:
        """Return what the checker must know, for the header of the history."""
        return {}

    async def set_up(self, worker: Worker) -> None:  # noqa: B027 - most need nothing
        """Prepare the data. Raises WorkloadFailed."""

    @abstractmethod
    async def step(self, worker: Worker) -> None:
        """Execute one operation (or a few that belong together) as this worker."""

    async def finish(self, workers: Sequence[Worker]) -> None:  # noqa: B027 - most need nothing
        """Read at the end, after healing, through every node."""

    def rejected(self, exc: BadRequest) -> None:
        """Note a request that was rejected as malformed."""
        if len(self.complaints) < 20:
            self.complaints.append(f"{exc.code}: {exc.detail}")

    # -------------------------------------------------------------------------------------- running

    async def open(self, stack: AsyncExitStack) -> None:
        """Create the workers.

        Half of them use only one node each, so that each node's own answers are checked; the other
        half switch between nodes.
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
        """Execute operations until `stop` is set. Those in flight end by themselves, within their
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
            # Even without a configured pause this yields to other tasks: a step that fails at once
            # must not spin.
            mean_s = self.load.pause_s or 0.0005
            await wait_for_stop(stop, worker.rng.expovariate(1 / mean_s))

    async def _open_loop(self, stop: asyncio.Event, rate: float) -> None:
        """Start operations at random times with a given mean rate, without waiting for slow
        answers.
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
    """A set of keys, each replaced after a random number of operations to keep counterexamples
    readable.
    """

    prefix: str
    rng: Random
    slots: int
    operations: tuple[int, int] = (200, 500)
    _left: dict[int, int] = field(default_factory=dict)
    _generation: dict[int, int] = field(default_factory=dict)
    every: list[str] = field(default_factory=list)
    """All keys that were ever used."""

    def key(self, slot: int | None = None) -> str:
        """Return the current key of a slot (None: a random slot), and count one operation on it."""
        slot = self.rng.randrange(self.slots) if slot is None else slot
        if self._left.get(slot, 0) <= 0:
            self._generation[slot] = self._generation.get(slot, -1) + 1
            self._left[slot] = self.rng.randint(*self.operations)
            self.every.append(self.present(slot))
        self._left[slot] -= 1
        return self.present(slot)

    def present(self, slot: int) -> str:
        """Return the current key of a slot."""
        return f"{self.prefix}{slot}.{self._generation.get(slot, 0)}"

    def retire(self, slot: int) -> None:
        """Replace the current key at its next use."""
        self._left[slot] = 0
