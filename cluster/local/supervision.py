"""Keep one node process alive: start it, watch it, wait for its end, start it again.

A node that dies is started again with back-off. One whose `/livez` stays silent is killed first,
because a stopped process may hold what the others wait for. A node that exits with EX_CONFIG (its
settings or files are wrong) is never started again by itself.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Final

import aiohttp

from cluster.local.process import EX_CONFIG, ROOT, NodeProcess, NodeState
from kv.errors import BadRequest

PROBE_EVERY_S: Final = 0.25
START_GRACE_S: Final = 30.0
"""How long a new process may take until its `/livez` answers for the first time."""
BACKOFF_S: Final = (0.1, 8.0)
"""First and longest pause before a node is started again. The pause doubles with each death."""
STEADY_S: Final = 20.0
"""A node that was alive for longer than this starts again without the back-off of earlier deaths.
"""


class NodeFailed(BadRequest):
    """A node cannot start until an operator corrects what the last line of its log names."""


def failures_after(failures: int, *, alive_s: float, served: bool, code: int) -> int:
    """Return the number of consecutive failures after one more death.

    A node that served and was killed with SIGKILL, or that lived longer than STEADY_S, starts
    counting anew.
    """
    if alive_s > STEADY_S or (served and code == -signal.SIGKILL):
        return 1
    return failures + 1


def backoff_s(failures: int) -> float:
    """Return the pause before the next start, after `failures` deaths in a row. The first has no
    pause.
    """
    first, longest = BACKOFF_S
    return 0.0 if failures <= 1 else min(longest, first * 2.0 ** (min(failures, 32) - 2))


class Beat:
    """A clock that advances only while this process runs, so that a stall of the runner is not
    taken for silence of a node.
    """

    def __init__(self) -> None:
        self.lived_s = 0.0

    async def run(self) -> None:
        """Advance the clock for ever."""
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            self.lived_s += PROBE_EVERY_S  # not the real pause, which is longer after a stall


class Supervisor:
    """The supervisor that keeps the nodes of one runner alive."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        beat: Beat,
        *,
        command: tuple[str, ...],
        liveness_timeout_s: float,
        say: Callable[[str], None],
        changed: Callable[[], None],
        failed: Callable[[NodeFailed], None],
    ) -> None:
        self._http, self._beat, self._command = http, beat, command
        self._liveness_timeout_s = liveness_timeout_s
        self._say = say
        self._changed = changed
        """Callback for each start and end of a process."""
        self._failed = failed
        """Callback for a node that cannot start until an operator corrects something."""

    async def supervise(self, node: NodeProcess) -> None:
        """Keep a node running while it is wanted. Never returns."""
        failures = 0
        while True:
            await node.wanted.wait()
            alive_s, served, code = await self._live_once(node)
            if not node.wanted.is_set():
                continue
            if code == EX_CONFIG:
                node.state = NodeState.FAILED
                node.wanted.clear()
                self._failed(
                    NodeFailed("node_failed", f"{node.id} cannot start: {node.last_words()}")
                )
                continue
            failures = failures_after(failures, alive_s=alive_s, served=served, code=code)
            pause_s = backoff_s(failures)
            why = (
                f"signal {signal.Signals(-code).name}"
                if code < 0
                else f"exit code {code}: {node.last_words()[:300]}"
            )
            when = f"in {pause_s:g} s" if pause_s else "at once"
            self._say(f"{node.id} ended ({why}): starting it again {when}")
            await asyncio.sleep(pause_s)

    async def _live_once(self, node: NodeProcess) -> tuple[float, bool, int]:
        """Start the process and watch it until it ends.

        Return how long it lived in seconds, whether it ever answered, and its exit code.
        """
        began = asyncio.get_running_loop().time()
        node.over.clear()
        try:
            node.rotate_log()
            with node.log.open("ab") as log:
                node.log_from = log.tell()
                node.process = process = await asyncio.create_subprocess_exec(
                    *self._command,
                    # The node stops when its standard input ends: that happens when the runner
                    # dies.
                    stdin=asyncio.subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=node.environ,
                    cwd=ROOT,
                    # A session of its own keeps Ctrl-C from the nodes: the runner gets it and stops
                    # them in order.
                    start_new_session=True,
                )
            node.state, node.paused = NodeState.STARTING, False  # it was the process before
            node.starts += 1
            self._changed()
            if not node.wanted.is_set():  # `stop_node` was called during the start
                node.signal(signal.SIGTERM)
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch(node))
                code = await process.wait()
                watch.cancel()
            served = node.state is NodeState.ALIVE
        finally:
            if node.state is not NodeState.FAILED:
                node.state = NodeState.DOWN
            node.over.set()
            self._changed()
        return asyncio.get_running_loop().time() - began, served, code

    async def _watch(self, node: NodeProcess) -> None:
        """Kill the node once its `/livez` has been silent for too long."""
        heard_s = self._beat.lived_s
        while True:
            if node.paused:
                heard_s = self._beat.lived_s
            elif await self._answers(node.url + "/livez"):
                node.state = NodeState.ALIVE
                heard_s = self._beat.lived_s
            # `why_not_ready` may have set the state to ALIVE, and the node may be silent since.
            patience_s = (
                self._liveness_timeout_s if node.state is NodeState.ALIVE else START_GRACE_S
            )
            if self._beat.lived_s - heard_s >= patience_s:
                self._say(f"{node.id} has been silent for {patience_s:g} s: killing it")
                node.signal(signal.SIGKILL)
                return
            node.rotate_log()
            await asyncio.sleep(PROBE_EVERY_S)

    async def _answers(self, url: str) -> bool:
        try:
            async with self._http.get(url) as response:
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return False
