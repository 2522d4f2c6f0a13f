# ruff: noqa: E501 - source is quoted as it stands
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

from chaos.records.history import Operation

MODULES = ("encode", "zones", "search", "register")


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
        "            if kind == READ:\n                if a[i] == state:",
        "            if kind == READ or (kind == WRITE and required[i]):\n                if (a[i] if kind == READ else b[i]) == state:",
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
        "        required.append(known)",
        '        required.append(known or op == "cas")',
    ),
    Mutant(
        "half_open_intervals",
        "search",
        "events = [(column.calls[i], 0, 2 * i)",
        "events = [(column.calls[i], 2, 2 * i)",
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
        "                if a[i] != state:\n                    event = self._absorb(i, event)\n                continue\n            if kind == CAS",
        "                event = self._absorb(i, event)\n                continue\n            if kind == CAS",
    ),
    Mutant(
        "read_of_absent_matches_anything",
        "search",
        "            if kind == READ:\n                if a[i] == state:",
        "            if kind == READ:\n                if a[i] in (state, 0):",
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
        "                if self._left == 0:",
        "                if self._left <= 1:",
        "no_zones",
    ),
    Mutant(
        "successful_cas_not_checked",
        "search",
        "                if a[i] != state:\n                    continue\n            elif kind == TAKE",
        "                pass\n            elif kind == TAKE",
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
        "if self._observers[state] and not self._writers[state]:",
        "if self._observers[state]:",
    ),
    Mutant(
        "lifetime_forgets_the_last_observer",
        "search",
        "last = self._observers[state] == 1",
        "last = False",
    ),
    Mutant(
        "append_ignored_in_lifetimes",
        "search",
        "                for s in self._makes[i]:\n                    self._writers[s] += 1\n\n    def _ends",
        "                self._makes[i] = []\n\n    def _ends",
    ),
    Mutant(
        "delete_of_absent_not_checked",
        "search",
        "                if a[i] == state:\n                    continue\n            elif kind == WRITE and",
        "                pass\n            elif kind == WRITE and",
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
        "            if kind == APPEND or (kind in (NOT, TAKE) and a[i] == state):\n                return candidates\n",
        "            if kind == APPEND:\n                return candidates\n",
    ),
    Mutant(
        "unknown_not_for_cas",
        "search",
        "            if kind in (READ, CAS):\n                awaited.add(a[i])",
        "            if kind == READ:\n                awaited.add(a[i])",
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
        "elif not hoped.get(b[i]) and not negative:",
        "elif not hoped.get(b[i]):",
    ),
    Mutant(
        "tighten_drops_what_an_unknown_cas_expects",
        "zones",
        "elif not hoped.get(b[i]) and not negative:",
        "elif not negative:",
    ),
    Mutant(
        "tighten_with_two_writers",
        "zones",
        "kind in (WRITE, CAS) and len(writers[b[i]]) == 1\n",
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
        "    at = bisect_left(lows, start) - 1\n    if at >= 0 and forward[at].low < start and end < forward[at].high:",
        "    at = bisect_right(lows, start) - 1\n    if at >= 0 and forward[at].low <= start and end <= forward[at].high:",
    ),
    Mutant("refusals_of_other_values_refute", "zones", " and around.state == column.a[i]:", ":"),
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
                source = source.replace(
                    "import bisect_left\n", "import bisect_left, bisect_right\n"
                )
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


def verdict(register: Any, ops: list[Operation], initial: Any) -> str:
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
