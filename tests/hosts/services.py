"""The first process of a host: starts services as systemd would, from their unit files.

It stands in for systemd, which does not run in a namespace. `systemctl` and `journalctl` of such a
host are this file under another name, and talk to it through a socket. It obeys what a unit says,
ignores what only shuts a service in further (IGNORED), and refuses what it does not know, so that a
unit that it accepts means the same to systemd. It must import nothing but the standard library: the
host runs it without the project.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import resource
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

UNITS: Final = Path("/etc/systemd/system")
JOURNAL: Final = Path("/var/log/journal")
SOCKET: Final = "/run/services.sock"
IGNORED: Final = {
    *("Description", "Documentation", "After", "Wants", "WantedBy", "Type"),
    *("NoNewPrivileges", "ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateDevices"),
    *("ProtectKernelTunables", "ProtectKernelModules", "ProtectControlGroups", "RestrictSUIDSGID"),
    *("CapabilityBoundingSet", "LockPersonality", "StartLimitIntervalSec"),
}
OBEYED: Final = {
    *("User", "WorkingDirectory", "Environment", "EnvironmentFile", "ExecStart", "Restart"),
    *("RestartSec", "RestartPreventExitStatus", "TimeoutStopSec", "LimitNOFILE", "StateDirectory"),
    *("StateDirectoryMode", "UMask"),
}
SECTIONS: Final = {"[Unit]", "[Service]", "[Install]"}


def parse(text: str) -> dict[str, list[str]]:
    """Return the directives of a unit file, each with its values in order. Raises ValueError for
    one that is neither obeyed nor known to be harmless.
    """
    found: dict[str, list[str]] = {}
    for line in map(str.strip, text.replace("\\\n", " ").splitlines()):
        if not line or line[0] in "#;" or line in SECTIONS:
            continue
        name, equals, value = line.partition("=")
        if not equals or name not in OBEYED | IGNORED:
            raise ValueError(f"unit: {line!r} is not known here")
        found.setdefault(name, []).append(value.strip())
    if len(found.get("ExecStart", ())) != 1 or not found["ExecStart"][0].startswith("/"):
        raise ValueError("unit: one ExecStart with an absolute path is needed")
    return found


def environment_file(text: str) -> dict[str, str]:
    """Return the variables of an EnvironmentFile."""
    lines = (line.strip() for line in text.splitlines())
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#;")
    return {name.strip(): "".join(shlex.split(value)) for name, _, value in pairs}


class Unit:
    """One service, as its unit file says: its process, and when it is started again."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = False
        self.status = "inactive"
        self.load()

    def load(self) -> None:
        """Read the unit file."""
        self.said = parse((UNITS / f"{self.name}.service").read_text())

    def one(self, name: str, default: str = "") -> str:
        """Return the last value of a directive."""
        return self.said.get(name, [default])[-1]

    def environment(self) -> dict[str, str]:
        """Return what the process gets, and nothing of this one's own environment."""
        user = self.one("User", "root")
        given = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "USER": user}
        given["HOME"] = pwd.getpwnam(user).pw_dir
        for line in self.said.get("Environment", ()):
            given |= dict(word.split("=", 1) for word in shlex.split(line))
        for path in self.said.get("EnvironmentFile", ()):
            if Path(path.lstrip("-")).exists() or not path.startswith("-"):
                given |= environment_file(Path(path.lstrip("-")).read_text())
        return given

    def start(self) -> None:
        """Start the process, and a thread that looks after it."""
        if self.process is not None and self.process.poll() is None:
            return
        self.wanted = True
        user = self.one("User", "root")
        who = pwd.getpwnam(user)
        for name in self.one("StateDirectory").split():
            place = Path("/var/lib", name)
            place.mkdir(mode=int(self.one("StateDirectoryMode", "0755"), 8), exist_ok=True)
            os.chown(place, who.pw_uid, who.pw_gid)
        if limit := self.one("LimitNOFILE"):  # inherited by the process
            resource.setrlimit(resource.RLIMIT_NOFILE, (int(limit), int(limit)))
        JOURNAL.mkdir(parents=True, exist_ok=True)
        with (JOURNAL / f"{self.name}.log").open("ab") as journal:
            self.process = subprocess.Popen(
                shlex.split(self.one("ExecStart")),
                cwd=self.one("WorkingDirectory", "/"),
                env=self.environment(),
                stdin=subprocess.DEVNULL, stdout=journal, stderr=journal,
                user=who.pw_uid, group=who.pw_gid,
                extra_groups=[g.gr_gid for g in grp.getgrall() if user in g.gr_mem],
                umask=int(self.one("UMask", "0022"), 8),
                start_new_session=True,
            )  # fmt: skip
        self.status = "active"
        threading.Thread(target=self.look_after, args=(self.process,), daemon=True).start()

    def look_after(self, process: subprocess.Popen[bytes]) -> None:
        """Start the process again when it ends, as Restart= says."""
        code = process.wait()
        self.status = "inactive" if code == 0 or not self.wanted else f"failed ({code})"
        never = {int(each) for each in self.one("RestartPreventExitStatus").split()}
        again = {"always": True, "on-failure": code != 0}.get(self.one("Restart", "no"), False)
        if self.wanted and again and code not in never:
            time.sleep(float(self.one("RestartSec", "0.1").removesuffix("s")))
            if self.wanted and self.process is process:
                self.start()

    def stop(self) -> None:
        """Ask the process to end; kill it when it takes too long."""
        self.wanted = False
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(float(self.one("TimeoutStopSec", "90").removesuffix("s")))
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Manager:
    """All services of the host."""

    def __init__(self) -> None:
        self.units: dict[str, Unit] = {}

    def unit(self, name: str) -> Unit:
        """Return a service by its name."""
        name = name.removesuffix(".service")
        if name not in self.units:
            self.units[name] = Unit(name)
        return self.units[name]

    def obey(self, words: list[str]) -> tuple[int, str]:
        """Do what `systemctl` was called with; return its exit code and what it prints."""
        flags, (verb, *names) = (
            {word for word in words if word.startswith("-")},
            [word for word in words if not word.startswith("-")],
        )
        if verb == "daemon-reload":
            for known in self.units.values():
                known.load()
            return 0, ""
        found = [self.unit(name) for name in names]
        if not found:
            return 1, "a service is needed"
        for unit in found:
            if verb in ("stop", "restart") or (verb == "disable" and "--now" in flags):
                unit.stop()
            if verb in ("start", "restart") or (verb == "enable" and "--now" in flags):
                unit.start()
        if verb in ("is-active", "status"):
            active = all(unit.status == "active" for unit in found)
            return (0 if active else 3), "\n".join(unit.status for unit in found)
        known_verbs = {"start", "stop", "restart", "enable", "disable"}
        return (0, "") if verb in known_verbs else (1, f"{verb} is not known here")


def serve() -> None:
    """Be the host's first process: take orders, one at a time, until the host is gone."""
    manager = Manager()
    with contextlib.suppress(FileNotFoundError):
        os.unlink(SOCKET)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(SOCKET)
        listening.listen()
        while True:
            connection, _ = listening.accept()
            with connection, connection.makefile("rw") as stream:
                try:
                    code, said = manager.obey(shlex.split(stream.readline()))
                except (OSError, ValueError, KeyError) as exc:
                    code, said = 1, f"{type(exc).__name__}: {exc}"
                stream.write(f"{code}\n{said}")


def ask(words: list[str]) -> int:
    """Be `systemctl`."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        with connection.makefile("rw") as stream:
            stream.write(shlex.join(words) + "\n")
            stream.flush()
            code, _, said = stream.read().partition("\n")
    if said:
        print(said)
    return int(code)


def journal(words: list[str]) -> int:
    """Be `journalctl -u UNIT [-n LINES]`."""
    unit = words[words.index("-u") + 1].removesuffix(".service")
    lines = int(words[words.index("-n") + 1]) if "-n" in words else 1000
    print("\n".join((JOURNAL / f"{unit}.log").read_text().splitlines()[-lines:]))
    return 0


def main(name: str, words: list[str]) -> int:
    """Be what the file was called as."""
    if name == "systemctl":
        return ask(words)
    if name == "journalctl":
        return journal(words)
    serve()
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[0]).name, sys.argv[1:]))
