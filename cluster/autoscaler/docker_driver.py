"""Start observers as containers that are configured like the nodes of a compose project.

It never stops or removes a container that does not carry its own label.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from cluster.autoscaler.driver import STOP_WITHIN_S, NotReady
from cluster.settings.values import PREFIX, REPLICATED

LABEL: Final = "acordo.observer"


class DockerDriver:
    """A driver that runs observers as containers.

    Each copies a node of the compose project: its image, settings, network, secrets and limits.
    """

    def __init__(self, project: str, like: Sequence[str] = ("node1", "node2", "node3")) -> None:
        import docker

        self.docker: Any = docker.from_env(timeout=60)
        self.project, self.like = project, tuple(like)

    async def running(self) -> frozenset[str]:
        """Return the names of the observers whose containers run."""
        return await asyncio.to_thread(self._running)

    def _mine(self, **more: Any) -> list[Any]:
        wanted = {"label": [LABEL, f"acordo.project={self.project}"]}
        return list(self.docker.containers.list(filters=wanted, **more))

    def _running(self) -> frozenset[str]:
        return frozenset(c.labels[LABEL] for c in self._mine())

    async def start(self, name: str, members: str) -> tuple[str, str]:
        """Start a container configured like a node's; return its Raft address and URL.

        Raises NotReady if the project has no container to copy.
        """
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
        mounts = [
            docker.types.Mount("/secrets", m["Name"], type="volume", read_only=True)
            for m in model["Mounts"]
            if m["Destination"] == "/secrets"
        ]
        tmpfs = {"/tmp": "", "/data": "uid=10001,gid=10001,mode=0700"}
        if given.get(PREFIX + "STORE") == REPLICATED:
            # It keeps a copy of everything, which memory may not hold: a volume without a name,
            # which goes with the container.
            del tmpfs["/data"]
            mounts.append(docker.types.Mount("/data", None, type="volume"))
        api = self.docker.api
        container = api.create_container(
            model["Config"]["Image"],
            environment=given,
            hostname=name,
            name=f"{self.project}_{name}",
            labels={LABEL: name, "acordo.project": self.project},
            host_config=api.create_host_config(
                mounts=mounts,
                tmpfs=tmpfs,
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges:true"],
                mem_limit=host["Memory"] or None,
                # An observer's directory goes with its container. If it were restarted under the
                # same name without that log, it could contradict what it said before. So it comes
                # back under another name, or not at all.
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
        except BaseException:  # `running` does not list it, so nothing would ever remove it
            api.remove_container(container["Id"], v=True, force=True)
            raise
        return f"{name}:9001", f"http://{name}:8000"

    def _model(self) -> tuple[Any, str]:
        """Return the attributes of the first node's container that is on a network, and that
        network.

        Raises NotReady if there is none.
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
        """Stop the container, giving it STOP_WITHIN_S to drain, and remove it with its volumes."""
        await asyncio.to_thread(self._stop, name)

    def _stop(self, name: str) -> None:
        for container in self._mine(all=True):
            if container.labels[LABEL] == name:
                container.stop(timeout=STOP_WITHIN_S)
                container.remove(v=True, force=True)
