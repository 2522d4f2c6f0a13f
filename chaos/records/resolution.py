"""Settle unknown operations by look-ups made after healing."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from chaos.records.history import ClientOperation, Lookup


def resolve(
    operations: Iterable[ClientOperation], lookups: Iterable[Lookup]
) -> list[ClientOperation]:
    """Settle unknown operations by the look-ups of their op_ids.

    *applied* → ok, returning when the look-up ended. *refused* → ok with result false. *expired* →
    fail. Check this history and the unresolved one: this one trusts the server, the other does not.
    """
    first: dict[str, Lookup] = {}
    for found in lookups:
        if found.answer != "unknown":
            first.setdefault(found.lookup, found)
    return [_resolved(o, first.get(o.op_id or "")) for o in operations]


def _resolved(o: ClientOperation, found: Lookup | None) -> ClientOperation:
    if found is None or o.outcome != "info":
        return o
    if found.answer == "expired":
        return msgspec.structs.replace(
            o, outcome="fail", end_ns=max(found.t_ns, o.start_ns), resolved=True
        )
    guard_held = found.answer == "applied" and found.branch != "otherwise"
    result = guard_held if o.op == "cas" else o.result
    if found.answer == "refused" and o.op != "cas":
        return msgspec.structs.replace(
            o, outcome="fail", end_ns=max(found.t_ns, o.start_ns), resolved=True
        )
    return msgspec.structs.replace(
        o,
        outcome="ok",
        result=result,
        end_ns=max(found.t_ns, o.start_ns),
        revision=found.revision if o.revision is None else o.revision,
        token=found.revision if o.op == "acquire" else o.token,
        resolved=True,
    )
