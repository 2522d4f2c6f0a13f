"""Run one private server process and stop it. It never signals a process that it did not start."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from cluster.ports import lasting_port

READY_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0


def find(program: str, *more: str) -> str:
    """Return the path of a program. Raises FileNotFoundError naming it."""
    for folder in (*os.environ.get("PATH", "").split(":"), "/usr/sbin", *more):
        if folder and os.access(path := os.path.join(folder, program), os.X_OK):
            return path
    raise FileNotFoundError(program)


def wait_until(ready: Callable[[], bool], what: str, *, timeout_s: float = READY_TIMEOUT_S) -> None:
    """Poll until `ready()` is true. Raises TimeoutError with `what` as its message."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.05)


class Service:
    """A server process with a folder of its own.

    Subclasses define how it is started and when it is ready.
    """

    name = "service"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"acordo-{self.name}-"))
        self.port = lasting_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """Return the program and its arguments."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Create what the server needs before its first start."""

    def ready(self) -> bool:
        """Return whether it accepts connections."""
        with socket.socket() as probe:
            probe.settimeout(0.5)
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def start(self) -> Self:
        """Start it, always with the same port and folder, and return once it is ready.

        Raises RuntimeError with the end of its output if it ends first.
        """
        assert self.process is None
        if not (self.folder / ".prepared").exists():
            self.prepare()
            (self.folder / ".prepared").touch()
        with (self.folder / "output.log").open("ab") as output:
            self.process = subprocess.Popen(
                self.command(),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

        def up() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                tail = (self.folder / "output.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{tail}")
            return self.ready()

        wait_until(up, f"{self.name} on port {self.port}")
        return self

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every process of the server's own session."""
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        """Kill it and its children at once (SIGKILL)."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def pause(self) -> None:
        """Suspend its processes (SIGSTOP): connections stay open, and nothing answers."""
        self.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume its processes (SIGCONT)."""
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """Terminate it; kill it if it has not ended within STOP_TIMEOUT_S."""
        if self.process is None:
            return
        self.resume()
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_TIMEOUT_S)
        self.kill()

    def wipe(self) -> None:
        """Delete all data of a server that is not running; the next start begins empty."""
        assert self.process is None
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
