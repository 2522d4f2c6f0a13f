"""Run every test that touches time, signals or processes many times on a busy machine: `python -m
tests.flaky`.

Both cores are kept busy by loops of their own, beside whatever runs; a test that fails once in 50
runs is a failing test. Prints a table of those that failed, with how often and the last reason.
Exit code 1 when one did, 2 when nothing was run.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent
RINGS: Final = ("tests/unit", "tests/contract", "tests/integration", "tests/e2e")
TOUCHES: Final = re.compile(
    r"\b(subprocess|signal|multiprocessing|monotonic|perf_counter|sleep|timeout|wait_for|wait_until"
    r"|until|Popen|create_subprocess_exec|cluster\.services|tests\.services|loop\.time|call_later)\b"
)
"""What a test module that touches time, signals or processes speaks of."""
ROUND_TIMEOUT_S: Final = 3600
WHOLE: Final = "(the whole round)"
NO_TESTS: Final = 5
"""What pytest exits with when it found no test."""


@dataclass
class RunCount:
    """How often one test was run, and how it failed."""

    runs: int = 0
    failures: list[str] = field(default_factory=list)


def touching(paths: list[Path]) -> list[Path]:
    """Return the test modules under these paths that touch time, signals or processes."""
    modules = (
        m for path in paths for m in ([path] if path.is_file() else sorted(path.rglob("test_*.py")))
    )
    return [module for module in modules if TOUCHES.search(module.read_text())]


def _burn() -> None:
    while True:
        pass


@contextlib.contextmanager
def busy(loops: int) -> Iterator[None]:
    """Keep that many cores busy."""
    burning = [multiprocessing.Process(target=_burn, daemon=True) for _ in range(loops)]
    for each in burning:
        each.start()
    try:
        yield
    finally:
        for each in burning:
            each.kill()
            each.join()


def run(modules: list[Path], seen: dict[str, RunCount]) -> None:
    """Run the modules once and add what came of each test."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as report:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--tb=line",
            f"--junitxml={report.name}",
        ]
        try:
            code = subprocess.run(
                [*command, *map(str, modules)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=ROUND_TIMEOUT_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            seen.setdefault(WHOLE, RunCount()).failures.append(f"no end within {ROUND_TIMEOUT_S} s")
            return
        # it died, or could not read the tests: its report is none, or half of one
        if code not in (0, 1, NO_TESTS):
            seen.setdefault(WHOLE, RunCount()).failures.append(f"pytest ended with {code}")
        if not os.path.getsize(report.name):
            return
        for case in ET.parse(report.name).iter("testcase"):
            each = seen.setdefault(f"{case.get('classname')}::{case.get('name')}", RunCount())
            if case.find("skipped") is not None:
                continue
            each.runs += 1
            for trouble in (*case.findall("failure"), *case.findall("error")):
                each.failures.append(" ".join((trouble.get("message") or "").split())[:120])


def table(seen: dict[str, RunCount], rounds: int, took_s: float) -> str:
    """Return what failed as a Markdown table, and how much was run."""
    failed = sorted(
        ((name, s) for name, s in seen.items() if s.failures), key=lambda e: -len(e[1].failures)
    )
    lines = ["| test | failed | of | the last time |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {len(s.failures)} | {s.runs} | {s.failures[-1].replace('|', '/')} |"
        for name, s in failed
    ]
    total = sum(s.runs for s in seen.values())
    lines.append(
        f"\n{len(seen)} tests, {rounds} rounds, {total} runs, {len(failed)} of them failed at "
        f"least once; {took_s:.0f} s, {os.cpu_count()} cores, load average "
        f"{os.getloadavg()[0]:.1f} at the end"
    )
    return "\n".join(lines)


def main(argv: list[str]) -> int:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.flaky", description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help=f"of tests; none: {', '.join(RINGS)}")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument(
        "--busy", type=int, default=os.cpu_count() or 2, help="cores that are kept busy"
    )
    given = parser.parse_args(argv)
    modules = touching(given.paths or [ROOT / ring for ring in RINGS])
    if not modules:
        print("no test there touches time, signals or processes", file=sys.stderr)
        return 2
    seen: dict[str, RunCount] = {}
    began = time.monotonic()
    with busy(given.busy):
        for n in range(given.rounds):
            run(modules, seen)
            bad = sum(1 for s in seen.values() if s.failures)
            print(
                f"round {n + 1} of {given.rounds}: {bad} tests failed so far",
                file=sys.stderr,
                flush=True,
            )
    print(table(seen, given.rounds, time.monotonic() - began))
    if any(s.failures for s in seen.values()):
        return 1
    return 0 if any(s.runs for s in seen.values()) else 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
