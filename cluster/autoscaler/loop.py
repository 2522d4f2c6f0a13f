"""Run `python -m cluster autoscaler`: add and remove observers, never voters, by what Prometheus
says.

Every round it looks at what is really there (members and containers or processes), repairs what a
crash left half done, asks `plan` and does at most one thing. An observer that leaves drains
first; a name is never used twice, for a member that came back without its log could vote twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import aiohttp
import msgspec
import structlog
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Gauge, generate_latest

from acordo import AcordoError, Client
from cluster import logs
from cluster.autoscaler.plan import Band, Bounds, Decision, Figures, Memory, plan
from cluster.directory import write_whole
from cluster.local.layout import ClusterFile
from cluster.ports import free_ports
from cluster.settings.autoscaler import AutoscalerSettings
from cluster.settings.loading import load
from cluster.settings.values import PREFIX
from kv.errors import BadRequest

LABEL: Final = "acordo.observer"
READY_WITHIN_S: Final = 120.0
ASK_TIMEOUT_S: Final = 5.0
CHANGE_TIMEOUT_S: Final = 10.0
STOP_WITHIN_S: Final = 45
CLEAN_UP_WITHIN_S: Final = 60.0
"""Longest that an observer which did not come to serve is taken away for; what is left then, the
next round takes.
"""
ROUND_WITHIN_S: Final = 420.0
"""Longest round, after which it has failed: above an engine that is slow, an observer added, and
taken away again.
"""
DECISIONS_KEPT: Final = 100
QUIET: Final = ("steady", "at_minimum")
"""Reasons that are logged once, not at every round that finds them again."""
FAILURES_MAX: Final = 5
"""Rounds in a row that may fail before a warning becomes an error in the log."""

ROUTES: Final = 'route=~"/kv|/v1/kv.*|/v1/txn|/v1/batch"'
QUERIES: Final = {
    "in_flight": "avg(avg_over_time(acordo_http_requests_in_flight[15s]))",
    "p99_s": f"histogram_quantile(0.99, sum by (le) (rate(acordo_http_request_seconds_bucket{{{ROUTES}}}[30s])))",
    "cpu": "avg(rate(process_cpu_seconds_total[30s]) and on (instance) acordo_node_info)",
}
"""What the figures are, in PromQL."""

_DECISIONS: Final = Counter(
    "acordo_autoscaler_decisions", "Decisions, by what was done and why.", ["change", "reason"]
)
_FAILED: Final = Counter("acordo_autoscaler_failed", "Rounds that failed, by step.", ["step"])
_OBSERVERS: Final = Gauge("acordo_autoscaler_observers", "Observers that run and are members.")
_FIGURES: Final = Gauge("acordo_autoscaler_figure", "Figures of the last decision.", ["figure"])
_log = structlog.get_logger("acordo.autoscaler")


class Driver(Protocol):
    """Starts and stops nodes; everything else is asked of the cluster."""

    async def running(self) -> frozenset[str]:
        """Return the names of the observers that run now."""
        ...

    async def start(self, name: str, members: str) -> tuple[str, str]:
        """Start a node; `members` names the others. Return its Raft address and URL."""
        ...

    async def stop(self, name: str) -> None:
        """Let it drain, and remove it with all that it stored. Nothing happens when it is not
        there.
        """
        ...


class Autoscaler:
    """One loop over a cluster, a Prometheus and a driver."""

    def __init__(
        self,
        settings: AutoscalerSettings,
        client: Client,
        http: aiohttp.ClientSession,
        driver: Driver,
    ) -> None:
        self.settings, self.client, self.http, self.driver = settings, client, http, driver
        self.bounds = bounds_of(settings)
        self.memory = Memory()
        self.decisions: list[Decision] = []
        """The last hundred, oldest first."""

    async def serve(self) -> None:
        """Run for ever. A round that fails is logged, counted and tried again."""
        failures = 0
        while True:
            try:
                async with asyncio.timeout(ROUND_WITHIN_S):
                    await self.round()
                failures = 0
            except (
                AcordoError,
                BadRequest,
                aiohttp.ClientError,
                TimeoutError,
                OSError,
                NotReady,
                NoQuorum,
            ) as exc:
                failures += 1
                kind = type(exc).__name__
                _FAILED.labels(kind).inc()
                say = _log.error if failures >= FAILURES_MAX else _log.warning
                say("round failed", kind=kind, reason=str(exc)[:500])
            await asyncio.sleep(self.settings.autoscaler_period_s)

    async def round(self) -> Decision:
        """Look, repair, decide, act."""
        observers = await self.reconcile()
        figures = await self.figures()
        loop = asyncio.get_running_loop()
        decision = plan(figures, len(observers), self.bounds, self.memory, loop.time())
        self.memory = decision.memory
        again = bool(self.decisions) and self.decisions[-1].reason == decision.reason
        self.decisions = [*self.decisions[1 - DECISIONS_KEPT :], decision]
        _DECISIONS.labels(str(decision.change), decision.reason).inc()
        _OBSERVERS.set(len(observers))
        say = _log.debug if again and decision.reason in QUIET else _log.info
        say("decided", change=decision.change, reason=decision.reason, because=decision.because,
            observers=len(observers), **msgspec.to_builtins(figures))  # fmt: skip
        try:
            if decision.change > 0:
                await self.add()
            elif decision.change < 0:
                await self.remove(observers[-1])
        finally:  # also when it failed: it may have changed something
            self.memory = _rested(self.memory, decision, loop.time())
        return decision

    async def reconcile(self) -> list[str]:
        """Return the observers of ours that are whole, oldest first; take away what is not.

        Raises NoQuorum: what a node says then may be old, and nothing follows from it.
        """
        view = await self.client.cluster(timeout_s=CHANGE_TIMEOUT_S)
        if not view.quorum:
            raise NoQuorum(
                f"{view.node} reaches no quorum: what it knows of the members may be old"
            )
        members = {m.id for m in view.members if not m.voter and ours(m.id)}
        running = await self.driver.running()
        for name in sorted(running - members):
            _log.warning("runs without being a member", observer=name)
            await self.driver.stop(name)
        for name in sorted(members - running):
            _log.warning("is a member without running", observer=name)
            await self.driver.stop(name)
            await self.client.remove_member(name, timeout_s=CHANGE_TIMEOUT_S)
        return sorted(members & running)

    async def add(self) -> str:
        """Start one observer and wait until it serves. Raises NotReady, having taken it
        away again.
        """
        view = await self.client.cluster(timeout_s=CHANGE_TIMEOUT_S)
        name = f"o{time.time_ns() // 1_000_000:x}"
        others = ",".join(
            f"{m.id}={m.raft_address}{'' if m.voter else '/observer'}" for m in view.members
        )
        address, url = await self.driver.start(name, others)
        try:
            await self.client.add_member(
                name, raft_address=address, url=url, timeout_s=CHANGE_TIMEOUT_S
            )
            await self._ready(url)
        except BaseException:
            _FAILED.labels("start").inc()
            with contextlib.suppress(AcordoError, TimeoutError):
                async with asyncio.timeout(CLEAN_UP_WITHIN_S):
                    await self.driver.stop(name)
                    await self.client.remove_member(name, timeout_s=CHANGE_TIMEOUT_S)
            raise
        _log.info("observer added", observer=name, url=url)
        _OBSERVERS.inc()
        return name

    async def remove(self, name: str) -> None:
        """Let one drain and end, then take it from the members: the other way round it would refuse
        what it holds.
        """
        await self.driver.stop(name)
        await self.client.remove_member(name, timeout_s=CHANGE_TIMEOUT_S)
        _log.info("observer removed", observer=name)
        _OBSERVERS.dec()

    async def _ready(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + READY_WITHIN_S
        while loop.time() < give_up:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
                async with self.http.get(url + "/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.25)
        raise NotReady(f"{url} was not ready within {READY_WITHIN_S:g} s")

    async def figures(self) -> Figures:
        """Ask Prometheus. A figure that it does not have is None."""
        found = {name: await self._ask(query) for name, query in QUERIES.items()}
        for name, value in found.items():
            _FIGURES.labels(name).set(math.nan if value is None else value)
        return Figures(found["in_flight"], found["p99_s"], found["cpu"])

    async def _ask(self, query: str) -> float | None:
        url = self.settings.autoscaler_prometheus + "/api/v1/query"
        try:
            async with self.http.get(url, params={"query": query}) as response:
                answer = await response.json()
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            _FAILED.labels("prometheus").inc()
            return None
        return value_of(answer)


class NotReady(Exception):
    """An observer was started and did not come to serve, or there is nothing that it could be made
    like.
    """


class NoQuorum(Exception):
    """The node that was asked reaches no quorum."""


def _rested(memory: Memory, decision: Decision, now: float) -> Memory:
    """Let the cool-down begin when a change is done, not when it began."""
    return Memory(memory.high, memory.low, now) if decision.change else memory


def ours(member: str) -> bool:
    """Say whether the autoscaler made this name."""
    return (
        len(member) >= 10 and member[0] == "o" and all(c in "0123456789abcdef" for c in member[1:])
    )


def value_of(answer: Any) -> float | None:
    """Return the one number of an answer of Prometheus; None for none, for several and for NaN."""
    try:
        results = answer["data"]["result"]
        value = float(results[0]["value"][1]) if len(results) == 1 else math.nan
    except (KeyError, TypeError, IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None


def bounds_of(settings: AutoscalerSettings) -> Bounds:
    """Return the settings as `plan` takes them."""
    return Bounds(
        settings.autoscaler_observers_min,
        settings.autoscaler_observers_max,
        Band(settings.autoscaler_in_flight_low, settings.autoscaler_in_flight_high),
        Band(settings.autoscaler_p99_low_s, settings.autoscaler_p99_high_s),
        Band(settings.autoscaler_cpu_low, settings.autoscaler_cpu_high),
        settings.autoscaler_rounds_high,
        settings.autoscaler_rounds_low,
        settings.autoscaler_cool_down_s,
    )


# ------------------------------------------------------------------------------------------ drivers


class DockerDriver:
    """Observers as containers like a node of a compose project: its image, settings, network,
    secrets and limits.
    """

    def __init__(self, project: str, like: Sequence[str] = ("node1", "node2", "node3")) -> None:
        import docker

        self.docker: Any = docker.from_env(timeout=60)
        self.project, self.like = project, tuple(like)

    async def running(self) -> frozenset[str]:
        return await asyncio.to_thread(self._running)

    def _mine(self, **more: Any) -> list[Any]:
        wanted = {"label": [LABEL, f"acordo.project={self.project}"]}
        return list(self.docker.containers.list(filters=wanted, **more))

    def _running(self) -> frozenset[str]:
        return frozenset(c.labels[LABEL] for c in self._mine())

    async def start(self, name: str, members: str) -> tuple[str, str]:
        return await asyncio.to_thread(self._start, name, members)

    def _start(self, name: str, members: str) -> tuple[str, str]:
        import docker.types

        model, network = self._model()
        given = dict(e.partition("=")[::2] for e in model["Config"]["Env"])
        given |= {
            PREFIX + "NODE_ID": name,
            PREFIX + "RAFT_ADDRESS": f"{name}:9001",
            PREFIX + "ADVERTISED_URL": f"http://{name}:8000",
            PREFIX + "MEMBERS": f"{members},{name}={name}:9001/observer",
        }
        host = model["HostConfig"]
        secrets = [m for m in model["Mounts"] if m["Destination"] == "/secrets"]
        api = self.docker.api
        container = api.create_container(
            model["Config"]["Image"],
            environment=given,
            hostname=name,
            name=f"{self.project}_{name}",
            labels={LABEL: name, "acordo.project": self.project},
            host_config=api.create_host_config(
                mounts=[
                    docker.types.Mount("/secrets", m["Name"], type="volume", read_only=True)
                    for m in secrets
                ],
                tmpfs={"/tmp": "", "/data": "uid=10001,gid=10001,mode=0700"},
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"],
                mem_limit=host["Memory"] or None,
                # it comes back without its log: under another name, or not at all
                restart_policy={"Name": "no"},
                log_config=docker.types.LogConfig(
                    type="json-file", config={"max-size": "10m", "max-file": "2"}
                ),
            ),
            networking_config=api.create_networking_config(
                {network: api.create_endpoint_config(aliases=["nodes", "observers", name])}
            ),
        )
        try:
            api.start(container["Id"])
        except (
            BaseException
        ):  # what never ran is in no list of observers: nobody would take it away
            api.remove_container(container["Id"], v=True, force=True)
            raise
        return f"{name}:9001", f"http://{name}:8000"

    def _model(self) -> tuple[Any, str]:
        """Return what the engine says of the first node that is on a network, and that network.
        Raises NotReady.
        """
        seen = []
        for service in self.like:
            labels = [
                f"com.docker.compose.project={self.project}",
                f"com.docker.compose.service={service}",
            ]
            for container in self.docker.containers.list(all=True, filters={"label": labels}):
                seen.append(service)
                for network in container.attrs["NetworkSettings"]["Networks"] or {}:
                    return container.attrs, str(network)
        if seen:
            raise NotReady(f"no network has {', '.join(seen)} of project {self.project}")
        raise NotReady(f"no container of {', '.join(self.like)} in project {self.project}")

    async def stop(self, name: str) -> None:
        await asyncio.to_thread(self._stop, name)

    def _stop(self, name: str) -> None:
        for container in self._mine(all=True):
            if container.labels[LABEL] == name:
                container.stop(timeout=STOP_WITHIN_S)
                container.remove(v=True, force=True)


class LocalDriver:
    """Observers as processes beside a local cluster, in its directory; they end with the
    autoscaler.
    """

    def __init__(self, data: Path, settings: Mapping[str, str]) -> None:
        self.data, self.settings = data.absolute(), dict(settings)
        path = self.data.parent / "cluster.json"
        if not path.exists():
            raise BadRequest(
                "no_cluster",
                f"{self.data.parent} holds no local cluster",
                allowed="autoscaler_dir in one",
            )
        try:
            self.file = msgspec.json.decode(path.read_bytes(), type=ClusterFile)
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise BadRequest("bad_directory", f"{path} cannot be read: {exc}") from exc
        self.processes: dict[str, tuple[asyncio.subprocess.Process, str]] = {}

    async def running(self) -> frozenset[str]:
        return frozenset(n for n, (p, _) in self.processes.items() if p.returncode is None)

    async def start(self, name: str, members: str) -> tuple[str, str]:
        port, raft = free_ports(2)
        folder = self.data / name
        folder.mkdir(parents=True)
        url = f"http://127.0.0.1:{port}"
        own = {
            "NODE_ID": name,
            "CLUSTER_ID": self.file.cluster_id,
            "HTTP_PORT": str(port),
            "ADVERTISED_URL": url,
            "RAFT_ADDRESS": f"127.0.0.1:{raft}",
            "MEMBERS": f"{members},{name}=127.0.0.1:{raft}/observer",
            "DATA_DIR": str(folder),
            "STOP_WITH_STDIN": "true",
        }
        shared = {"STORE": f"sqlite:///{self.data.parent / 'store.sqlite'}"}
        if (self.data.parent / "secret").exists():
            shared["SECRET_FILE"] = str(self.data.parent / "secret")
        environ = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX)}
        environ |= (
            {PREFIX + k: v for k, v in shared.items()}
            | self.settings
            | {PREFIX + k: v for k, v in own.items()}
        )
        with (folder / "node.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "node", env=environ, stdin=asyncio.subprocess.PIPE, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self.processes[name] = (process, url)
        self._tell_prometheus()
        return f"127.0.0.1:{raft}", url

    async def stop(self, name: str) -> None:
        found = self.processes.pop(name, None)
        self._tell_prometheus()
        if found is None:
            return
        process = found[0]
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(STOP_WITHIN_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    def _tell_prometheus(self) -> None:
        """Write who runs, for a Prometheus that finds its targets in files."""
        self.data.mkdir(parents=True, exist_ok=True)
        targets = [url.removeprefix("http://") for _, url in self.processes.values()]
        write_whole(
            self.data / "targets.json",
            msgspec.json.encode([{"targets": targets}] if targets else []),
        )


# ------------------------------------------------------------------------------------------- wiring


def main(argv: list[str]) -> int:
    """Run the autoscaler until it is told to stop."""
    settings = load(AutoscalerSettings, argv, prog="python -m cluster autoscaler")
    logs.configure(settings.log_format, settings.log_level, node="autoscaler")
    asyncio.run(_serve(settings))
    return 0


async def _serve(settings: AutoscalerSettings) -> None:
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    driver: Driver
    if settings.autoscaler_driver == "docker":
        driver = DockerDriver(settings.autoscaler_project)
    else:
        driver = LocalDriver(settings.autoscaler_dir, handed_on(settings))
    urls = [url.strip() for url in settings.autoscaler_urls.split(",") if url.strip()]
    timeout = aiohttp.ClientTimeout(total=ASK_TIMEOUT_S)
    async with (
        Client(urls, timeout_s=CHANGE_TIMEOUT_S) as client,
        aiohttp.ClientSession(timeout=timeout) as http,
    ):
        _log.info("watching", urls=urls, driver=settings.autoscaler_driver)
        autoscaler = Autoscaler(settings, client, http, driver)
        async with shown(autoscaler, settings.autoscaler_listen):
            serving = asyncio.ensure_future(autoscaler.serve())
            stopping = asyncio.ensure_future(stop.wait())
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
            serving.cancel()
    _log.info("stopped; observers of a compose project go on")


@contextlib.asynccontextmanager
async def shown(autoscaler: Autoscaler, listen: str) -> AsyncIterator[None]:
    """Answer /metrics, and /decisions with the last ones as JSON, oldest first. Raises
    BadRequest("port_in_use").
    """

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def decisions(_: web.Request) -> web.Response:
        said = [
            {"change": d.change, "reason": d.reason, "because": d.because}
            for d in autoscaler.decisions
        ]
        return web.Response(body=msgspec.json.encode(said), content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/decisions", decisions)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    try:
        try:
            await web.TCPSite(runner, host.strip("[]"), int(port)).start()
        except OSError as exc:
            raise BadRequest("port_in_use", f"cannot listen on {listen}: {exc}") from exc
        yield
    finally:
        await runner.cleanup()


def handed_on(settings: AutoscalerSettings) -> dict[str, str]:
    """Return what local observers are given: every setting of a node that was not left at its
    default.
    """
    return {
        PREFIX + name.upper(): str(getattr(settings, name))
        for name in settings.model_fields_set
        if not name.startswith("autoscaler_") and getattr(settings, name) is not None
    }
