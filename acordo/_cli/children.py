"""Run a command as a child process. It is never left running when we end in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from acordo._cli.exit_codes import NOT_EXECUTABLE, NOT_FOUND

ENDING_S: Final = 5.0
"""How long a command may take to end after it was asked to, if nothing else is said."""
PASSED_ON: Final = (signal.SIGTERM, signal.SIGHUP)
"""Signals to us that the child is sent. A Ctrl-C at the terminal reaches both."""


class CannotStart(Exception):
    """A command that could not be started, with the exit code that shells give."""

    def __init__(self, detail: str, code: int) -> None:
        super().__init__(detail)
        self.detail, self.code = detail, code


@asynccontextmanager
async def started(
    command: Sequence[str],
    variables: Mapping[str, str],
    *,
    with_input: bool = False,
    on_signal: Callable[[int], object] = lambda _: None,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start a command with more variables in its environment, and end it with the block.

    `with_input`: its standard input is a pipe; else it is ours. `on_signal` is told what was passed
    on to it: it was meant for us too. Raises CannotStart.
    """
    with _passing_on(on_signal) as heard:
        try:
            child = await asyncio.create_subprocess_exec(
                *command,
                env={**os.environ, **variables},
                stdin=asyncio.subprocess.PIPE if with_input else None,
            )
        except FileNotFoundError as exc:
            raise CannotStart(f"{command[0]}: there is no such command", NOT_FOUND) from exc
        except (OSError, ValueError) as exc:
            raise CannotStart(f"{command[0]}: {exc}", NOT_EXECUTABLE) from exc
        try:
            heard.go_to(child)
            yield child
        finally:
            await end(child, ENDING_S)


async def end(child: asyncio.subprocess.Process, within_s: float) -> None:
    """End a child by SIGTERM, and after `within_s` seconds by SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if child.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(child.wait(), max(within_s, 0.01))


def code_of_child(child: asyncio.subprocess.Process) -> int:
    """Return the exit code of a child that has ended, as shells give it: 128 + N after signal N."""
    code = child.returncode or 0
    return code if code >= 0 else 128 - code


class _Heard:
    """The signals that were sent to us, and the child that is sent them too."""

    def __init__(self, on_signal: Callable[[int], object]) -> None:
        self._on_signal = on_signal
        self._child: asyncio.subprocess.Process | None = None
        self._early: list[int] = []

    def hear(self, number: int) -> None:
        """Say that there was a signal, and pass it on."""
        self._on_signal(number)
        self.pass_on(number)

    def pass_on(self, number: int) -> None:
        """Send the child a signal, as soon as there is one."""
        if self._child is None:
            self._early.append(number)
            return
        with contextlib.suppress(ProcessLookupError):
            self._child.send_signal(number)

    def go_to(self, child: asyncio.subprocess.Process) -> None:
        """Send the child what was heard while it was started, and what will be."""
        self._child = child
        for number in self._early:
            self.pass_on(number)


@contextlib.contextmanager
def _passing_on(on_signal: Callable[[int], object]) -> Iterator[_Heard]:
    """Let signals to us go to a child, so that it does not go on alone. Only the main thread
    receives signals.
    """
    heard, loop = _Heard(on_signal), asyncio.get_running_loop()
    if threading.current_thread() is not threading.main_thread():
        yield heard
        return
    for number in PASSED_ON:
        loop.add_signal_handler(number, heard.hear, number)
    try:
        yield heard
    finally:
        for number in PASSED_ON:
            loop.remove_signal_handler(number)
