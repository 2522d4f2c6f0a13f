"""Start node processes on this machine, keep them alive, stop them in order.

A node that dies is started again with back-off; one whose /livez stays silent is killed first (a stopped process may
hold SQLite's write lock). One that says its settings or files are wrong (EX_CONFIG) is never started again by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import msgspec

from cluster.config import PREFIX, RAFT_PORT_OFFSET, MemberSetting, RunnerSettings
from cluster.layout import ClusterFile, Running, RunningNode, claim_cluster, locked, make_secret, write_whole
from kv.errors import BadRequest

EX_CONFIG: Final = 78
"""sysexits.h: an operator must mend something; starting again would end the same way."""
ROOT: Final = Path(__file__).resolve().parent.parent
NODE: Final = (sys.executable, "-m", "node")

PROBE_EVERY_S: Final = 0.25
START_GRACE_S: Final = 30.0
"""How long a new process may take until its /livez first answers."""
BACKOFF_S: Final = (0.1, 8.0)
"""First and longest pause before a node is started again; doubled each time."""
STEADY_S: Final = 20.0
"""A node that was alive for so long has its back-off forgotten."""
KILL_AFTER_S: Final = 5.0
"""Beyond the drain, how long a stopping node is waited for before it is killed."""
LOG_BYTES_MAX: Final = 16 << 20
"""A node's log beyond this is kept once as node.log.1 and begun anew."""


class State(Enum):
    """What the runner wants and knows of one node."""

    STARTING = "starting"
    ALIVE = "alive"
    DOWN = "down"
    FAILED = "failed"
    """It ended with EX_CONFIG."""


class NodeFailed(BadRequest):
    """A node cannot start until an operator mends what its last line names."""


def backoff_s(failures: int) -> float:
    """Return the pause before the next start, after so many deaths in a row."""
    first, longest = BACKOFF_S
    return min(longest, first * 2.0 ** max(0, min(failures, 32) - 1))


class NodeProcess:
    """One node as a process of this machine."""

    def __init__(self, member: MemberSetting, url: str, data_dir: Path, environ: Mapping[str, str]) -> None:
        self.id, self.raft_address = member.id, member.raft_address
        self.url, self.data_dir, self.environ = url, data_dir, dict(environ)
        self.process: asyncio.subprocess.Process | None = None
        self.state = State.DOWN
        self.starts = 0
        self.wanted = asyncio.Event()
        """Set while it should run; `stop_node` clears it."""
        self.over = asyncio.Event()
        """Set while there is no process."""
        self.over.set()

    @property
    def pid(self) -> int | None:
        process = self.process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def log(self) -> Path:
        return self.data_dir / "node.log"

    def signal(self, number: int) -> bool:
        """Send a signal; return whether there was a process to get it."""
        if self.pid is None:
            return False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)
            return True
        return False

    def last_words(self) -> str:
        """Return the last line of its log: what it died of."""
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 8192))
            lines = file.read().decode(errors="replace").strip().splitlines()
            return lines[-1].removeprefix("error: ") if lines else ""
        return ""


class LocalCluster:
    """A cluster of node processes in one directory: `async with LocalCluster(settings) as c: await c.wait_ready()`.

    `command` starts a node (tests give another one); `overrides` are settings of single nodes by id. Entering starts
    the processes, leaving stops them. Raises BadRequest for what an operator must mend, naming it.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        *,
        say: Callable[[str], None] = lambda line: None,
        command: tuple[str, ...] | None = None,
        overrides: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self.settings, self.say, self.command = settings, say, command or NODE
        self.overrides = overrides or {}
        self.nodes: dict[str, NodeProcess] = {}
        self.file: ClusterFile
        self.failure: asyncio.Future[NodeFailed] = asyncio.get_running_loop().create_future()
        """Done once a node cannot start until an operator mends something."""
        self.all_failed = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()

    # ------------------------------------------------------------------------------------------- entering and leaving

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._prepare(stack)
            patience = aiohttp.ClientTimeout(total=self.settings.liveness_timeout_s / 2)
            self._http = await stack.enter_async_context(aiohttp.ClientSession(timeout=patience))
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            beat = _Beat()
            loops = [tasks.create_task(beat.run())]
            for node in self.nodes.values():
                node.wanted.set()
                loops.append(tasks.create_task(self._supervise(node, beat)))
            stack.callback(lambda: [loop.cancel() for loop in loops])
            stack.push_async_callback(self._stop_all)  # before the loops that know how a node ended are cancelled
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: Any) -> None:
        # What the body raised goes on as it is: the task group would wrap it. A cancellation may be the group's own.
        cancelled = isinstance(exc, asyncio.CancelledError)
        await self._stack.__aexit__(*((kind, exc, trace) if cancelled else (None, None, None)))

    def _prepare(self, stack: contextlib.AsyncExitStack) -> None:
        settings = self.settings
        given = settings.model_fields_set
        data = settings.data.absolute()
        data.parent.mkdir(parents=True, exist_ok=True)
        self.file = claim_cluster(
            data,
            settings.nodes if "nodes" in given else None,
            settings.base_port if "base_port" in given else None,
            (settings.nodes, settings.base_port),
        )
        stack.enter_context(locked(data, "runner"))
        ports = {f"n{i + 1}": self.file.base_port + i for i in range(self.file.nodes)}
        for node_id, port in ports.items():
            refuse_taken_port(settings.host, port, f"HTTP of {node_id}")
            refuse_taken_port("127.0.0.1", port + RAFT_PORT_OFFSET, f"Raft of {node_id}")
        members = [MemberSetting(n, f"127.0.0.1:{p + RAFT_PORT_OFFSET}") for n, p in ports.items()]
        common = {**_clean(os.environ), **settings.handed_on()}
        if settings.tls_cert_file is None and settings.secret_file is None:
            make_secret(data / "secret")
            common[PREFIX + "SECRET_FILE"] = str(data / "secret")
        reached = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
        for member in members:
            url = f"http://{reached}:{ports[member.id]}"
            directory = data / member.id
            directory.mkdir(exist_ok=True)
            own = {
                "NODE_ID": member.id,
                "CLUSTER_ID": self.file.cluster_id,
                "HTTP_HOST": settings.host,
                "HTTP_PORT": str(ports[member.id]),
                "ADVERTISED_URL": url,
                "RAFT_ADDRESS": member.raft_address,
                "MEMBERS": ",".join(map(str, members)),
                "DATA_DIR": str(directory),
                "STORE": settings.store_url,
                "STOP_WITH_STDIN": "true",
            }
            environ = common | {PREFIX + k: v for k, v in own.items()} | dict(self.overrides.get(member.id, {}))
            self.nodes[member.id] = NodeProcess(member, url, directory, environ)

    async def _stop_all(self) -> None:
        await asyncio.gather(*(self.stop_node(node, signal.SIGINT) for node in self.nodes))

    # --------------------------------------------------------------------------------------------------- what it does

    async def wait_ready(self) -> str:
        """Return the leader's id once every node is ready. Raises NodeFailed, or TimeoutError naming who is not."""
        waiting = dict.fromkeys(self.nodes, "not started")
        said = ""
        try:
            async with asyncio.timeout(self.settings.ready_timeout_s):
                while True:
                    if self.failure.done():
                        raise self.failure.result()
                    answers = await asyncio.gather(*(self._ready(n) for n in self.nodes.values()))
                    waiting = {n: why for n, why in zip(self.nodes, answers, strict=True) if why}
                    if not waiting and (leader := await self.leader()) is not None:
                        return leader
                    line = f"{len(self.nodes) - len(waiting)} of {len(self.nodes)} nodes ready"
                    if line != said:
                        self.say(said := line)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            reasons = "; ".join(f"{n}: {why}" for n, why in waiting.items()) or "no leader"
            raise TimeoutError(f"not ready after {self.settings.ready_timeout_s:g} s: {reasons}") from None

    async def leader(self) -> str | None:
        """Return the id of the leader that a node knows of now."""
        for node in self.nodes.values():
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):
                async with self._http.get(node.url + "/v1/leader") as response:
                    if response.status == 200:
                        said = await response.json()
                        return str(said.get("id") or said["leader"])
        return None

    async def stop_node(self, node_id: str, number: int = signal.SIGTERM) -> None:
        """End a node and keep it down until `start_node`. SIGINT: do not hand the leadership on, all of them end."""
        node = self.nodes[node_id]
        node.wanted.clear()
        node.signal(number)
        node.signal(signal.SIGCONT)  # a stopped process would not hear it
        patience_s = self.settings.drain_notice_s + self.settings.drain_timeout_s + KILL_AFTER_S
        try:
            async with asyncio.timeout(patience_s):
                await node.over.wait()
        except TimeoutError:
            self.say(f"{node.id} did not stop within {patience_s:g} s: killing it")
            node.signal(signal.SIGKILL)
            await node.over.wait()

    def start_node(self, node_id: str) -> None:
        """Let a node run (again), also one that had failed."""
        self.nodes[node_id].wanted.set()

    def kill(self, node_id: str, number: int = signal.SIGKILL) -> None:
        """Send a signal and leave the rest to the supervision."""
        self.nodes[node_id].signal(number)

    def kill_all(self) -> None:
        """Kill every process at once: somebody is tired of waiting."""
        for node in self.nodes.values():
            node.signal(signal.SIGKILL)

    # ---------------------------------------------------------------------------------------------------- supervision

    async def _supervise(self, node: NodeProcess, beat: _Beat) -> None:
        failures = 0
        while True:
            await node.wanted.wait()
            alive_s, code = await self._one_life(node, beat)
            if not node.wanted.is_set():
                continue
            if code == EX_CONFIG:
                node.state = State.FAILED
                node.wanted.clear()
                failed = NodeFailed("node_failed", f"{node.id} cannot start: {node.last_words()}")
                self.say(failed.detail)
                if not self.failure.done():
                    self.failure.set_result(failed)
                if all(n.state is State.FAILED for n in self.nodes.values()):
                    self.all_failed.set()
                continue
            failures = 1 if alive_s > STEADY_S else failures + 1
            pause_s = backoff_s(failures)
            why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}: {node.last_words()[:300]}"
            self.say(f"{node.id} ended ({why}): starting it again in {pause_s:g} s")
            await asyncio.sleep(pause_s)

    async def _one_life(self, node: NodeProcess, beat: _Beat) -> tuple[float, int]:
        """Start the process, watch it until it has ended; return how long it lived and its exit code."""
        began = asyncio.get_running_loop().time()
        node.over.clear()
        try:
            _rotate(node.log)
            with node.log.open("ab") as log:
                node.process = process = await asyncio.create_subprocess_exec(
                    *self.command,
                    stdin=asyncio.subprocess.PIPE,  # its end tells the node that the runner is gone
                    stdout=log,
                    stderr=log,
                    env=node.environ,
                    cwd=ROOT,
                    start_new_session=True,  # Ctrl-C reaches the runner alone, which then stops the nodes in order
                )
            node.state = State.STARTING
            node.starts += 1
            self._note_running()
            if not node.wanted.is_set():  # stopped while it was being started
                node.signal(signal.SIGTERM)
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._watch(node, beat))
                code = await process.wait()
                watch.cancel()
        finally:
            if node.state is not State.FAILED:
                node.state = State.DOWN
            node.over.set()
            self._note_running()
        return asyncio.get_running_loop().time() - began, code

    async def _watch(self, node: NodeProcess, beat: _Beat) -> None:
        """Kill the node once its /livez has been silent for too long."""
        heard_s = beat.lived_s
        while True:
            if await self._answers(node.url + "/livez"):
                node.state = State.ALIVE
                heard_s = beat.lived_s
            # It may be alive by its answer to somebody else of us (`_ready`), and silent since.
            patience_s = self.settings.liveness_timeout_s if node.state is State.ALIVE else START_GRACE_S
            if beat.lived_s - heard_s >= patience_s:
                self.say(f"{node.id} has been silent for {patience_s:g} s: killing it")
                node.signal(signal.SIGKILL)
                return
            _rotate(node.log)
            await asyncio.sleep(PROBE_EVERY_S)

    async def _answers(self, url: str) -> bool:
        try:
            async with self._http.get(url) as response:
                return response.status < 500
        except (aiohttp.ClientError, TimeoutError, ConnectionError):
            return False

    async def _ready(self, node: NodeProcess) -> str:
        """Return why a node is not ready; empty when it is."""
        try:
            async with self._http.get(node.url + "/readyz?verbose") as response:
                if node.pid is not None:
                    node.state = State.ALIVE
                return "" if response.status == 200 else (await response.text())[:500].strip()
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as exc:
            return f"{node.state.value}; {node.url} does not answer ({type(exc).__name__}); {node.last_words()[:300]}"

    def _note_running(self) -> None:
        nodes = tuple(RunningNode(n.id, n.pid, n.url, n.raft_address) for n in self.nodes.values())
        with contextlib.suppress(OSError):  # a full disk must not end the supervision
            write_whole(self.settings.data / "running.json", msgspec.json.encode(Running(os.getpid(), nodes)))


class _Beat:
    """Count the time that this process itself ran through: its own stall is not blamed on a node."""

    def __init__(self) -> None:
        self.lived_s = 0.0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(PROBE_EVERY_S)
            self.lived_s += PROBE_EVERY_S  # also when the pause took longer


def refuse_taken_port(host: str, port: int, what: str) -> None:
    """Raise BadRequest("port_in_use") if nobody can listen there now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as exc:
            if exc.errno == errno.EADDRINUSE:
                raise BadRequest(
                    "port_in_use", f"port {port} ({what}) is in use", allowed="another --base-port"
                ) from exc
            raise BadRequest("bad_address", f"{what} cannot listen on {host}:{port}: {exc.strerror}") from exc


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings: a node gets its own from the runner alone."""
    return {k: v for k, v in environ.items() if not k.startswith(PREFIX) or k.startswith(PREFIX + "TEST_")}


def _rotate(log: Path) -> None:
    """Keep a grown log once under another name. The node appends to the same file, so it is copied and emptied."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES_MAX:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)
