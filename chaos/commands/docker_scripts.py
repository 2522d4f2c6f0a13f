"""Inject one fault into the stack under a small load and report the effect: `python -m
chaos.commands.docker_scripts NAME`.

Each file in chaos/scripts/ runs one of these; `NAME --help` describes it. Containers that were
killed are started again after a pause, even when a signal ends the process. At the end every
acknowledged write is read back.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TextIO

from acordo import AcordoError
from chaos.nemeses.fault_gauge import WINDOWS
from chaos.strikes.catalogue import NOBODY_ANSWERS, READS, STRIKES, Strike, service
from chaos.strikes.disturb import PAUSE_S, disturb
from chaos.strikes.outcome import HEAD, StrikeOutcome
from chaos.targets.docker_engine import NoStack
from chaos.targets.docker_stack import DockerTarget

EACH: Final = "each"
TABLE: Final = Path("out/docker/kills.md")
PAUSE_MAX_S: Final = 3600.0
TROUBLE: Final = (NoStack, TimeoutError, AcordoError)
"""Errors that keep a fault from being judged."""
SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
KEPT: Final = frozenset({"kill-leader", "kill-redis-master", "full-restart"})
"""Kills whose target is chosen by role. The other kills are in the table under their container's
name.
"""
ONCE: Final = frozenset({"secret", "cockroach-init"})
"""Services that exit by themselves and are not killed."""

LOST, UNJUDGED, MISSED = 1, 2, 3
CODES: Final = f"""\
exit codes:
  0  every acknowledged write is there, every limit was kept
  {LOST}  an acknowledged write is lost (it is named)
  {UNJUDGED}  not judged: no stack, it does not come back, the engine or the cluster fails,
     an error of this program; also wrong arguments
  {MISSED}  a limit is missed (it is named)
  128 + N  ended by signal N, after healing
  {EACH}: the first of {LOST}, {UNJUDGED}, {MISSED} that happened to any container"""


async def each(target: DockerTarget, pause_s: float, table: Path) -> int:
    """Kill every container of the stack in turn under load; print and write the table. Return the
    exit code.
    """
    codes, rows = [0], [HEAD]
    scripts = {"kill-database": STRIKES["kill-database"]} if target.store else {}
    scripts |= {n: s for n, s in STRIKES.items() if n in KEPT or s.how != "kill"}
    for name in sorted(target.services - ONCE - {target.store}):
        limits = NOBODY_ANSWERS if name == "nginx" else READS
        scripts[f"kill {name}"] = Strike("kill", service(name), f"Kill {name} (SIGKILL).", limits)
    for name, script in scripts.items():
        try:
            outcome = await disturb(target, script, name, pause_s)
        except TROUBLE as exc:
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise  # a signal came and healing failed: do not kill the next container
            _say(f"error: {name}: {_reason(exc)}", sys.stderr)
            codes.append(UNJUDGED)
            rows.append(f"| {name} | not judged: {_reason(exc).replace('|', '/')} | | | | | | |")
        else:
            codes.append(_say_outcome(outcome))
            rows.append(outcome.row)
        _write(table, rows)
    return min(filter(None, codes), default=0)


def _write(table: Path, rows: list[str]) -> None:
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("\n".join(rows) + "\n")


def _say_outcome(outcome: StrikeOutcome) -> int:
    """Print an outcome and return its exit code."""
    _say(str(outcome))
    for key in outcome.lost[:20]:
        _say(f"lost: {key}")
    for limit in outcome.missed():
        _say(f"limit missed: {limit}")
    if outcome.lost:
        return LOST
    return MISSED if outcome.missed() else 0


def _say(line: str, where: TextIO | None = None) -> None:
    # Printing fails if the terminal is gone, which must not keep anything from being healed.
    with contextlib.suppress(OSError):
        print(line, file=where, flush=True)


def _reason(exc: BaseException) -> str:
    return " ".join(str(exc).split()) or type(exc).__name__


async def run(target: DockerTarget, name: str, pause_s: float, table: Path = TABLE) -> int:
    """Run one script, or `each`, on a stack; heal it on leaving. Return the exit code."""
    code = 0
    try:
        async with target:
            away_s = pause_s if name == EACH else STRIKES[name].away_s(pause_s)
            leader_s = STRIKES["kill-leader"].away_s(pause_s)
            but = f", a leader after {leader_s:g} s" if name == EACH and leader_s > away_s else ""
            _say(f"{name}: what it hits comes back after {away_s:g} s{but}")
            with WINDOWS.shown(await target.gateway()):
                if name == EACH:
                    code = await each(target, pause_s, table)
                else:
                    code = _say_outcome(await disturb(target, STRIKES[name], name, pause_s))
    except TROUBLE as exc:
        _say(f"error: {_reason(exc)}", sys.stderr)
        return LOST if code == LOST else UNJUDGED
    return code


async def interruptible(work: Coroutine[Any, Any, int]) -> int:
    """Run the work; a signal cancels it, so that it heals while it ends.

    Return its code, or 128 + the signal's number. Further signals are ignored: if the process ended
    while a container is down, the container would stay down.
    """
    loop, working = asyncio.get_running_loop(), asyncio.create_task(work)
    came: list[signal.Signals] = []

    def take(number: signal.Signals) -> None:
        _say(f"{number.name}: healing, then the end", sys.stderr)
        if not came:
            working.cancel()
        came.append(number)

    for number in SIGNALS:
        loop.add_signal_handler(number, take, number)
    try:
        return await working
    except asyncio.CancelledError:
        if not came:
            raise
        return 128 + came[0]
    finally:
        for number in SIGNALS:
            loop.remove_signal_handler(number)


def _parser() -> argparse.ArgumentParser:
    """Return a parser with a subcommand for each script, so that each has its own help."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m chaos.commands.docker_scripts",
        description=__doc__,
        epilog=CODES,
        formatter_class=plain,
    )
    commands = parser.add_subparsers(dest="name", required=True, metavar="NAME")
    for name, script in STRIKES.items():
        what = (
            f"{script.does}\n\n"
            "Four writers and a reader are at work meanwhile, through nginx and without retries.\n"
            "What is hit comes back after the pause; then every acknowledged write is read again.\n"
            f"limits: {script.limits}"
        )
        _add(
            commands.add_parser(
                name, help=script.does, description=what, epilog=CODES, formatter_class=plain
            ),
            script,
        )
    what = (
        f"Kill every container in turn, and disturb the nodes in every other way; the "
        f"table goes to {TABLE}."
    )
    _add(
        commands.add_parser(EACH, help=what, description=what, epilog=CODES, formatter_class=plain)
    )
    return parser


def _add(parser: argparse.ArgumentParser, script: Strike | None = None) -> None:
    least = f", at least {script.away_s(0):g}" if script is not None and script.away_s(0) else ""
    parser.add_argument(
        "--pause",
        type=_seconds,
        default=PAUSE_S,
        metavar="S",
        help=f"seconds until it comes back{least} (default: %(default)g)",
    )
    parser.add_argument(
        "--project",
        metavar="NAME",
        help="compose project (default: COMPOSE_PROJECT_NAME or acordo)",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds <= PAUSE_MAX_S:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {PAUSE_MAX_S:g}")
    return seconds


def main(argv: list[str]) -> int:
    """Run a script and return an exit code of CODES.

    An unexpected error does not return 1, because no write was found to be lost.
    """
    given = _parser().parse_args(argv)
    try:
        return asyncio.run(interruptible(run(DockerTarget(given.project), given.name, given.pause)))
    except Exception:  # noqa: BLE001 - Python's own exit code would say that a write is lost
        traceback.print_exc()
        return UNJUDGED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
