"""Judge tiny register histories by trying every order, to judge the checker by.

It shares nothing with the checker: raw records, no cache, no reduction, its own idea of every
operation. As a command it compares the two on random histories: `python -m tests.unit.chaos.oracle
--histories 100000 --seed 1`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

from chaos.checkers.registers import register
from chaos.records.history import ClientOperation

Raw = dict[str, Any]
UNKNOWN_RATES = (0.0, 0.15, 0.4)
PLAIN = ("put", "put", "get", "get", "get", "cas", "cas", "delete")
APPENDED = ("append", "append", "append", "get", "get", "get", "put", "delete", "cas")
STYLES = ("register", "register", "unique", "unique", "append", "typed")
TYPED = (1, "1", True)


def legal(ops: list[Raw], state: Any) -> bool:
    """Return whether some real-time order of `ops` (all ok, and any of the unknown) works from
    `state`.
    """
    musts = [o for o in ops if o["outcome"] == "ok"]
    if not musts:
        return True
    for o in ops:
        if any(p["end_ns"] < o["start_ns"] for p in musts if p is not o):
            continue
        fits, new = step(o, state)
        if fits and legal([p for p in ops if p is not o], new):
            return True
    return False


def step(o: Raw, state: Any) -> tuple[bool, Any]:
    """Return whether `o` could have happened in `state`, and what it leaves."""
    match o["op"], o.get("result", "unreported"):
        case "get", seen:
            return same(seen, state), state
        case "put", _:
            return True, o["value"]
        case "append", _:
            return True, (state or "") + o["value"]
        case "cas", False:
            return not same(state, o["expected"]), state
        case "cas", _:
            return same(state, o["expected"]), o["value"]
        case "delete", True:
            return state is not None, None
        case "delete", False:
            return state is None, None
        case _:
            return True, None


def same(one: Any, other: Any) -> bool:
    return json.dumps(one) == json.dumps(other)


def judge(ops: list[Raw], initial: Any) -> bool:
    """Return whether the history is linearizable, after leaving out what says nothing."""
    said = [o for o in ops if o["outcome"] == "ok" or (o["outcome"] == "info" and o["op"] != "get")]
    return legal(said, initial)


# --------------------------------------------------------------------------------- random histories


def histories(seed: int, count: int) -> Iterator[tuple[list[Raw], Any]]:
    """Yield `count` random histories of 3 … 8 operations and their initial values."""
    for n in range(count):
        rng = Random(f"{seed}/{n}")
        yield history(rng, rng.choice(UNKNOWN_RATES), rng.choice(STYLES))


def history(rng: Random, unknown: float, style: str) -> tuple[list[Raw], Any]:
    """Run random operations on a real register at random instants, then (mostly) spoil one
    answer.
    """
    initial = rng.choice([None, None, 1] if style != "append" else ["", None])
    fresh = iter(range(10, 99))

    def value() -> Any:
        if style == "unique":
            return next(fresh)
        return rng.choice(TYPED if style == "typed" else (1, 2, 3))

    ops: list[Raw] = []
    for client in range(rng.randint(3, 8)):
        start = rng.randint(0, 12)
        o: Raw = {
            "client": client,
            "key": "r",
            "start_ns": start,
            "end_ns": start + rng.randint(0, 7),
        }
        o["at"] = rng.uniform(start, o["end_ns"])
        o["op"] = rng.choice(APPENDED if style == "append" else PLAIN)
        if o["op"] == "append":
            o["value"] = rng.choice("ab")
        elif o["op"] in {"put", "cas"}:
            o["value"] = value() if style != "append" else rng.choice("ab")
        if rng.random() < unknown:
            o["outcome"] = "info"
            o["at"] = rng.choice((start + rng.uniform(0, 20), float("inf")))
        else:
            o["outcome"] = "fail" if rng.random() < 0.05 else "ok"
        ops.append(o)
    written = [initial, *(o["value"] for o in ops if "value" in o)]
    for o in ops:
        if o["op"] == "cas":
            o["expected"] = rng.choice(written)
    _run(ops, initial, rng)
    for _ in range(rng.choice((0, 1, 1, 2, 3, 4))):
        _spoil(rng.choice(ops), written, rng)
    for o in ops:
        del o["at"]
    return ops, initial


def _run(ops: list[Raw], initial: Any, rng: Random) -> None:
    state = initial
    for o in sorted(ops, key=lambda o: o["at"]):
        if o["outcome"] == "fail" or o["at"] == float("inf"):
            continue
        known = o["outcome"] == "ok"
        match o["op"]:
            case "get" if known:
                o["result"] = state
            case "put":
                state = o["value"]
            case "append":
                state = (state or "") + o["value"]
            case "cas":
                # Prefer a CAS that succeeds: a random one hardly ever does.
                if rng.random() < 0.6:
                    o["expected"] = state
                held = same(state, o["expected"])
                state = o["value"] if held else state
                if known and not (held and rng.random() < 0.5):
                    o["result"] = held
            case "delete":
                if known and rng.random() < 0.7:
                    o["result"] = state is not None
                state = None


def _spoil(o: Raw, written: list[Any], rng: Random) -> None:
    if o["outcome"] != "ok":
        o["outcome"] = "ok" if o["op"] in {"put", "delete", "append"} else o["outcome"]
    elif o["op"] == "get":
        o["result"] = rng.choice(written)
    elif o["op"] in {"cas", "delete"}:
        o["result"] = not o.get("result", True)
    else:
        shift = rng.randint(-6, 6)
        o["start_ns"] = max(0, o["start_ns"] + shift)
        o["end_ns"] = max(o["start_ns"], o["end_ns"] + shift)


def operation(o: Raw) -> ClientOperation:
    """Return the record that the checker takes."""
    return ClientOperation(**o)


Check = Callable[[list[ClientOperation], Any], str]


def checked(ops: list[ClientOperation], initial: Any) -> str:
    return str(register.verdict_of(ops, initial=initial))


def differences(
    check: Check, seed: int, count: int, stop: int = 1
) -> tuple[int, list[tuple[list[Raw], Any, str]]]:
    """Return how many of the histories were legal, and up to `stop` on which `check` and the oracle
    differ.
    """
    wrong: list[tuple[list[Raw], Any, str]] = []
    legals = 0
    for ops, initial in histories(seed, count):
        right = judge(ops, initial)
        legals += right
        said = check([operation(o) for o in ops], initial)
        if said != ("ok" if right else "illegal"):
            wrong.append((ops, initial, said))
            if len(wrong) >= stop:
                break
    return legals, wrong


def main() -> int:
    args = argparse.ArgumentParser(description=__doc__)
    args.add_argument("--histories", type=int, default=3_000)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--chunk", type=int, default=5_000)
    given = args.parse_args()
    done = legals = 0
    while done < given.histories:
        count = min(given.chunk, given.histories - done)
        more, wrong = differences(checked, given.seed + done, count)
        if wrong:
            ops, initial, said = wrong[0]
            print(f"DIFFERENCE: checker says {said}, initial {initial!r}")
            for o in ops:
                print(json.dumps(o))
            return 1
        done, legals = done + count, legals + more
        print(f"{done} histories, {legals} legal, {done - legals} not: 0 differences", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
