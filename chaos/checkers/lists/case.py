"""Hold what is known about a history of list-append transactions while it is checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from chaos.checkers.lists.cycles import Graph
from chaos.checkers.verdict import Finding
from chaos.records.history import ClientOperation, HistoryError

FINDINGS_MAX: Final = 10
"""Most findings of one kind that are listed; all are counted."""
Micro = Sequence[Any]
"""One step of a transaction: ["append", key, value] or ["r", key, list]."""


@dataclass
class Transaction:
    """A transaction of one client, with its reads and appends."""

    operation: ClientOperation
    micros: list[Micro]
    committed: bool
    """Whether it is known to have taken effect. An unknown one counts as committed once a read
    shows one of its values.
    """
    external: dict[str, list[Any]] = field(default_factory=dict)
    """First read of each key, without the transaction's own earlier appends. Empty if its answer
    was lost.
    """
    reads: list[tuple[str, list[Any]]] = field(default_factory=list)
    """Every read in order, with its elements in comparable form."""
    appends: dict[str, list[Any]] = field(default_factory=dict)


@dataclass
class Case:
    """A history of list-append transactions, with everything inferred from it and all findings."""

    txns: list[Transaction] = field(default_factory=list)
    writers: dict[tuple[str, Any], int] = field(default_factory=dict)
    orders: dict[str, list[Any]] = field(default_factory=dict)
    broken: set[tuple[int, str]] = field(default_factory=set)
    """(transaction, key) of reads that contradict the version order. No dependencies are derived
    from them.
    """
    graph: Graph = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def say(self, anomaly: str, message: str, key: str | None, *txns: int) -> None:
        """Add a finding, with the transactions that show it in explanatory order."""
        self.counts[anomaly] = self.counts.get(anomaly, 0) + 1
        if self.counts[anomaly] <= FINDINGS_MAX:
            operations = tuple(self.txns[t].operation for t in txns)
            self.findings.append(Finding(anomaly, message, key=key, operations=operations))

    def named(self, t: int) -> str:
        """Return a description by which a person can find the transaction."""
        return (
            f"T{t} (client {self.txns[t].operation.client!r} at {self.txns[t].operation.start_ns})"
        )


def opened(operations: Sequence[ClientOperation]) -> Case:
    """Build the case of these transactions.

    Raises HistoryError if a value was appended twice to one key.
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
    """Return the elements of a list that was read in comparable form; an absent list has none."""
    return [v if v.__class__ is int or v.__class__ is str else hashable(v) for v in value or ()]


def hashable(value: Any) -> Any:
    """Return a hashable key for one element that also keeps types apart: `1` and `true` differ."""
    return (
        (type(value).__name__, repr(value))
        if isinstance(value, list | dict | bool | float)
        else value
    )
