"""Bugs planted into the register checker by changing its source, to prove that the oracle would
notice each.

A mutant is loaded beside the real modules, under names of its own; nothing of the real checker is
touched.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from chaos.records.history import ClientOperation

MODULES = ("encode", "zones", "remaining", "lives", "search", "register")


@dataclass(frozen=True)
class Mutant:
    """`old` occurs exactly once in the module and becomes `new`."""

    name: str
    module: str
    old: str
    new: str
    alone: str = ""
    """Switch the stage before off too, where it would hide the bug: "no_zones" judges by search
    alone.
    """


MUTANTS = (
    Mutant(
        "redundant_write_forced_early",
        "search",
        "            if kind in OBSERVERS:",
        "            if kind in OBSERVERS or (kind == WRITE and makes[i] == state and "
        "required[i]):",
    ),
    Mutant(
        "unknown_treated_as_failed",
        "encode",
        'if o.outcome == "fail" or',
        'if o.outcome in {"fail", "info"} or',
    ),
    Mutant(
        "unknown_cas_must_have_succeeded",
        "encode",
        "required=known)",
        'required=known or o.op == "cas")',
    ),
    Mutant(
        "half_open_intervals",
        "remaining",
        "(column.calls[i], CALL, i)",
        "(column.calls[i], 2, i)",
    ),
    Mutant(
        "cache_ignores_the_state",
        "search",
        "configuration = (self._mask << STATE_BITS) | self._state",
        "configuration = self._mask << STATE_BITS",
        "no_zones",
    ),
    Mutant(
        "cache_ignores_the_set",
        "search",
        "configuration = (self._mask << STATE_BITS) | self._state",
        "configuration = (len(self._trail) << STATE_BITS) | self._state",
    ),
    Mutant(
        "failed_cas_not_checked",
        "search",
        "            elif kind in MUST_DIFFER:",
        "            elif kind == TAKE:",
    ),
    Mutant(
        "read_of_absent_matches_anything",
        "search",
        "                if asks[i] != state:",
        "                if asks[i] != state and not (kind == READ and asks[i] == 0):",
        "no_zones",
    ),
    Mutant(
        "twins_latest_return_first",
        "search",
        "if other is None or returns[i] < returns[other]:",
        "if other is None or returns[i] > returns[other]:",
    ),
    Mutant(
        "last_operation_not_required",
        "search",
        "        if self._left == 0:",
        "        if self._left <= 1:",
        "no_zones",
    ),
    Mutant(
        "successful_cas_not_checked",
        "search",
        "            if kind in MUST_MATCH:\n                if",
        "            if kind == READ:\n                if",
        "no_zones",
    ),
    Mutant(
        "unknown_bounded_by_its_end",
        "encode",
        "o.end_ns if known and o.end_ns is not None else NEVER",
        "o.end_ns if o.end_ns is not None else NEVER",
    ),
    Mutant(
        "lifetime_pruning_too_eager",
        "search",
        "if not lives.observers[state] or lives.writers[state]:",
        "if not lives.observers[state]:",
    ),
    Mutant(
        "lifetime_forgets_the_last_observer",
        "search",
        "last = lives.observers[state] == 1",
        "last = False",
    ),
    Mutant(
        "append_ignored_in_lifetimes",
        "lives",
        "                    for s in self._ends[i]:\n                        "
        "self.writers[s] += 1\n\n    def _ends_with",
        "                    self._ends[i] = []\n\n    def _ends_with",
    ),
    Mutant(
        "delete_of_absent_not_checked",
        "search",
        "            elif kind in MUST_DIFFER:",
        "            elif kind == NOT:",
    ),
    Mutant(
        "undo_forgets_the_state",
        "search",
        "            self._state = befores.pop()",
        "            befores.pop()",
    ),
    Mutant(
        "unknown_only_for_reads",
        "search",
        "            if kind == APPEND or (kind in MUST_DIFFER and asks[i] == state):",
        "            if kind == APPEND:",
    ),
    Mutant(
        "unknown_not_for_cas",
        "search",
        "            if kind in MUST_MATCH:\n                awaited",
        "            if kind == READ:\n                awaited",
    ),
    Mutant(
        "named_values_merged",
        "search",
        "for i, kind in enumerate(column.kinds) if kind != WRITE}",
        "for i, kind in enumerate(column.kinds) if kind != WRITE and kind != NOT}",
    ),
    Mutant(
        "values_lose_their_type",
        "encode",
        "    return (type(value).__name__, value)",
        "    return value",
    ),
    Mutant(
        "tighten_drops_despite_negatives",
        "zones",
        "if not self.hoped.get(column.makes[i]) and not self.negative:",
        "if not self.hoped.get(column.makes[i]):",
    ),
    Mutant(
        "tighten_drops_what_an_unknown_cas_expects",
        "zones",
        "if not self.hoped.get(column.makes[i]) and not self.negative:",
        "if not self.negative:",
    ),
    Mutant(
        "tighten_with_two_writers",
        "zones",
        "kind in (WRITE, CAS) and len(writers[column.makes[i]]) == 1\n",
        "kind in (WRITE, CAS)\n",
    ),
    Mutant(
        "refute_with_two_writers",
        "zones",
        "        if len(possible) != 1:\n            continue\n",
        "",
    ),
    Mutant("refute_forgets_the_initial_value", "zones", "{column.initial: [INITIAL]}", "{}"),
    Mutant(
        "refute_touching_zones",
        "zones",
        "        if other.low < one.high:",
        "        if other.low <= one.high:",
    ),
    Mutant(
        "refute_zone_inside_touching",
        "zones",
        "    at = bisect_left(lows, start) - 1\n    if at >= 0 and forward[at].low < start "
        "and end < forward[at].high:",
        "    at = bisect_right(lows, start) - 1\n    if at >= 0 and forward[at].low <= start "
        "and end <= forward[at].high:",
    ),
    Mutant("refusals_of_other_values_refute", "zones", " and around.state == column.asks[i]:", ":"),
)


@contextmanager
def loaded(mutant: Mutant | None) -> Iterator[Any]:
    """Yield the mutated `register` module (None: an unchanged copy)."""
    names = {m: f"chaos.checkers.registers.mutant_{m}" for m in MODULES}
    try:
        for module in MODULES:
            source = _source(module)
            if mutant is not None and mutant.module == module:
                assert source.count(mutant.old) == 1, (
                    f"{mutant.name}: found {source.count(mutant.old)} times"
                )
                source = source.replace(mutant.old, mutant.new)
                source += "\nfrom bisect import bisect_right\n"
                if module == "search":
                    source += "from chaos.checkers.registers.encode import NOT, READ, TAKE\n"
            if mutant is not None and mutant.alone == "no_zones" and module == "register":
                source = source.replace("return column, refute(column)", "return column, None")
            for other in MODULES:
                source = source.replace(
                    f"from chaos.checkers.registers.{other} import", f"from {names[other]} import"
                )
            spec = importlib.util.spec_from_loader(names[module], loader=None)
            assert spec is not None
            made = importlib.util.module_from_spec(spec)
            sys.modules[names[module]] = made
            exec(compile(source, names[module], "exec"), made.__dict__)  # noqa: S102 - our own source, changed on purpose
        yield sys.modules[names["register"]]
    finally:
        for name in names.values():
            sys.modules.pop(name, None)


def verdict(register: Any, ops: list[ClientOperation], initial: Any) -> str:
    """Return the mutant's verdict; a crash counts as one."""
    try:
        return str(register.verdict_of(ops, initial=initial))
    except Exception as exc:  # noqa: BLE001 - whatever a mutant does wrong is a difference
        return f"crash: {exc!r}"


def _source(module: str) -> str:
    spec = importlib.util.find_spec(f"chaos.checkers.registers.{module}")
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        return file.read()
