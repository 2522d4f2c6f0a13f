"""Hold what is known of a history of list-append transactions while it is judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.checkers.lists.cycles import Graph
from chaos.checkers.verdict import Finding
from chaos.records.history import ClientOperation, HistoryError

FINDINGS_MAX: Final = 10
"""More of one kind are counted, not listed."""
Micro = Sequence[Any]
"""["append", key, value] or ["r", key, list]."""


@dataclass
class Transaction:
    """One transaction of one client, and what it read and appended."""

    operation: ClientOperation
    micros: list[Micro]
    committed: bool
    """Known to have taken effect. An unknown one is, once a value of its is seen."""
    external: dict[str, list[Any]] = field(default_factory=dict)
    """First read of each key, without what it had appended itself by then. None when its answer was
    lost.
    """
    reads: list[tuple[str, list[Any]]] = field(default_factory=list)
    """Every read in order, with elements as they can be compared."""
    appends: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class Case:
    """One history of list-append transactions: what is known, inferred and found of it."""

    txns: list[Transaction] = field(default_factory=list)
    writers: dict[tuple[str, Any], int] = field(default_factory=dict)
    orders: dict[str, list[Any]] = field(default_factory=dict)
    broken: set[tuple[int, str]] = field(default_factory=set)
    """(transaction, key) of reads that contradict the version order: they say nothing of
    dependencies.
    """
    graph: Graph = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def say(self, anomaly: str, message: str, key: str | None, *txns: int) -> None:
        """Note an anomaly and the transactions that show it, in the order of the story."""
        self.counts[anomaly] = self.counts.get(anomaly, 0) + 1
        if self.counts[anomaly] <= FINDINGS_MAX:
            operations = tuple(self.txns[t].operation for t in txns)
            self.findings.append(Finding(anomaly, message, key=key, operations=operations))

    def named(self, t: int) -> str:
        """Return words by which a person finds the transaction."""
        return (
            f"T{t} (client {self.txns[t].operation.client!r} at {self.txns[t].operation.start_ns})"
        )


def opened(operations: Sequence[ClientOperation]) -> Case:
    """Return the case of these transactions.

    Raises:
        HistoryError: a value was appended twice to one key.

    """
    case = Case()
    for t, o in enumerate(operations):
        answered = o.outcome == "ok" and isinstance(o.result, list)
        micros = o.result if answered else o.value
        txn = Transaction(o, [tuple(m) for m in micros], o.outcome == "ok")
        case.txns.append(txn)
        for kind, key, value in txn.micros:
            if kind == "append":
                _append(case, t, key, value)
            elif answered:
                _read(txn, key, elements(value))
    return case


def _append(case: Case, t: int, key: str, value: Any) -> None:
    element = hashable(value)
    if (key, element) in case.writers:
        raise HistoryError(f"the value {value!r} was appended twice to {key!r} by the generator")
    case.writers[key, element] = t
    case.txns[t].appends.setdefault(key, []).append(element)


def _read(txn: Transaction, key: str, seen: list[Any]) -> None:
    txn.reads.append((key, seen))
    if key in txn.external:
        return
    own = txn.appends.get(key, [])
    if own and seen[-len(own) :] == own:
        seen = seen[: len(seen) - len(own)]
    txn.external[key] = seen


def elements(value: Any) -> list[Any]:
    """Return the elements of a list that was read (none of an absent one), to be compared."""
    return [v if v.__class__ is int or v.__class__ is str else hashable(v) for v in value or ()]


def hashable(value: Any) -> Any:
    """Return what stands for one element: `1` and `true` are two."""
    return (
        (type(value).__name__, repr(value))
        if isinstance(value, list | dict | bool | float)
        else value
    )
