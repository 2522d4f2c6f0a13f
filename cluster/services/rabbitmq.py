"""Start private RabbitMQ brokers, alone or as a cluster, from the distribution's package."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cluster.ports import lasting_port
from cluster.services.process import Service, find, wait_until

HOME = "/usr/lib/rabbitmq/bin"
COOKIE = "ACORDOTESTS"


class RabbitServer(Service):
    """A broker with its own Erlang port mapper, so that it never meets other Erlang nodes of the
    machine.
    """

    name = "rabbitmq"

    def __init__(self, *, joins: RabbitServer | None = None) -> None:
        super().__init__()
        self._joins = joins
        self._mapper_port: int = joins._mapper_port if joins else lasting_port()
        self._distribution_port = lasting_port()
        self.node = f"acordo{self.port}@localhost"

    @property
    def url(self) -> str:
        """Return its URL."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/"

    def environment(self) -> dict[str, str]:
        """Return its whole environment, without any setting of the machine's own brokers."""
        at = str(self.folder)
        return {
            "PATH": f"{HOME}:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": at,
            "LANG": "C.UTF-8",
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_MNESIA_BASE": f"{at}/mnesia",
            "RABBITMQ_LOG_BASE": f"{at}/log",
            "RABBITMQ_CONFIG_FILE": f"{at}/rabbitmq",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{at}/plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{at}/none",
            "RABBITMQ_PID_FILE": f"{at}/pid",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none -kernel "
            "inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CTL_ERL_ARGS": "+S 1:1",
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def prepare(self) -> None:
        """Write its cookie, plugins and configuration."""
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text(COOKIE)
        cookie.chmod(0o400)
        (self.folder / "plugins").write_text("[].\n")
        peers = "".join(
            f"cluster_formation.classic_config.nodes.{n} = {node}\n"
            for n, node in enumerate(
                sorted({self._joins.node, self.node}) if self._joins else [], 1
            )
        )
        (self.folder / "rabbitmq.conf").write_text(
            "loopback_users = none\n"
            "vm_memory_high_watermark.absolute = 512MB\ndisk_free_limit.absolute = 1MB\n"
            "log.file.level = warning\nnet_ticktime = 5\n" + peers
        )

    def command(self) -> Sequence[str]:
        """Return the command that starts it, in that environment only."""
        settings = [f"{name}={value}" for name, value in self.environment().items()]
        return ["/usr/bin/env", "-i", *settings, f"{HOME}/rabbitmq-server"]

    def control(self, *words: str) -> str:
        """Run rabbitmqctl against this broker and return its output; '' if it fails."""
        done = subprocess.run(
            [f"{HOME}/rabbitmqctl", "-q", *words],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return done.stdout if done.returncode == 0 else ""

    def start(self) -> RabbitServer:
        """Start it and, if it was made with `joins`, let it join that broker's cluster."""
        find("rabbitmqctl", HOME)
        super().start()
        if self._joins is not None and self._joins.node not in self.control("cluster_status"):
            for step in ("stop_app", "reset", f"join_cluster {self._joins.node}", "start_app"):
                self.control(*step.split())
            wait_until(super().ready, f"{self.node} to join")
        return self

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if self._joins is None:
            self._end_mapper()

    def _end_mapper(self) -> None:
        """Kill the port mapper that listens on our own port.

        It has left the session of the broker that started it, so it would run for ever.
        """
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                if b"epmd" in (folder / "cmdline").read_bytes():
                    environment = (folder / "environ").read_bytes()
                    if f"ERL_EPMD_PORT={self._mapper_port}".encode() in environment:
                        os.kill(int(folder.name), signal.SIGKILL)


class RabbitCluster:
    """Three brokers in one cluster."""

    def __init__(self) -> None:
        first = RabbitServer()
        self.brokers = [first, RabbitServer(joins=first), RabbitServer(joins=first)]

    @property
    def url(self) -> str:
        """Return one URL with the addresses of all three."""
        return (
            "amqp://guest:guest@"
            + ",".join(f"127.0.0.1:{each.port}" for each in self.brokers)
            + "/"
        )

    def leader(self, queue: str) -> RabbitServer:
        """Return the broker that leads a quorum queue. Raises LookupError."""
        for alive in (each for each in self.brokers if each.process is not None):
            for line in alive.control(
                "list_queues", "--no-table-headers", "name", "leader"
            ).splitlines():
                name, _, node = line.partition("\t")
                if name == queue:
                    return next(each for each in self.brokers if each.node == node.strip())
        raise LookupError(queue)

    def __enter__(self) -> RabbitCluster:
        for each in self.brokers:
            each.start()
        return self

    def __exit__(self, *exc: object) -> None:
        for each in reversed(self.brokers):
            each.__exit__(*exc)
