# ruff: noqa: PLR0917  what one operation is made of travels together through private functions
"""Be the clients of a simulated cluster: write unique values, read at every level, retry, give up,
look up.

What they heard becomes a history in the format of `chaos.records.history`. They know nothing that a
client could not know.
"""

from __future__ import annotations

import asyncio
import random
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from chaos.records.history import ClientOperation
from kv.errors import (
    BackendUnavailable,
    BadRequest,
    KvError,
    NotApplied,
    OutcomeUnknown,
    Pruned,
)
from kv.model import (
    Again,
    Answer,
    Applied,
    Compare,
    Delete,
    DeleteRange,
    Equals,
    Exists,
    Guard,
    Intent,
    Mismatch,
    Nested,
    Put,
    Refused,
    Write,
    value_hash,
)
from node.reads.levels import Level, Reading, ReadOptions
from tests.simulation.timekeeping import TTL_MS

if TYPE_CHECKING:
    from tests.simulation.node import SimNode
    from tests.simulation.world import World

KEYS: Final = ("k0", "k1", "k2")
PAIR: Final = ("p0", "p1")
"""Always written together, with the same value."""
SHORT_LIVED: Final = ("t0", "t1")
"""Written with a time to live."""
TIMEOUT_S: Final = 2.5
_KINDS: Final = (
    "put",
    "get",
    "cas",
    "delete",
    "pair",
    "snapshot",
    "large",
    "ttl",
    "get ttl",
    "again",
)
_WEIGHTS: Final = (29, 36, 12, 6, 6, 4, 1, 3, 3, 4)
LARGE: Final = 66_000
"""Bytes of a value that has to be staged."""


@dataclass
class ClientAnswer:
    """What a client was told of one attempt, for the checks that trust nobody."""

    op_id: str
    answer: Answer | None
    definite_failure: bool
    at_s: float


class WriteEnd(NamedTuple):
    """A write that its client has done with: what it was, and where it went last."""

    client: str
    op: str
    key: str
    value: str | None
    expected: str | None
    began_s: float
    attempts: int
    node: SimNode


@dataclass
class Clients:
    """All clients of a world, and what they heard."""

    world: World
    history: list[ClientOperation] = field(default_factory=list)
    told: list[ClientAnswer] = field(default_factory=list)
    unknown: dict[str, int] = field(default_factory=dict)
    """Op_id of an operation without a known end -> its place in the history."""
    deadline_s: dict[str, float] = field(default_factory=dict)
    """Op_id -> the last deadline that it was given."""
    delivered: list[ClientOperation] = field(default_factory=list)
    """Those with an op_id of the client's that succeeded or may have: a queue may bring them once
    more.
    """
    aged: list[str] = field(default_factory=list)
    """Op_ids that are used again and again."""
    numbers: int = 0
    revision_seen: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = self.world.rng_of("clients")
        much = self.world.plan.writes
        reads = ("get", "get ttl", "snapshot")
        self._weights = [
            w if kind in reads else w * much for kind, w in zip(_KINDS, _WEIGHTS, strict=True)
        ]
        self._weights[_KINDS.index("again")] *= self.world.plan.again

    async def run(self, number: int, until_s: float) -> None:
        """Work as one client until a time."""
        loop, world = asyncio.get_running_loop(), self.world
        rng = world.rng_of(f"client {number}")
        client = f"c{number}"
        lives = 0
        while loop.time() < until_s:
            nodes = list(world.nodes.values())
            node = rng.choice(nodes)
            if await self.operation(f"{client}.{lives}", rng, node):
                lives += 1  # after an unknown outcome the client never returns
            await asyncio.sleep(rng.expovariate(1 / 0.05))

    async def operation(self, client: str, rng: random.Random, node: SimNode) -> bool:
        """Do one operation; True when its outcome stayed unknown."""
        self.world.counts["operations"] += 1
        self.numbers += 1
        value = f"v{self.numbers}"
        key = rng.choice(KEYS)
        match rng.choices(_KINDS, self._weights)[0]:
            case "put":
                return await self._write(client, rng, node, "put", key, value)
            case "get":
                level: Level = rng.choices(("linearizable", "session", "stale"), (70, 20, 10))[0]
                popular = self.world.popular
                await self._read(
                    client, popular if popular and rng.random() < 0.6 else node, key, level
                )
            case "cas":
                return await self._write(client, rng, node, "cas", key, value)
            case "delete":
                return await self._write(client, rng, node, "delete", key, None)
            case "pair":
                return await self._write(client, rng, node, "pair", "", value)
            case "snapshot":
                await self._snapshot(node)
            case "ttl":
                return await self._write(client, rng, node, "ttl", rng.choice(SHORT_LIVED), value)
            case "again" if world_forgets(self.world):
                await self._used_again(rng, node)
            case "again":
                await self._redelivered(rng, node)
            case "get ttl":
                await self._read(client, node, rng.choice(SHORT_LIVED), "linearizable", kept=False)
            case _:
                return await self._write(
                    client, rng, node, "put", "large", f"{value}:{'x' * LARGE}"
                )
        return False

    # -------------------------------------------------------------------------------------- writing

    async def _write(
        self, client: str, rng: random.Random, node: SimNode, op: str, key: str, value: str | None
    ) -> bool:
        loop = asyncio.get_running_loop()
        named = rng.random() < 0.6 and not world_forgets(self.world)  # else by the node
        expected = self._last_seen(key, rng) if op == "cas" else None
        if op == "cas" and expected is None:
            op = "put"
        began = loop.time()
        unknown, answer = False, None
        op_id = f"{client}-{self.numbers}" if named else ""
        attempts = 0
        while True:
            attempts += 1
            try:
                answer, op_id = await self._attempt(node, op_id, op, key, value, expected)
                break
            except NotApplied as exc:
                self._not_served(exc)
                self.told.append(ClientAnswer(op_id, None, True, loop.time()))
                again = attempts < 3 and rng.random() < 0.5
                self._say(client, op, key, value, f"not applied ({exc.reason})", node)
            except OutcomeUnknown as exc:
                self._not_served(exc)
                unknown = True
                again = named and attempts < 3 and rng.random() < 0.5
                self._say(client, op, key, value, "unknown", node)
            if not again:
                break
            await asyncio.sleep(rng.uniform(0.0, 0.3))
            node = rng.choice(list(self.world.nodes.values()))
        return self._record(
            WriteEnd(client, op, key, value, expected, began, attempts, node),
            op_id,
            answer,
            unknown=unknown,
        )

    async def _redelivered(self, rng: random.Random, node: SimNode) -> None:
        """Send once more what has succeeded, as a queue does that lost the acknowledgement: without
        a second effect.
        """
        if not self.delivered:
            return
        done = rng.choice(self.delivered[-6:] if rng.random() < 0.6 else self.delivered)
        assert done.op_id is not None
        assert done.key is not None
        with suppress(NotApplied, OutcomeUnknown):
            await self._attempt(node, done.op_id, done.op, done.key, done.value, done.expected)
            self.world.counts["redelivered"] += 1
            self._say("queue", done.op, done.key, done.value, "again", node)

    async def _used_again(self, rng: random.Random, node: SimNode) -> None:
        """Use an op_id, a new one or one of before: once its retention is over, that is allowed.
        Whether it is known still or no longer must be the same on every member.
        """
        if not self.aged or rng.random() < 0.3:
            self.aged.append(f"aged-{self.numbers}")
        op_id = rng.choice(self.aged if rng.random() < 0.5 else self.aged[-8:])
        intent = Intent(op_id, 0, (), (Put(b"aged", op_id.encode()),))
        deadline = asyncio.get_running_loop().time() + TIMEOUT_S
        with suppress(NotApplied, OutcomeUnknown):
            await node.call(lambda: node.writes.one(intent, deadline=deadline))
            self.world.counts["redelivered"] += 1

    async def _attempt(
        self, node: SimNode, op_id: str, op: str, key: str, value: str | None, expected: str | None
    ) -> tuple[Answer, str]:
        used = op_id

        async def request() -> Answer:
            nonlocal used
            used = op_id or node.writes.new_op_id()
            deadline = asyncio.get_running_loop().time() + TIMEOUT_S
            self.deadline_s[used] = deadline
            return await node.writes.one(
                intent_of(used, op, key, value, expected), deadline=deadline
            )

        try:
            answer = await node.call(request)
        except (NotApplied, OutcomeUnknown) as exc:
            exc.args = (*exc.args, used)
            raise
        self.told.append(ClientAnswer(used, answer, False, asyncio.get_running_loop().time()))
        return answer, used

    def _record(self, end: WriteEnd, op_id: str, answer: Answer | None, *, unknown: bool) -> bool:
        """Enter a write in the history; True when its outcome stayed unknown."""
        if answer is not None and isinstance(answer.outcome, Mismatch):
            self.world.violate("INV-3", f"{op_id} is called a mismatch, its body never changed")
        outcome, result, revision = _ended(end.op, answer, unknown=unknown)
        said = f"{outcome} {answer.outcome if answer else ''}"
        self._say(end.client, end.op, end.key, end.value, said, end.node)
        if outcome == "info":
            self.world.counts["unknown"] += 1
        if end.op in {"pair", "ttl"}:
            return outcome == "info"
        more: dict[str, Any] = {} if end.op == "put" or outcome != "ok" else {"result": result}
        operation = ClientOperation(
            client=end.client,
            op=end.op,
            outcome=outcome,
            start_ns=_ns(end.began_s),
            end_ns=_ns(asyncio.get_running_loop().time()),
            key=end.key,
            value=end.value,
            expected=end.expected,
            node=end.node.name,
            revision=revision,
            op_id=op_id or None,
            attempts=end.attempts,
            **more,
        )
        self.history.append(operation)
        if outcome != "fail" and op_id and not op_id.startswith("~"):
            self.delivered.append(operation)
        if outcome == "info" and op_id and not op_id.startswith("~"):
            self.unknown[op_id] = len(self.history) - 1
        return outcome == "info"

    def _last_seen(self, key: str, rng: random.Random) -> str | None:
        seen = [
            o
            for o in self.history[-30:]
            if o.key == key and o.outcome == "ok" and o.op in {"put", "cas", "get"}
        ]
        values = [o.result if o.op == "get" else o.value for o in seen]
        known = [value for value in values if isinstance(value, str)]
        if not known:
            return None
        return known[-1] if rng.random() < 0.8 else rng.choice(known)

    # -------------------------------------------------------------------------------------- reading

    async def _read(
        self,
        client: str,
        node: SimNode,
        key: str,
        level: Level,
        *,
        final: bool = False,
        kept: bool = True,
    ) -> bool:
        """Read one key; False when it was not answered."""
        world, loop = self.world, asyncio.get_running_loop()
        began = loop.time()
        floor = max(self.revision_seen.values(), default=0) if level == "session" else 0

        async def request() -> Reading:
            deadline = asyncio.get_running_loop().time() + TIMEOUT_S
            return await node.reads.get(key.encode(), ReadOptions(level, floor), deadline=deadline)

        try:
            reading = await node.call(request)
        except (NotApplied, OutcomeUnknown, BackendUnavailable) as exc:
            self._not_served(exc)
            self._say(client, f"get {level}", key, None, f"no answer: {exc}", node)
            return False
        except BadRequest as exc:
            if world.plan.raft_keeps and not world.plan.loses:
                world.violate(
                    "INV-1 (session)", f"{node.name} refuses {floor}, which it was told: {exc}"
                )
            self._say(client, f"get {level}", key, None, f"refused: {exc}", node)
            return False
        text = _text(reading)
        self._say(
            client, f"get {level}", key, text, f"as_of {reading.as_of} from {reading.source}", node
        )
        self._check_reading(node, key, reading, floor)
        self.world.counts["sessions"] += floor > 0
        self.revision_seen[0] = max(self.revision_seen.get(0, 0), reading.position)
        if level == "linearizable" and kept:
            self.history.append(
                ClientOperation(
                    client=client,
                    op="get",
                    outcome="ok",
                    start_ns=_ns(began),
                    end_ns=_ns(loop.time()),
                    key=key,
                    result=text,
                    node=node.name,
                    revision=reading.position,
                )
            )
        if final:
            newest = world.landed.newest(key.encode(), 1 << 53)
            value = None if newest is None or newest.value is None else newest
            if (reading.version if reading.present else None) != value:
                world.violate(
                    "INV-1 (convergence)",
                    f"{node.name} reads {reading.version} of {key}, it is {newest}",
                )
        return True

    def _not_served(self, exc: Exception) -> None:
        """With only cache and broker dead, no operation fails (INV-7)."""
        if self.world.plan.harmless:
            self.world.violate(
                "INV-7", f"an operation fails though only cache and broker may be dead: {exc!r}"
            )

    def _check_reading(self, node: SimNode, key: str, reading: Reading, floor: int) -> None:
        """Compare with all that ever landed: the version must be the key's newest at the position
        it claims.
        """
        world = self.world
        if world.plan.loses:
            if reading.source == "store" and reading.as_of < reading.position:
                what = f"reads a store at {reading.as_of}, it had settled {reading.position}"
                world.violate("INV-1 (store behind)", f"{node.name} {what}")
            return
        if reading.position < floor:
            world.violate(
                "INV-1 (session)", f"{node.name} answers at {reading.position}, asked for {floor}"
            )
        at = reading.as_of if reading.level == "stale" else reading.position
        real = world.landed.newest(key.encode(), at)
        shown = reading.version
        if (real if real and real.present else None) != (
            shown if shown and shown.present else None
        ):
            promise = "INV-5" if reading.source != "store" else "INV-1 (store read)"
            world.violate(
                promise,
                f"{node.name} serves {shown} of {key} at {at} from its {reading.source}, "
                f"it was {real}",
            )

    async def _snapshot(self, node: SimNode) -> None:
        """Read the pair at one point: never torn."""
        keys = [key.encode() for key in PAIR]
        try:
            read = await node.call(
                lambda: node.reads.snapshot(keys, deadline=node.clock.monotonic() + TIMEOUT_S)
            )
        except (NotApplied, OutcomeUnknown, BackendUnavailable):
            return
        values = [None if version is None else version.value for version in read.versions]
        if values[0] != values[1]:
            self.world.violate("INV-1 (atomicity)", f"{node.name} reads the pair as {values}")

    # -------------------------------------------------------------------------------- after healing

    async def look_up_all(self) -> None:
        """Make every unknown operation definite (INV-4), and let the history know."""
        world = self.world
        rng = world.rng_of("look-ups")
        for op_id, place in self.unknown.items():
            found: object = None
            for _ in range(20):
                node = rng.choice(world.serving or list(world.nodes.values()))
                deadline = asyncio.get_running_loop().time() + TIMEOUT_S
                try:
                    found = await node.call(partial(node.lookups.settle, op_id, deadline=deadline))
                except (KvError, BadRequest, Pruned):
                    found = None
                if isinstance(found, Answer):
                    break
                await asyncio.sleep(0.2)
            world.say("look-up", op_id=op_id, found=found)
            if not isinstance(found, Answer):
                world.violate("INV-4", f"{op_id} cannot be made definite: {found}")
                continue
            self.told.append(ClientAnswer(op_id, found, False, asyncio.get_running_loop().time()))
            self.history[place] = self._resolved(self.history[place], found)

    def _resolved(self, operation: ClientOperation, found: Answer) -> ClientOperation:
        import msgspec

        outcome = found.outcome.outcome if isinstance(found.outcome, Again) else found.outcome
        now = _ns(asyncio.get_running_loop().time())
        match outcome:
            case Applied(_, seen):
                result = bool(seen and seen[0]) if operation.op == "delete" else True
                more = {} if operation.op == "put" else {"result": result}
                return msgspec.structs.replace(
                    operation, outcome="ok", end_ns=now, resolved=True, **more
                )
            case Refused():
                return msgspec.structs.replace(
                    operation, outcome="ok", end_ns=now, resolved=True, result=False
                )
            case _:
                return msgspec.structs.replace(operation, outcome="fail", end_ns=now, resolved=True)

    async def read_everywhere(self) -> None:
        """Read every key through every node at the linearizable level."""
        for node in self.world.serving:
            for key in KEYS:
                for _ in range(10):
                    if await self._read("final", node, key, "linearizable", final=True):
                        break
                    await asyncio.sleep(0.2)
                else:
                    self.world.violate(
                        "Liveness", f"{node.name} does not answer reads of {key} after healing"
                    )

    def _say(
        self, client: str, op: str, key: str, value: str | None, what: str, node: SimNode
    ) -> None:
        shown = value if value is None or len(value) < 40 else value[:12] + "…"
        self.world.say(f"{client} {op} {key} {shown}: {what}", node=node.name)


def world_forgets(world: World) -> bool:
    """Say whether op_ids are forgotten within a story."""
    return world.plan.window_ms < 60_000


def intent_of(op_id: str, op: str, key: str, value: str | None, expected: str | None) -> Intent:
    """Return the intent of one operation; its deadline is set when it is handed over."""
    raw = key.encode()
    other = zlib.crc32(op_id.encode()) % 2 == 0
    """Every other intent says the same in another way. (By its op_id: no chance is used up.)"""
    match op:
        case "put":
            assert value is not None
            return Intent(op_id, 0, (), (Put(raw, value.encode()),))
        case "cas":
            assert value is not None and expected is not None
            same: Guard = (
                Compare(raw, raw + b"\0", "value", "=", expected.encode())
                if other
                else Equals(raw, value_hash(expected.encode()))
            )
            return Intent(op_id, 0, (same,), (Put(raw, value.encode()),))
        case "delete":
            write: Write = DeleteRange(raw, raw + b"\0") if other else Delete(raw)
            return Intent(op_id, 0, (), (write,), None, (raw,))
        case "ttl":
            assert value is not None
            return Intent(op_id, 0, (), (Put(raw, value.encode(), TTL_MS),))
        case _:
            assert value is not None
            writes: tuple[Write, ...] = tuple(Put(each.encode(), value.encode()) for each in PAIR)
            never = (Exists(b"never"),)
            return Intent(op_id, 0, never, (), (Nested(never, (), writes),) if other else writes)


def _ended(
    op: str, answer: Answer | None, *, unknown: bool
) -> tuple[Literal["ok", "fail", "info"], bool | None, int | None]:
    """Return how a write ended for the history: outcome, result, revision."""
    match answer:
        case None:
            return ("info" if unknown else "fail"), None, None
        case Answer(at, Applied(_, seen)) | Answer(_, Again(at, Applied(_, seen))):
            return "ok", bool(seen and seen[0]) if op == "delete" else True, at
        case Answer(at, Refused()) | Answer(_, Again(at, Refused())):
            return "ok", False, at
        case _:
            return "fail", None, None


def _text(reading: Reading) -> str | None:
    value = reading.version.value if reading.version is not None else None
    if value is None or isinstance(value, bytes):
        return None if value is None else value.decode()
    return f"<{value.size}>"


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
