"""Show the progress of a run on a terminal."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from typing import Final

from chaos.records.recorder import Recorder
from chaos.runs.plan import Plan
from chaos.runs.result import RunResult

PROGRESS_S: Final = 1.0
QUIET_EVERY: Final = 5
"""Factor by which lines are rarer if the output is not a terminal."""
LINE_CHARS_MAX: Final = 150


async def show_progress(recorder: Recorder, result: RunResult) -> None:
    """Print a line every second (on a pipe every five) until cancelled."""
    if result.plan.quiet:
        return
    live = sys.stdout.isatty()
    began = time.monotonic()
    ok_before = 0
    for n in itertools.count(1):
        await asyncio.sleep(PROGRESS_S)
        line = _line(time.monotonic() - began, ok_before, recorder, result)
        ok_before = recorder.count("ok")
        if live:
            print(f"\r\x1b[2K{line[:LINE_CHARS_MAX]}", end="", flush=True)
        elif n % QUIET_EVERY == 0:
            print(line, flush=True)


def _line(since_s: float, ok_before: int, recorder: Recorder, result: RunResult) -> str:
    ok, failed, unknown = (recorder.count(outcome) for outcome in ("ok", "fail", "info"))
    last_fault = ""
    if result.inflicted:
        last = result.inflicted[-1]
        last_fault = f"last fault {last.nemesis} {','.join(last.targets)}"
    return (
        f"{since_s:6.0f} s  {ok:>8} ok {ok - ok_before:>6}/s  {failed:>6} failed  "
        f"{unknown:>5} unknown  {len(result.inflicted):>3} faults  {last_fault}"
    )


def say(plan: Plan, line: str) -> None:
    """Print one line, replacing the line of progress if there is one; print nothing for a quiet
    run.
    """
    if plan.quiet:
        return
    print(("\r\x1b[2K" if sys.stdout.isatty() else "") + line, flush=True)
