"""Simulate many seeds in resumable chunks, or replay one with its whole trace.

`python -m tests.simulation --seeds 500 --seed-from 1`, `--seed 7`, `--minutes 8 --from-commit`.
Ends with one summary line; exits 1 on a violation, or when something that the summary counts never
happened over a hundred seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tests.simulation import summary
from tests.simulation.plans import Kind, plan_of
from tests.simulation.run import Result, run
from tests.simulation.seeds import ROOT, chunk, code_digest, commit_seed, nice

CHUNK = 5
"""Seeds that one process simulates before it tells."""
TAIL_LINES = 60
SHOWN_MAX = 3
"""Violating seeds whose story is printed; the others are only named."""


@dataclass
class Run:
    """What came of all seeds so far."""

    kinds: Counter[str] = field(default_factory=Counter)
    """How many seeds were of each kind of store."""
    simulated_s: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    violating: dict[int, list[str]] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        return self.kinds.total()

    def add(self, told: dict[str, Any]) -> None:
        self.kinds[told["kind"]] += 1
        self.simulated_s += told["simulated_s"]
        self.counts.update(told["counts"])
        if told["violations"]:
            self.violating[told["seed"]] = told["violations"]


def many(
    seeds: Iterator[int],
    state: Path | None,
    processes: int,
    ends: float | None,
    kind: Kind | None,
) -> Run:
    """Simulate seeds until there are no more or time is up; go on where an interrupted run of the
    same code ended.
    """
    done = Run()
    known: set[int] = set()
    if state is not None and state.exists():
        for text in state.read_text().splitlines():
            told = json.loads(text)
            known.add(told["seed"])
            done.add(told)
        print(f"{done.seeds} seeds are known from {state.relative_to(ROOT)}", flush=True)
    chunks = _chunks(seed for seed in seeds if seed not in known)
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=nice) as pool:
        running: set[Future[list[dict[str, Any]]]] = set()
        began, said = time.monotonic(), time.monotonic()
        while True:
            while len(running) <= processes and (ends is None or time.monotonic() < ends):
                following = next(chunks, None)
                if following is None:
                    break
                running.add(pool.submit(chunk, following, kind))
            if not running:
                return done
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                for told in future.result():
                    done.add(told)
                    if state is not None:
                        with state.open("a") as file:
                            file.write(json.dumps(told) + "\n")
                    if told["violations"]:
                        print(f"seed {told['seed']}: {told['violations'][0]}", flush=True)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                print(
                    f"… {done.seeds} seeds after {said - began:.0f} s, "
                    f"{len(done.violating)} violating",
                    flush=True,
                )


def _chunks(seeds: Iterator[int]) -> Iterator[tuple[int, ...]]:
    held: list[int] = []
    for seed in seeds:
        held.append(seed)
        if len(held) == CHUNK:
            yield tuple(held)
            held = []
    if held:
        yield tuple(held)


def story(result: Result, lines: int | None) -> str:
    """Return a trace, or its tail, with what it broke and how to see it again."""
    trace = result.trace if lines is None else result.trace[-lines:]
    broken = [f"  BROKEN {violation}" for violation in result.violations[:10]]
    return "\n".join(
        (*trace, f"  {result.plan}", *broken, f"  replay: make sim SEED={result.plan.seed}")
    )


def replay(seed: int, kind: Kind | None) -> int:
    """Show one seed's whole trace."""
    result = run(seed, plan=plan_of(seed, kind))
    print(story(result, None))
    happened = ", ".join(
        f"{name} {number}" for name, number in sorted(result.counts.items()) if number
    )
    print(f"seed {seed}: {len(result.violations)} violations, trace {result.digest}; {happened}")
    return 1 if result.violations else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="replay this one with its whole trace")
    parser.add_argument("--seeds", type=int, help="how many")
    parser.add_argument("--seed-from", type=int, default=1, help="the first one")
    parser.add_argument("--minutes", type=float, help="begin no new seeds after so many minutes")
    parser.add_argument("--from-commit", action="store_true", help="seeds drawn from the commit")
    parser.add_argument(
        "--kind", choices=("shared", "replicated"), help="of store; else each seed draws it"
    )
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--fresh", action="store_true", help="forget what an interrupted run knows already"
    )
    asked = parser.parse_args()
    if asked.seed is not None:
        return replay(asked.seed, asked.kind)
    first, limit = asked.seed_from, asked.seeds
    if asked.from_commit:
        commit, first = commit_seed()
        print(f"seeds from {first} on, drawn from commit {commit[:12]}", flush=True)
    state = None
    if asked.minutes is None:
        limit = 500 if limit is None else limit
        state = (
            ROOT
            / "out"
            / "simulation"
            / f"{code_digest()}-{asked.kind or 'both'}-{first}-{limit}.jsonl"
        )
        state.parent.mkdir(parents=True, exist_ok=True)
        if asked.fresh:
            state.unlink(missing_ok=True)
    began = time.monotonic()
    seeds = iter(range(first, first + limit)) if limit is not None else count(first)
    done = many(
        seeds,
        state,
        asked.processes,
        None if asked.minutes is None else began + asked.minutes * 60,
        asked.kind,
    )
    for seed in sorted(done.violating)[:SHOWN_MAX]:
        try:
            result = run(seed, plan=plan_of(seed, asked.kind))
            print(f"\n--- seed {seed}\n{story(result, TAIL_LINES)}\n")
        except Exception:  # noqa: BLE001 - what the simulation itself stumbles over; the summary comes all the same
            traceback.print_exc()
    never = summary.missing(done.counts, done.kinds)
    if never:
        print(f"never happened: {', '.join(never)}")
    said = summary.line(done.counts, done.kinds, done.simulated_s, len(done.violating))
    print(f"{said}; took {time.monotonic() - began:.0f} s")
    return 1 if done.violating or never else 0


if __name__ == "__main__":
    sys.exit(main())
