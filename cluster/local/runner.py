"""Start node processes on this machine, keep them alive, and stop them in order.

A node that dies is started again with back-off. One whose `/livez` stays silent is killed first,
because a stopped process may hold what the others wait for. A node that exits with EX_CONFIG (its
settings or files are wrong) is never started again by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

import aiohttp
import msgspec

from cluster.directory import locked, write_whole
from cluster.local import closing
from cluster.local.asking import cluster_as_seen_by, leader_of, why_not_ready
from cluster.local.control import ControlPort
from cluster.local.layout import (
    ClusterFile,
    Place,
    Running,
    RunningNode,
    find_cluster,
    keep_cluster,
    make_secret,
    read_cluster,
)
from cluster.local.links import Links
from cluster.local.process import NodeProcess, NodeState
from cluster.local.readiness import Readiness, judge_readiness
from cluster.local.restoring import restore_members
from cluster.local.supervision import PROBE_EVERY_S, Beat, NodeFailed, Supervisor
from cluster.ports import refuse_taken_port
from cluster.settings.runner import RAFT_PORT_OFFSET, RunnerSettings
from cluster.settings.values import PREFIX, MemberSetting
from cluster.tls import authorization, session
from kv.errors import BadRequest

NODE: Final = (sys.executable, "-m", "node")

SETTLE_S: Final = 10.0
"""How long to wait for the remaining nodes once a quorum is ready, before reporting them as
missing.
"""
KILL_AFTER_S: Final = 5.0
"""How long to wait for a stopping node beyond its drain time before killing it."""


class LocalCluster:
    """A cluster of node processes in one directory, used as an async context manager.

    `async with LocalCluster(settings) as c: await c.wait_ready()`: entering starts the processes,
    leaving stops them. `command` starts a node (tests replace it); `overrides` are settings of
    single nodes by id. Raises BadRequest, naming the cause, for what an operator must correct.
    """

    def __init__(
        self,
        settings: RunnerSettings,
        *,
        say: Callable[[str], None] = lambda line: None,
        command: tuple[str, ...] | None = None,
        overrides: Mapping[str, Mapping[str, str]] | None = None,
        control: bool = False,
    ) -> None:
        """`control`: open the port by which people of this machine disturb the members."""
        self._control = control
        self.settings, self.say, self.command = settings, say, command or NODE
        self.overrides = overrides or {}
        self.closes = closing.is_closed_here(settings)
        """Whether HTTPS and controlled access of this cluster are made by this runner."""
        self.nodes: dict[str, NodeProcess] = {}
        self.file: ClusterFile
        self._common: dict[str, str] = {}
        self.failure: asyncio.Future[NodeFailed] = asyncio.get_running_loop().create_future()
        """Done once a node cannot start until an operator corrects something. The other nodes
        continue.
        """
        self.all_failed = asyncio.Event()
        self._stack = contextlib.AsyncExitStack()

    # ------------------------------------------------------------------------- entering and leaving

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            self._prepare(stack)
            if self._control:
                await self._open_control(stack)
            patience = aiohttp.ClientTimeout(total=self.settings.liveness_timeout_s / 2)
            self._http = await stack.enter_async_context(
                session(
                    patience,
                    own=self.settings.http_tls_cert_file,
                    token_file=closing.admin_token(self.settings.data),
                )
            )
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            beat = Beat()
            supervisor = Supervisor(
                self._http,
                beat,
                command=self.command,
                liveness_timeout_s=self.settings.liveness_timeout_s,
                say=self.say,
                changed=self._note_running,
                failed=self._note_failure,
            )
            loops = [tasks.create_task(beat.run())]

            def supervise(node: NodeProcess) -> None:
                node.wanted.set()
                loops.append(tasks.create_task(supervisor.supervise(node)))

            for node in self.nodes.values():
                supervise(node)
            following = tasks.create_task(self._follow_layout(supervise))
            stack.callback(lambda: [loop.cancel() for loop in loops])
            # Exit callbacks run in reverse order: the nodes must stop before the supervising loops
            # are cancelled, because those loops record how each node ended.
            stack.push_async_callback(self._stop_all)
            stack.callback(following.cancel)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: Any
    ) -> None:
        # An exception of the body is kept from the task group, which would wrap it in a group. A
        # cancellation is passed on, because it may be the task group's own.
        cancelled = isinstance(exc, asyncio.CancelledError)
        await self._stack.__aexit__(*((kind, exc, trace) if cancelled else (None, None, None)))

    def _prepare(self, stack: contextlib.AsyncExitStack) -> None:
        settings, data = self.settings, self.settings.data.absolute()
        self._find()  # refuse a foreign directory before even a lock file is written into it
        stack.enter_context(locked(data, "runner"))
        self.file, new = self._find()
        places = [place for place in self.file.all_places if place.state != "removed"]
        for place in places:
            for host, port, what in (
                (settings.host, self._http_port(place), f"HTTP of {place.id}"),
                ("127.0.0.1", self._raft_port(place), f"Raft of {place.id}"),
            ):
                refuse_taken_port(host, port, what, of=None if new else data)
        if self.closes:
            self.settings = settings = closing.with_certificates(settings, self.say)
        self._common = {**_clean(os.environ), **settings.handed_on()}
        if settings.from_backup:
            if not new:
                raise BadRequest(
                    "restore_not_empty",
                    f"{data} holds a cluster already; nothing in it was touched",
                    allowed="a new --data directory",
                )
            restore_members(
                settings, [self._node(place) for place in places], self.command, self.say
            )
        if settings.tls_cert_file is None and settings.secret_file is None:
            if make_secret(data / "secret"):
                self.say(
                    "made a secret for the members: what they say is authenticated, not encrypted "
                    "(docs/security.md)"
                )
            self._common[PREFIX + "SECRET_FILE"] = str(data / "secret")
        if new:
            keep_cluster(data, self.file)
        for place in places:
            self.nodes[place.id] = self._node(place)

    async def _open_control(self, stack: contextlib.AsyncExitStack) -> None:
        """Open the control port, and the relays between the members that are there now."""
        named = {PREFIX + "CONTROL_FILE": str(self._control_file)}
        self._common |= named  # for members that are added later
        for node in self.nodes.values():
            node.environ |= named
        links: Links | None = None
        if self.settings.relay_links:
            links = await stack.enter_async_context(
                Links(MemberSetting(n.id, n.raft_address) for n in self.nodes.values())
            )
            for node in self.nodes.values():
                node.environ[PREFIX + "RAFT_ROUTES"] = links.routes_of(node.id)
        await stack.enter_async_context(ControlPort(self, self._control_file, links))

    @property
    def _control_file(self) -> Path:
        return self.settings.data.absolute() / "control.json"

    def _find(self) -> tuple[ClusterFile, bool]:
        """Return the directory's cluster and whether it is new. Raises BadRequest."""
        settings, given = self.settings, self.settings.model_fields_set
        return find_cluster(
            settings.data.absolute(),
            settings.nodes if "nodes" in given else None,
            settings.base_port if "base_port" in given else None,
            (settings.nodes, settings.base_port),
            settings.cluster_id,
            store=settings.kind,
        )

    def _http_port(self, place: Place) -> int:
        return self.file.base_port + place.number

    def _raft_port(self, place: Place) -> int:
        return self._http_port(place) + RAFT_PORT_OFFSET

    def _node(self, place: Place) -> NodeProcess:
        """Return a member's process object; the process is not started yet."""
        settings = self.settings
        first = [
            MemberSetting(p.id, f"127.0.0.1:{self._raft_port(p)}") for p in self.file.first_places
        ]
        reached = "127.0.0.1" if settings.host in ("0.0.0.0", "::", "") else settings.host
        scheme = "http" if settings.http_tls_cert_file is None else "https"
        url = f"{scheme}://{reached}:{self._http_port(place)}"
        member = MemberSetting(place.id, f"127.0.0.1:{self._raft_port(place)}")
        directory = settings.data.absolute() / place.id
        directory.mkdir(exist_ok=True)
        own = {
            "NODE_ID": place.id,
            "CLUSTER_ID": self.file.cluster_id,
            "HTTP_HOST": settings.host,
            "HTTP_PORT": str(self._http_port(place)),
            "ADVERTISED_URL": url,
            "RAFT_ADDRESS": member.raft_address,
            "MEMBERS": place.first_members or ",".join(map(str, first)),
            "DATA_DIR": str(directory),
            "STORE": settings.store_url,
            "STOP_WITH_STDIN": "true",
        }
        environ = (
            self._common
            | {PREFIX + k: v for k, v in own.items()}
            | dict(self.overrides.get(place.id, {}))
        )
        return NodeProcess(member, url, directory, environ)

    async def _follow_layout(self, supervise: Callable[[NodeProcess], None]) -> None:
        """Start and stop processes as `cluster.json` changes.

        The commands `add`, `remove` and `replace` write that file.
        """
        path, seen = self.settings.data / "cluster.json", 0
        while True:
            with contextlib.suppress(OSError):
                changed = path.stat().st_mtime_ns
                if changed != seen:
                    seen = changed
                    await self._take_layout(supervise)
            await asyncio.sleep(PROBE_EVERY_S)

    async def _take_layout(self, supervise: Callable[[NodeProcess], None]) -> None:
        try:
            self.file = read_cluster(self.settings.data.absolute())
        except BadRequest as exc:
            self.say(f"the directory's members are not followed: {exc.detail}")
            return
        for place in self.file.all_places:
            if place.state == "removed" and place.id in self.nodes:
                self.say(
                    f"{place.id} is removed: stopping it; {self.nodes[place.id].data_dir} stays"
                )
                await self.stop_node(place.id)
                del self.nodes[place.id]
                self._note_running()
            elif place.state != "removed" and place.id not in self.nodes:
                node = self.nodes[place.id] = self._node(place)
                self.say(f"starting {place.id} at {node.url}")
                supervise(node)

    async def _stop_all(self) -> None:
        await asyncio.gather(*(self.stop_node(node, signal.SIGINT) for node in self.nodes))

    # --------------------------------------------------------------------------------- what it does

    async def wait_ready(self) -> str:
        """Wait until every node is ready, and return the leader's id.

        Raises NodeFailed if a node cannot start, or TimeoutError naming the nodes that are not
        ready.
        """
        waiting = dict.fromkeys(self.nodes, "not started")
        said = ""
        try:
            async with asyncio.timeout(self.settings.ready_timeout_s):
                while True:
                    if self.failure.done():
                        raise self.failure.result()
                    nodes = tuple(self.nodes.values())
                    answers = await asyncio.gather(*(why_not_ready(self._http, n) for n in nodes))
                    waiting = {n.id: why for n, why in zip(nodes, answers, strict=True) if why}
                    if not waiting and (leader := await self.leader()) is not None:
                        return leader
                    line = f"{len(self.nodes) - len(waiting)} of {len(self.nodes)} nodes ready"
                    if line != said:
                        self.say(said := line)
                    await asyncio.sleep(0.1)
        except TimeoutError:
            reasons = "; ".join(f"{n}: {why}" for n, why in waiting.items()) or "no leader"
            raise TimeoutError(
                f"not ready after {self.settings.ready_timeout_s:g} s: {reasons}"
            ) from None

    async def wait_serving(self) -> Readiness:
        """Wait until a quorum is ready and each other node is ready or has failed.

        Nodes that are still missing SETTLE_S after the quorum became ready are not waited for.
        """
        loop = asyncio.get_running_loop()
        said, since = "", 0.0
        while True:
            found = await self.look()
            since = (since or loop.time()) if found.serving else 0.0
            if found.serving and (not self._may_come(found) or loop.time() - since > SETTLE_S):
                return found
            if (
                line := f"{len(self.nodes) - len(found.missing)} of {len(self.nodes)} nodes ready"
            ) != said:
                self.say(said := line)
            await asyncio.sleep(0.1)

    def _may_come(self, found: Readiness) -> bool:
        return any(
            self.nodes[n].state is not NodeState.FAILED for n in found.missing if n in self.nodes
        )

    async def look(self) -> Readiness:
        """Ask every node, and return which are ready, why the others are not, and whether a quorum
        serves.
        """
        nodes = list(self.nodes.values())
        why = dict(
            zip(
                (n.id for n in nodes),
                await asyncio.gather(*(why_not_ready(self._http, n) for n in nodes)),
                strict=True,
            )
        )
        for node in nodes:
            if node.state is NodeState.FAILED:
                why[node.id] = f"cannot start: {node.last_words()}"
        ready = [node for node in nodes if not why[node.id]]
        seen = await cluster_as_seen_by(self._http, ready[0] if ready else next(iter(nodes), None))
        return judge_readiness(
            why, seen, {p.id for p in self.file.all_places if p.state == "joining"}
        )

    async def control_access(self, found: Readiness) -> None:
        """Make the admin's token and switch access control on, once; go on asking with the token.

        Raises BadRequest.
        """
        ready = next(node for node in self.nodes.values() if node.id not in found.missing)
        await closing.control_access(ready.url, data := self.settings.data.absolute(), self.say)
        self._http.headers.update(authorization(closing.admin_token(data)))

    async def leader(self) -> str | None:
        """Return the id of the leader that the nodes report; None if no node knows one."""
        return await leader_of(self._http, [node.url for node in self.nodes.values()])

    async def stop_node(self, node_id: str, number: int = signal.SIGTERM) -> None:
        """Stop a node and keep it down until `start_node`; kill it if it takes too long.

        SIGINT instead of SIGTERM means that all nodes are stopping, so the leadership is not handed
        on.
        """
        node = self.nodes[node_id]
        node.wanted.clear()
        node.signal(number)
        node.signal(signal.SIGCONT)  # a process stopped by SIGSTOP would not handle the signal
        patience_s = self.settings.drain_notice_s + self.settings.drain_timeout_s + KILL_AFTER_S
        try:
            async with asyncio.timeout(patience_s):
                await node.over.wait()
        except TimeoutError:
            self.say(f"{node.id} did not stop within {patience_s:g} s: killing it")
            node.signal(signal.SIGKILL)
            await node.over.wait()

    def start_node(self, node_id: str) -> None:
        """Start a node again, including one that had failed."""
        self.nodes[node_id].wanted.set()

    def kill(self, node_id: str, number: int = signal.SIGKILL) -> None:
        """Send a node a signal. The supervision starts it again if it ends."""
        self.nodes[node_id].signal(number)

    def kill_all(self) -> None:
        """Kill every process at once, for a user who does not want to wait."""
        for node in self.nodes.values():
            node.signal(signal.SIGKILL)

    def _note_failure(self, failed: NodeFailed) -> None:
        self.say(failed.detail)
        if not self.failure.done():
            self.failure.set_result(failed)
        if all(n.state is NodeState.FAILED for n in self.nodes.values()):
            self.all_failed.set()

    def _note_running(self) -> None:
        nodes = tuple(RunningNode(n.id, n.pid, n.url, n.raft_address) for n in self.nodes.values())
        with contextlib.suppress(OSError):  # a full disk must not stop the supervision
            write_whole(
                self.settings.data / "running.json",
                msgspec.json.encode(Running(os.getpid(), nodes)),
            )


def _clean(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without settings: a node gets its settings from the runner alone."""
    return {
        k: v
        for k, v in environ.items()
        if not k.startswith(PREFIX) or k.startswith(PREFIX + "TEST_")
    }
