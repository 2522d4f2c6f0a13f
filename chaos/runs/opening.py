"""Start the target that a plan names, or connect to it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from random import Random
from typing import Final

from acordo import AcordoError
from chaos.nemeses.fault_gauge import WINDOWS
from chaos.runs.plan import Plan
from chaos.runs.progress import say
from chaos.targets.base import Target
from chaos.targets.docker_engine import NoStack
from chaos.targets.docker_stack import DockerTarget
from chaos.targets.local import LocalTarget
from chaos.targets.services import Services
from chaos.targets.urls import UrlTarget
from cluster.ports import free_base_port
from cluster.settings.runner import RunnerSettings

BASE_PORT: Final = 23000
SPARES_MAX: Final = 12
"""Most members that a run can replace."""


class TargetUnfit(Exception):
    """The target cannot be reached, is not an Acordo, or is not healthy at the start."""


@contextlib.asynccontextmanager
async def opened_target(plan: Plan) -> AsyncIterator[Target]:
    """Start the target or connect to it. Raises TargetUnfit."""
    match plan.target:
        case "local":
            opened = _local_cluster(plan)
        case "docker":
            opened = _stack_in_containers(plan)
        case _:
            opened = _cluster_of_somebody_else(plan)
    async with opened as target:
        yield target


@contextlib.asynccontextmanager
async def _stack_in_containers(plan: Plan) -> AsyncIterator[Target]:
    try:
        async with DockerTarget() as containers:
            with WINDOWS.shown(await containers.gateway()) as trouble:
                if trouble is not None:
                    say(plan, f"the dashboard will not show the windows of faults: {trouble}")
                yield containers
    except NoStack as exc:
        raise TargetUnfit(str(exc)) from exc


@contextlib.asynccontextmanager
async def _cluster_of_somebody_else(plan: Plan) -> AsyncIterator[Target]:
    urls = tuple(u.strip() for u in plan.target.split(",") if u.strip())
    try:
        async with UrlTarget(urls) as remote:
            yield remote
    except AcordoError as exc:
        raise TargetUnfit(f"{plan.target}: {exc}") from exc


@contextlib.asynccontextmanager
async def _local_cluster(plan: Plan) -> AsyncIterator[Target]:
    async with AsyncExitStack() as stack:
        services = Services(plan.servers, Random(f"{plan.seed}/servers"))
        try:
            urls = await stack.enter_async_context(services)
        except (OSError, RuntimeError, TimeoutError) as exc:
            raise TargetUnfit(f"a private server did not start: {exc}") from exc
        needed = {need for step in plan.schedule for need in plan.nemeses[step.nemesis].needs}
        wipes = sum("replacements" in plan.nemeses[s.nemesis].needs for s in plan.schedule)
        spare = min(wipes * plan.nodes, SPARES_MAX)
        if plan.store:
            urls["store"] = plan.store
        settings = RunnerSettings(
            nodes=plan.nodes,
            base_port=free_base_port(plan.nodes + spare, BASE_PORT + os.getpid() % 500 * 10),
            data=plan.folder / "data",
            drain_timeout_s=3,
            etcd="etcd" in plan.workloads,
            **urls,  # type: ignore[arg-type]  # store, cache, broadcast
        )
        target = LocalTarget(
            settings,
            Random(f"{plan.seed}/links"),
            command=plan.node_command,
            services=services,
            clocks=bool(needed & {"clocks", "disks"}),
            member_disks="member-disks" in needed,
            spare=spare,
        )
        await stack.enter_async_context(target)
        yield target


def entrances(target: Target) -> tuple[str, ...]:
    """Return the URLs for clients: one for each node, and that of the balancer if there is one.

    Without the balancer's URL a fault of nginx would affect no client.
    """
    balancer = target.balancer_url if isinstance(target, DockerTarget) else ""
    return (*target.urls, balancer) if balancer else target.urls
