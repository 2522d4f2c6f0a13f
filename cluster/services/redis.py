"""Start private Redis servers, alone or as a master with replicas under Sentinels."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from cluster.services.process import Service, find, wait_until


class RedisServer(Service):
    """A redis-server of the distribution, without persistence: it restarts empty."""

    name = "redis"

    def __init__(self, *, replica_of: RedisServer | None = None) -> None:
        super().__init__()
        self._replica_of = replica_of

    @property
    def url(self) -> str:
        """Return its URL."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> Sequence[str]:
        """Return the command that starts it: without persistence, with bounded memory."""
        replica = (
            ["--replicaof", "127.0.0.1", str(self._replica_of.port)] if self._replica_of else []
        )
        return [
            *(find("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--save", "", "--appendonly", "no", "--dir", str(self.folder)),
            *("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"),
            *("--repl-diskless-sync-delay", "0"),
            *replica,
        ]

    def cli(self, *words: str) -> str:
        """Run one command with redis-cli; return its output, '' if the server does not answer."""
        done = subprocess.run(
            [find("redis-cli"), "-h", "127.0.0.1", "-p", str(self.port), *words],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
        return done.stdout.strip()

    def ready(self) -> bool:
        """Return whether it answers a PING."""
        return super().ready() and self.cli("PING") == "PONG"


class SentinelServer(RedisServer):
    """A redis-sentinel that monitors `master` under the name `acordo`."""

    name = "sentinel"

    def __init__(self, master: RedisServer, quorum: int) -> None:
        super().__init__()
        self._master, self._quorum = master, quorum

    def prepare(self) -> None:
        """Write its configuration file; Sentinel later stores its own state in the same file."""
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self.folder}\n"
            f"sentinel monitor acordo 127.0.0.1 {self._master.port} {self._quorum}\n"
            "sentinel down-after-milliseconds acordo 1000\nsentinel failover-timeout acordo 4000\n"
            "sentinel parallel-syncs acordo 1\n"
        )

    def command(self) -> Sequence[str]:
        """Return the command that starts it."""
        return [find("redis-server"), str(self.folder / "sentinel.conf"), "--sentinel"]

    def master_port(self) -> int:
        """Return the port of the server that it considers the master; 0 if it knows none."""
        lines = self.cli("SENTINEL", "get-master-addr-by-name", "acordo").splitlines()
        return int(lines[1]) if len(lines) == 2 else 0


class SentinelSet:
    """A master, two replicas and three Sentinels. Entering starts them and waits until all know
    each other.
    """

    def __init__(self) -> None:
        self.master = RedisServer()
        self.replicas = [RedisServer(replica_of=self.master) for _ in range(2)]
        self.sentinels = [SentinelServer(self.master, 2) for _ in range(3)]

    @property
    def url(self) -> str:
        """Return one URL with the Sentinels' addresses and the master's name."""
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        return f"redis+sentinel://{hosts}/acordo"

    @property
    def servers(self) -> list[RedisServer]:
        """Return all six processes, the master first."""
        return [self.master, *self.replicas, *self.sentinels]

    def __enter__(self) -> SentinelSet:
        for each in self.servers:
            each.start()
        wait_until(self._complete, "sentinels to know replicas and each other")
        return self

    def _complete(self) -> bool:
        def count(sentinel: SentinelServer, what: str) -> int:
            return sentinel.cli("SENTINEL", what, "acordo").count("runid")

        return all(
            count(s, "sentinels") == 2 and count(s, "replicas") == 2 for s in self.sentinels
        ) and all(
            "master_link_status:up" in replica.cli("INFO", "replication")
            for replica in self.replicas
        )

    def current(self) -> RedisServer:
        """Return the server that a majority of the Sentinels considers the master."""
        ports = sorted(each.master_port() for each in self.sentinels if each.process is not None)
        port = ports[len(ports) // 2]
        return next(each for each in (self.master, *self.replicas) if each.port == port)

    def __exit__(self, *exc: object) -> None:
        for each in reversed(self.servers):
            each.__exit__(*exc)
