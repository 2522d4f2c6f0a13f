"""Make the histories of an ideal cluster, to prove that checkers accept them and notice what is
changed.

Each operation takes effect at one random instant of its interval, in the order of these instants,
at the next revision.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from chaos.records.history import ClientOperation, OutcomeName, Watched
from chaos.records.ledger import GENESIS, Ledger, LedgerIntent, LedgerRow, roll


@dataclass
class Slot:
    """When one operation ran, and how it ended."""

    client: int
    start: int
    at: float
    end: int
    outcome: OutcomeName
    applied: bool


def slots(
    rng: Random, count: int, clients: int, unknown: float = 0.0, failed: float = 0.0
) -> list[Slot]:
    """Return operations of several clients, in the order in which they take effect."""
    free = [rng.randint(0, 100) for _ in range(clients)]
    names = list(range(clients))
    made = []
    for _ in range(count):
        c = min(range(clients), key=free.__getitem__)
        start = free[c] + rng.randint(1, 60)
        end = start + rng.randint(50, 2_000)
        outcome: OutcomeName = "ok"
        if rng.random() < unknown:
            outcome = "info"
        elif rng.random() < failed:
            outcome = "fail"
        applied = outcome == "ok" or (outcome == "info" and rng.random() < 0.5)
        made.append(Slot(names[c], start, rng.uniform(start, end), end, outcome, applied))
        free[c] = end
        if outcome == "info":
            names[c] = max(names) + 1
    return sorted(made, key=lambda s: s.at)


@dataclass
class Ideal:
    """One copy of everything, written by one hand."""

    rng: Random
    revision: int = 0
    state: dict[str, tuple[Any, int]] = field(default_factory=dict)
    rows: list[LedgerRow] = field(default_factory=list)
    digest: bytes = GENESIS
    log: list[tuple[int, str, Any]] = field(default_factory=list)
    """(revision, key, value or None)."""

    def commit(self, op_id: str, writes: dict[str, Any], outcome: str = "applied") -> int:
        """Give one intent its revision, and a ledger row of its own."""
        self.revision += 1
        body_hash = hashlib.blake2b(repr((op_id, writes)).encode(), digest_size=16).digest()
        self.digest = roll(self.digest, op_id, body_hash)
        changed = []
        for key, value in writes.items() if outcome == "applied" else ():
            if value is None and key not in self.state:
                continue
            changed.append(key)
            self.log.append((self.revision, key, value))
            if value is None:
                del self.state[key]
            else:
                self.state[key] = (value, self.revision)
        intent = LedgerIntent(self.revision, op_id, body_hash, outcome, tuple(changed))
        seq = len(self.rows) + 1
        self.rows.append(
            LedgerRow(
                seq,
                term=1 + seq // 50,
                committer="n1",
                first=self.revision,
                last=self.revision,
                digest=self.digest,
                body=(intent,),
            )
        )
        return self.revision

    @property
    def ledger(self) -> Ledger:
        return Ledger(tuple(self.rows))

    def get(self, key: str) -> tuple[Any, int]:
        return self.state.get(key, (None, 0))

    def operation(self, slot: Slot, op: str, **fields: Any) -> ClientOperation:
        """Return the record of an operation; an unknown or failed one carries no answer."""
        if slot.outcome != "ok":
            for name in ("result", "revision", "version", "token"):
                fields.pop(name, None)
        return ClientOperation(slot.client, op, slot.outcome, slot.start, slot.end, **fields)

    # ------------------------------------------------------------------------------------ workloads

    def register(
        self, count: int = 400, clients: int = 8, unknown: float = 0.05, keys: int = 3
    ) -> list[ClientOperation]:
        ops = []
        for n, slot in enumerate(slots(self.rng, count, clients, unknown, 0.02)):
            key, op_id = f"r{self.rng.randrange(keys)}", f"op{n}"
            value, version = self.get(key)
            op = self.rng.choice(("get", "get", "get", "put", "put", "cas", "delete"))
            if op == "get":
                ops.append(
                    self.operation(
                        slot, "get", key=key, result=value, revision=self.revision, version=version
                    )
                )
                continue
            new = None if op == "delete" else f"v{n}"
            expected = value if op != "cas" or self.rng.random() < 0.7 else f"old{n}"
            held = op != "cas" or expected == value
            revision = None
            if slot.applied:
                revision = self.commit(op_id, {key: new}, "applied" if held else "refused")
            fields: dict[str, Any] = {"key": key, "op_id": op_id, "revision": revision}
            if op != "delete":
                fields["value"] = new
            if op == "cas":
                fields |= {"expected": expected, "result": held}
            elif op == "delete":
                fields["result"] = value is not None
            ops.append(self.operation(slot, op, **fields))
        return ops

    def set(
        self, count: int = 300, clients: int = 6, unknown: float = 0.05
    ) -> list[ClientOperation]:
        elements: list[str] = []
        ops = []
        for n, slot in enumerate(slots(self.rng, count, clients, unknown, 0.02)):
            if self.rng.random() < 0.2:
                ops.append(self.operation(slot, "read", key="set", result=list(elements)))
                continue
            if slot.applied:
                elements.append(f"e{n}")
            ops.append(self.operation(slot, "add", key="set", value=f"e{n}"))
        last = max(o.end_ns or 0 for o in ops)
        ops.append(
            ClientOperation(
                9_000, "read", "ok", last + 5, last + 9, key="set", result=list(elements)
            )
        )
        return ops

    def append(
        self, count: int = 400, clients: int = 8, unknown: float = 0.05, keys: int = 4
    ) -> list[ClientOperation]:
        lists: dict[str, list[int]] = {}
        ops = []
        for n, slot in enumerate(slots(self.rng, count, clients, unknown, 0.02)):
            asked: list[list[Any]] = []
            told: list[list[Any]] = []
            for m in range(self.rng.randint(1, 3)):
                key = f"l{self.rng.randrange(keys)}"
                if self.rng.random() < 0.5:
                    asked.append(["r", key, None])
                    told.append(["r", key, list(lists.get(key, []))])
                else:
                    asked.append(["append", key, n * 10 + m])
                    told.append(["append", key, n * 10 + m])
                    if slot.applied:
                        lists.setdefault(key, []).append(n * 10 + m)
            ops.append(self.operation(slot, "txn", value=asked, result=told))
        return ops

    def bank(self, count: int = 200, clients: int = 6) -> list[ClientOperation]:
        accounts = {f"a{n}": 20 for n in range(5)}
        ops = []
        for slot in slots(self.rng, count, clients, 0.05):
            if self.rng.random() < 0.5:
                ops.append(self.operation(slot, "read", result=dict(accounts)))
                continue
            one, other = self.rng.sample(sorted(accounts), 2)
            amount = min(self.rng.randint(1, 5), accounts[one])
            if slot.applied:
                accounts[one] -= amount
                accounts[other] += amount
            ops.append(
                self.operation(slot, "transfer", value={"from": one, "to": other, "amount": amount})
            )
        return ops

    def counter(
        self, count: int = 300, clients: int = 6, unknown: float = 0.05
    ) -> list[ClientOperation]:
        total = 0
        ops = []
        for slot in slots(self.rng, count, clients, unknown, 0.02):
            if self.rng.random() < 0.3:
                ops.append(self.operation(slot, "read", key="c", result=total))
                continue
            amount = self.rng.randint(1, 5)
            total += amount * slot.applied
            ops.append(self.operation(slot, "increment", key="c", value=amount))
        last = max(o.end_ns or 0 for o in ops)
        ops.append(ClientOperation(9_000, "read", "ok", last + 5, last + 9, key="c", result=total))
        return ops

    def session(self, count: int = 300, clients: int = 5) -> list[ClientOperation]:
        """Session reads lag behind, but never behind what their own client has seen."""
        ops = []
        seen: dict[int, int] = {}
        for n, slot in enumerate(slots(self.rng, count, clients)):
            key = f"s{self.rng.randrange(4)}"
            if self.rng.random() < 0.4:
                gone = self.rng.random() < 0.15
                revision = self.commit(f"op{n}", {key: None if gone else f"v{n}"})
                seen[slot.client] = revision
                op, value = ("delete", None) if gone else ("put", f"v{n}")
                ops.append(self.operation(slot, op, key=key, value=value, revision=revision))
            else:
                position = self.rng.randint(seen.get(slot.client, 0), self.revision)
                seen[slot.client] = position
                value, version = self.at(key, position)
                fields = {
                    "key": key,
                    "result": value,
                    "revision": position,
                    "version": version,
                    "level": "session",
                }
                ops.append(self.operation(slot, "get", **fields))
        return ops

    def stale(
        self, count: int = 300, clients: int = 5, max_age_ms: float = 2.0
    ) -> list[ClientOperation]:
        """Stale reads serve what was current at most `max_age_ms` before."""
        ops = []
        times: list[tuple[float, int]] = [(0.0, 0)]
        for n, slot in enumerate(slots(self.rng, count, clients)):
            slot.start, slot.at, slot.end = slot.start * 1_000, slot.at * 1_000, slot.end * 1_000
            key = f"s{self.rng.randrange(3)}"
            if self.rng.random() < 0.4:
                revision = self.commit(f"op{n}", {key: f"v{n}"})
                times.append((slot.at, revision))
                ops.append(self.operation(slot, "put", key=key, value=f"v{n}", revision=revision))
            else:
                age_ns = self.rng.uniform(0, max_age_ms * 1e6)
                position = max(r for t, r in times if t <= max(0.0, slot.at - age_ns))
                value, version = self.at(key, position)
                fields: dict[str, Any] = {
                    "key": key,
                    "result": value,
                    "revision": position,
                    "version": version,
                }
                fields |= {"level": "stale", "max_age_ms": max_age_ms, "age_ms": age_ns / 1e6}
                ops.append(self.operation(slot, "get", **fields))
        return ops

    def lock(self, count: int = 300, clients: int = 5) -> list[ClientOperation]:
        holder: tuple[str, int, int] | None = None
        highest = 0
        ops = []
        for n, slot in enumerate(slots(self.rng, count, clients)):
            mine = holder is not None and holder[1] == slot.client
            if not mine:
                if holder is None:
                    holder = (f"h{n}", slot.client, self.commit(f"op{n}", {"lock": f"h{n}"}))
                    ops.append(
                        self.operation(
                            slot, "acquire", key="lock", value=f"h{n}", result=True, token=holder[2]
                        )
                    )
                else:
                    ops.append(
                        self.operation(slot, "acquire", key="lock", value=f"h{n}", result=False)
                    )
            elif holder is not None and self.rng.random() < 0.5:
                highest = max(highest, holder[2])
                ops.append(
                    self.operation(slot, "use", key="resource", token=holder[2], result=True)
                )
            elif holder is not None:
                ops.append(
                    self.operation(slot, "release", key="lock", value=holder[0], result=True)
                )
                holder = None
        return ops

    def at(self, key: str, position: int) -> tuple[Any, int]:
        """Return value and version of a key as of a revision."""
        found: tuple[Any, int] = (None, 0)
        for revision, changed, value in self.log:
            if changed == key and revision <= position:
                found = (value, revision) if value is not None else (None, 0)
        return found

    def pairs(self, count: int = 60) -> None:
        """Write two keys at a time, for watchers."""
        for n in range(count):
            writes: dict[str, Any] = {
                f"w/{n % 7}": f"v{n}",
                f"w/x{n % 5}": f"x{n}",
                f"other/{n % 3}": n,
            }
            if n % 9 == 8:
                writes[f"w/{n % 7}"] = None
            self.commit(f"op{n}", writes)

    def watched(
        self, name: str, prefix: str, *, after: int = 0, until: int | None = None
    ) -> list[Watched]:
        """Return what a watcher is told of (after, until], with a bookmark now and then."""
        until = self.revision if until is None else until
        told = [Watched(name, "open", 0, after, prefix=prefix)]
        for revision, key, value in self.log:
            if after < revision <= until and key.startswith(prefix):
                if (
                    told[-1].kind == "event"
                    and told[-1].revision != revision
                    and revision % 11 == 0
                ):
                    told.append(Watched(name, "bookmark", revision * 10 - 5, revision - 1))
                told.append(
                    Watched(
                        name, "event", revision * 10, revision, key, value, deleted=value is None
                    )
                )
        return told


def changed(
    ops: list[Any], pick: Callable[[Any], bool], change: Callable[[Any], Any], rng: Random
) -> list[Any]:
    """Return a copy of the history with one matching record changed (None: left out)."""
    at = rng.choice([n for n, o in enumerate(ops) if pick(o)])
    new = change(ops[at])
    return [*ops[:at], *([] if new is None else [new]), *ops[at + 1 :]]
