"""Make hosts: each has its own addresses, files and processes, and all hang on one switch.

A host is a set of namespaces that one process holds: when that process is killed, every process of
the host dies at once, as in a power cut, and its network is gone. It must leave nothing behind on
this machine: no named namespace, no interface, no mount.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

SERVICES: Final = Path(__file__).with_name("services.py")
WITHIN_S: Final = 30.0
OF_THIS_MACHINE: Final = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
OWN: Final = ("etc", "opt", "var/lib", "var/log", "var/tmp", "root", "tmp", "run", "proc", "dev")
COPIED: Final = (
    "ssl",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "nsswitch.conf",
    "alternatives",
)

MOUNT: Final = r"""
set -eu
mount --make-rprivate /
cd "$ROOT"
for name in $SHARED; do mount --rbind "/$name" "$name"; mount -o remount,bind,ro "$name"; done
mount --rbind /dev dev
mount -t proc proc proc
mount --bind "$ROOT/services" usr/local/sbin
mount --bind "$ROOT/local" usr/local/bin
hostname "$NAME"
ip link set lo up
exec chroot . "$PYTHON" /services/init
"""


class NoHosts(Exception):
    """Why there can be no hosts here."""


def refuse_without_rights() -> None:
    """Raise NoHosts where namespaces cannot be made."""
    if os.geteuid() != 0:
        raise NoHosts("making network namespaces takes root")
    for program in ("ip", "unshare", "nsenter", "git", "curl"):
        if shutil.which(program) is None:
            raise NoHosts(f"there is no {program} here")
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork",
         "ip", "link", "add", "name", "sw", "type", "bridge"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if tried.returncode:
        raise NoHosts(f"no network namespace can be made here: {tried.stderr.strip()}")


class _Held:
    """Namespaces that a process holds."""

    def __init__(self, command: list[str], environ: dict[str, str], log: Path, *kinds: str) -> None:
        flags = [f"--{kind}" for kind in kinds]
        with log.open("ab") as said:
            self.outer = subprocess.Popen(
                ["unshare", *flags, "--pid", "--fork", "--kill-child=SIGKILL", *command],
                env={"PATH": os.environ["PATH"], **environ},
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            )  # fmt: skip
        children = Path(f"/proc/{self.outer.pid}/task/{self.outer.pid}/children")
        _until(lambda: children.read_text().split(), f"the first process ({log})", self.outer)
        self.pid = int(children.read_text().split()[0])

    def kill(self) -> None:
        """Kill everything that runs in them, at once."""
        self.outer.kill()
        self.outer.wait()


class Host:
    """One machine of the network."""

    def __init__(self, network: Network, name: str, address: str) -> None:
        self.network, self.name, self.address = network, name, address
        self.root = network.folder / name
        self._make_root()
        self.alive = False
        self.boot()

    def _make_root(self) -> None:
        shared = [name for name in OF_THIS_MACHINE if Path("/", name).is_dir()]
        python = Path(sys.base_prefix)
        self.shared = [name for name in shared if not Path("/", name).is_symlink()]
        self.shared += [str(path).lstrip("/") for path in self.network.shares]
        if not python.is_relative_to("/usr"):
            self.shared.append(str(python).lstrip("/"))
        for name in (*OWN, *self.shared, "services", "local"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        for name in shared:
            if Path("/", name).is_symlink():
                (self.root / name).symlink_to(os.readlink(f"/{name}"))
        if python == Path("/usr/local"):  # the host's own commands hide it
            shutil.copytree(
                "/usr/local/bin", self.root / "local", symlinks=True, dirs_exist_ok=True
            )
        (self.root / "tmp").chmod(0o1777)
        self._make_etc(self.root / "etc")
        self.python = str(python / "bin" / "python3")
        for name in ("init", "systemctl", "journalctl"):
            place = self.root / "services" / name
            place.write_text(f"#!{self.python}\n{SERVICES.read_text()}")
            place.chmod(0o755)

    def _make_etc(self, etc: Path) -> None:
        for name in COPIED:
            source = Path("/etc", name)
            if source.is_dir():
                shutil.copytree(source, etc / name, symlinks=True, dirs_exist_ok=True)
            elif source.exists():
                shutil.copy(source, etc / name)
        (etc / "passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
        (etc / "group").write_text("root:x:0:\n")
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "hosts").write_text(f"127.0.0.1 localhost\n{self.address} {self.name}\n")
        (etc / "systemd" / "system").mkdir(parents=True)

    def boot(self) -> None:
        """Start its first process and give it its place in the network."""
        script = ["sh", "-c", MOUNT]
        environ = {
            "ROOT": str(self.root),
            "NAME": self.name,
            "SHARED": " ".join(self.shared),
            "PYTHON": self.python,
            "PATH": f"{Path(self.python).parent}:{os.environ['PATH']}",
        }
        log = self.network.folder / f"{self.name}.boot"
        self.held = _Held(script, environ, log, "net", "mount", "uts", "ipc")
        self.network.attach(self)
        _until(self.socket.exists, f"the services of {self.name} ({log})", self.held.outer)
        self.alive = True

    @property
    def socket(self) -> Path:
        """Return where its first process takes orders."""
        return self.root / "run" / "services.sock"

    def cut_power(self) -> None:
        """Kill every process that it has, at once."""
        self.held.kill()
        self.socket.unlink(missing_ok=True)
        self.alive = False

    def take_away(self) -> None:
        """Cut its power, and destroy its disk."""
        self.cut_power()
        shutil.rmtree(self.root)

    def command(self, *words: str) -> list[str]:
        """Return a command as it is run on this host."""
        path = f"{Path(self.python).parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"
        inside = ["env", "-i", f"PATH={path}:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", *words]
        flags = ["--net", "--mount", "--uts", "--ipc", "--pid", "--root", "--wd"]
        return ["nsenter", "--target", str(self.held.pid), *flags, *inside]

    def run(self, script: str, *, timeout_s: float = 300) -> str:
        """Run a script on it as root; return what it printed. Raises RuntimeError when it fails."""
        return ran(
            self.command("bash", "-euo", "pipefail", "-c", script), script, self.name, timeout_s
        )


class Network:
    """The switch that all hosts hang on; nothing else of this machine does.

    `shares` are directories of this machine that every host sees, and cannot change.
    """

    def __init__(self, folder: Path, shares: Sequence[Path] = ()) -> None:
        self.shares = tuple(shares)
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.hosts: dict[str, Host] = {}
        self.switch = _Held(["sleep", "infinity"], {}, folder / "switch.log", "net")
        self._in(self.switch.pid, "ip link set lo up")
        self._in(self.switch.pid, "ip link add name sw type bridge && ip link set sw up")

    def host(self, name: str, address: str) -> Host:
        """Add a machine."""
        self.hosts[name] = Host(self, name, address)
        return self.hosts[name]

    def attach(self, host: Host) -> None:
        """Give a host its address, and a cable to the switch."""
        pid, port = host.held.pid, f"p{len(self.hosts)}-{host.held.pid}"[:15]
        cable = (
            f"ip link add name eth0 netns {pid} type veth peer name {port} netns {self.switch.pid}"
        )
        ran(["sh", "-ec", cable], cable, host.name, WITHIN_S)
        self._in(pid, f"ip addr add {host.address}/24 dev eth0 && ip link set eth0 up")
        self._in(self.switch.pid, f"ip link set {port} master sw up")

    def connect(self, address: str) -> None:
        """Give the switch an address, so that commands inside it reach the hosts."""
        self._in(self.switch.pid, f"ip addr add {address}/24 dev sw")

    def inside(self, *words: str) -> list[str]:
        """Return a command that has this machine's files, and the hosts' network."""
        return ["nsenter", "--target", str(self.switch.pid), "--net", *words]

    def _in(self, pid: int, script: str) -> None:
        command = ["nsenter", "--target", str(pid), "--net", "sh", "-ec", script]
        ran(command, script, "the switch", WITHIN_S)

    def close(self) -> None:
        """End every host, and the switch."""
        for host in self.hosts.values():
            with contextlib.suppress(ProcessLookupError):
                host.held.kill()
        self.switch.kill()


@contextlib.contextmanager
def network(folder: Path, shares: Sequence[Path] = ()) -> Iterator[Network]:
    """Yield an empty network. Raises NoHosts."""
    refuse_without_rights()
    made = Network(folder, shares)
    try:
        yield made
    finally:
        made.close()


def ran(command: list[str], script: str, where: str, timeout_s: float) -> str:
    """Run a command; return what it printed. Raises RuntimeError with all of it when it fails."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=timeout_s, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"on {where}:\n{script}\nended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def _until(condition: Callable[[], object], what: str, process: subprocess.Popen[bytes]) -> None:
    """Wait for something that a process brings about."""
    ends = time.monotonic() + WITHIN_S
    while not condition():
        if process.poll() is not None or time.monotonic() > ends:
            raise RuntimeError(f"{what} did not come up")
        time.sleep(0.01)
