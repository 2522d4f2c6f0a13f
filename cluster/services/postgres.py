"""Start a private PostgreSQL server, with fsync on, and a synchronous standby of it."""

from __future__ import annotations

import contextlib
import glob
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from cluster.services.process import Service, find, wait_until


def _lives(pid: str) -> bool:
    """Return whether a process still runs. A zombie, which nobody has waited for yet, does not."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


class PostgresServer(Service):
    """A PostgreSQL server (14 or newer) of the distribution.

    As root it runs under the user `postgres`, because PostgreSQL refuses to run as root.
    """

    name = "postgres"
    database = "acordo"

    def __init__(self) -> None:
        super().__init__()
        self._bin = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
        self._as = "postgres" if os.geteuid() == 0 else None
        if self._as:
            self._own(str(self.folder))

    @property
    def url(self) -> str:
        """Return the URL of its database."""
        return f"postgresql://acordo:secret@127.0.0.1:{self.port}/{self.database}"

    def _own(self, path: str) -> None:
        if self._as:
            entry = pwd.getpwnam(self._as)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def _run_as(self, *command: str) -> list[str]:
        path = find(command[0], *reversed(self._bin))
        user = (
            ["setpriv", f"--reuid={self._as}", f"--regid={self._as}", "--init-groups"]
            if self._as
            else []
        )
        return [*user, path, *command[1:]]

    def prepare(self) -> None:
        """Run initdb, with a password for the user `acordo`."""
        self._own(str(self.folder))
        password = self.folder / "password"
        password.write_text("secret")
        self._own(str(password))
        subprocess.run(
            self._run_as(
                *("initdb", "-D", str(self.folder / "db"), "-U", "acordo"),
                *(f"--pwfile={password}", "-E", "UTF8", "--no-locale", "-A", "scram-sha-256"),
            ),
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )

    def command(self) -> Sequence[str]:
        """Return the command that starts it, listening on loopback only."""
        return self._run_as(
            *("postgres", "-D", str(self.folder / "db"), "-p", str(self.port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
            *("-c", "max_connections=60", "-c", "shared_buffers=64MB"),
            *("-c", "log_min_messages=fatal"),
        )

    def ready(self) -> bool:
        """Return whether it answers queries; create the database once it does."""
        if not super().ready():
            return False
        environment = {**os.environ, "PGPASSWORD": "secret"}
        query = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "acordo"]
        psql = find("psql", *reversed(self._bin))
        done = subprocess.run(
            [psql, *query, "-d", "postgres", "-Atc", "SELECT datname FROM pg_database"],
            env=environment,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            return False
        if self.database not in done.stdout.decode().split():
            subprocess.run(
                [find("createdb", *reversed(self._bin)), *query, self.database],
                env=environment,
                check=True,
            )
        return True

    def psql(self, statement: str) -> str:
        """Run one statement with psql and return its output."""
        query = [
            *("-h", "127.0.0.1", "-p", str(self.port), "-U", "acordo"),
            *("-d", self.database, "-Atc", statement),
        ]
        return subprocess.run(
            [find("psql", *reversed(self._bin)), *query],
            env={**os.environ, "PGPASSWORD": "secret"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def fresh_database(self, name: str) -> str:
        """Create an empty database and return its URL."""
        environment = {**os.environ, "PGPASSWORD": "secret"}
        query = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "acordo"]
        subprocess.run(
            [find("createdb", *reversed(self._bin)), *query, name], env=environment, check=True
        )
        return f"postgresql://acordo:secret@127.0.0.1:{self.port}/{name}"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the postmaster and, except for SIGTERM, to its children.

        The children need it separately: each has a session of its own.
        """
        assert self.process is not None
        for child in self._children() if number != signal.SIGTERM else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(child), number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def kill(self) -> None:
        """Kill it at once and wait until its back ends have ended too, because they hold its shared
        memory.
        """
        children: list[str] = []
        if self.process is not None:
            self.signal(signal.SIGCONT)
            children = self._children()
            self.signal(signal.SIGKILL)
        super().kill()
        wait_until(lambda: not any(map(_lives, children)), "the end of back ends")

    def _children(self) -> list[str]:
        assert self.process is not None
        with contextlib.suppress(OSError):
            return (
                Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
                .read_text()
                .split()
            )
        return []

    def wipe(self) -> None:
        """Delete its databases; the next start creates an empty one."""
        shutil.rmtree(self.folder / "db", ignore_errors=True)
        (self.folder / ".prepared").unlink(missing_ok=True)


class PostgresStandby(PostgresServer):
    """A synchronous standby of a running server.

    What the primary acknowledges after `start` is on the standby's disk too.
    """

    name = "standby"

    def __init__(self, primary: PostgresServer) -> None:
        super().__init__()
        self._primary = primary

    def prepare(self) -> None:
        """Copy the primary's current data."""
        self._own(str(self.folder))
        subprocess.run(
            self._run_as(
                *("pg_basebackup", "-D", str(self.folder / "db")),
                *("-h", "127.0.0.1", "-p", str(self._primary.port), "-U", "acordo"),
                *("-R", "-X", "stream", "--checkpoint=fast", "--no-password"),
            ),
            check=True,
            cwd=self.folder,
            env={**os.environ, "PGPASSWORD": "secret"},
            stdout=subprocess.DEVNULL,
        )

    def start(self) -> Self:
        """Start it, and return once the primary waits for it at each COMMIT."""
        super().start()
        self._primary.psql("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self._primary.psql("SELECT pg_reload_conf()")
        wait_until(
            lambda: self._primary.psql("SELECT sync_state FROM pg_stat_replication") == "sync",
            "a standby to keep up",
        )
        return self

    def promote(self) -> None:
        """Make it accept writes. The old primary must be dead: nothing here stops it from accepting
        writes too.
        """
        subprocess.run(
            self._run_as("pg_ctl", "promote", "-D", str(self.folder / "db"), "-w"),
            check=True,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
        )
