"""Three machines, each taken away for good with its disk and replaced by a new one, until none of
the first three is left, while clients write: nothing acknowledged is lost, and all members end with
the same ledger and the same contents, row by row.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pytest

from tests.e2e.test_tls import certificates
from tests.hosts.load import FIRST_BYTES, Progress, Verdicts
from tests.hosts.network import Host, Network, NoHosts, network

ROOT: Final = Path(__file__).parents[2]
OUT: Final = ROOT / "out" / "hosts"
MACHINES: Final = {f"n{n}": f"10.0.0.{10 + n}" for n in range(1, 7)}
FIRST: Final = ("n1", "n2", "n3")
REPLACED_WITHIN_S: Final = 60.0
WRITES_PER_S_LEAST: Final = 300
WAIT_S: Final = 300.0
"""Longest wait for anything: a busy machine is no fault of the product."""
UNIT: Final = f"""
[Service]
EnvironmentFile=/etc/acordo.env
WorkingDirectory={ROOT}
ExecStart={sys.prefix}/bin/python -m node
StateDirectory=acordo
Restart=always
RestartPreventExitStatus=78
TimeoutStopSec=40
"""

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Network]:
    """A network whose hosts see this checkout."""
    try:
        with network(tmp_path / "hosts", [ROOT]) as made:
            made.connect("10.0.0.1")
            yield made
    except NoHosts as exc:
        pytest.skip(f"no hosts here: {exc}")


class Cluster:
    """The members, as somebody who operates them sees them."""

    def __init__(self, hosts: Network, folder: Path) -> None:
        self.hosts, self.folder = hosts, folder
        self.pairs = certificates(folder, *MACHINES)
        self.present: list[str] = []

    def start(self, name: str, members: str) -> Host:
        """Start a new member on a new machine."""
        address = MACHINES[name]
        host = self.hosts.host(name, address)
        settings = {
            "ACORDO_CLUSTER_ID": "hosts",
            "ACORDO_STORE": "replicated",
            "ACORDO_NODE_ID": name,
            "ACORDO_MEMBERS": members,
            "ACORDO_RAFT_ADDRESS": f"{address}:9001",
            "ACORDO_HTTP_HOST": address,
            "ACORDO_HTTP_OPEN": "true",
            "ACORDO_DATA_DIR": "/var/lib/acordo",
        }
        for setting, path in self.pairs[name].items():
            place = host.root / "etc" / Path(path).name
            place.write_bytes(Path(path).read_bytes())
            settings[setting] = f"/etc/{place.name}"
        lines = "".join(f"{key}={value}\n" for key, value in settings.items())
        (host.root / "etc" / "acordo.env").write_text(lines)
        (host.root / "etc/systemd/system/acordo.service").write_text(UNIT)
        host.run("systemctl enable --now acordo")
        self.present.append(name)
        return host

    def urls(self) -> list[str]:
        """Return where clients find the members."""
        return [f"http://{MACHINES[name]}:8001" for name in self.present]

    def acordo(self, *words: str) -> tuple[int, str]:
        """Run the command line against the members; return its exit code and what it printed."""
        given = [word for url in self.urls() for word in ("--url", url)]
        command = self.hosts.inside(sys.executable, "-m", "acordo", *given, *words)
        done = subprocess.run(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout

    def until(self, *words: str) -> None:
        """Run the command line until it succeeds."""
        ends, said = time.monotonic() + WAIT_S, ""
        while time.monotonic() < ends:
            code, said = self.acordo(*words)
            if code == 0:
                return
            time.sleep(0.2)
        raise AssertionError(f"acordo {' '.join(words)} did not succeed: {said}\n{self.logs()}")

    def replace(self, old: str, new: str, load: Load) -> float:
        """Take a machine away for good, and give its place to a new one. Return how long it
        took.
        """
        began = time.monotonic()
        self.hosts.hosts[old].take_away()
        self.present.remove(old)
        load.goes_to(self.urls())
        fellows = [f"{n}={MACHINES[n]}:9001" for n in (*self.present, old)]
        self.start(new, ",".join([*fellows, f"{new}={MACHINES[new]}:9001/observer"]))
        raft, url = f"{MACHINES[new]}:9001", f"http://{MACHINES[new]}:8001"
        self.until("members", "add", new, "--raft-address", raft, "--member-url", url)
        self.until("members", "promote", new)
        self.until("members", "remove", old)
        load.goes_to(self.urls())
        return time.monotonic() - began

    def logs(self) -> str:
        """Return the ends of the members' logs."""
        ends = []
        for name in self.present:
            with contextlib.suppress(RuntimeError):
                said = self.hosts.hosts[name].run("journalctl -u acordo -n 15")
                ends.append(f"--- {name}\n{said}")
        return "\n".join(ends)


class Load:
    """The clients, in a process of their own that is in the hosts' network."""

    def __init__(self, hosts: Network, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                hosts.inside(sys.executable, "-m", "tests.hosts.load", str(folder)),
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def goes_to(self, urls: list[str]) -> None:
        """Let the clients use these nodes from now on."""
        new = self.folder / "urls.new"
        new.write_text("\n".join(urls))
        new.rename(self.folder / "urls")

    def progress(self) -> Progress:
        """Return what was acknowledged so far."""
        assert self.process.poll() is None, self.log.read_text()[-4000:]
        with contextlib.suppress(FileNotFoundError):
            return msgspec.json.decode((self.folder / "progress.json").read_bytes(), type=Progress)
        return Progress()

    def wait_filled(self) -> None:
        """Return once there is enough data, and the even load has begun."""
        ends = time.monotonic() + WAIT_S
        while (now := self.progress()).phase == "filling":
            assert time.monotonic() < ends, f"only {now.written_bytes} bytes were acknowledged"
            time.sleep(0.2)

    def verdict(self) -> Verdicts:
        """End the load; return what came of it."""
        (self.folder / "stop").touch()
        code = self.process.wait(WAIT_S * 2)
        assert code == 0, self.log.read_text()[-4000:]
        return msgspec.json.decode((self.folder / "verdict.json").read_bytes(), type=Verdicts)

    def close(self) -> None:
        """End the process, if it still runs."""
        self.process.kill()
        self.process.wait()


def others_load() -> float:
    """Return the load of a machine that is busy with something else; 0 if it is not."""
    load = os.getloadavg()[0]
    return load if load > (os.cpu_count() or 1) else 0.0


def test_every_machine_is_replaced_and_nothing_acknowledged_is_lost(
    hosts: Network, tmp_path: Path
) -> None:
    busy = others_load()
    cluster = Cluster(hosts, tmp_path)
    founders = ",".join(f"{name}={MACHINES[name]}:9001" for name in FIRST)
    for name in FIRST:
        cluster.start(name, founders)
    cluster.until("put", "first", "1")
    load = Load(hosts, tmp_path / "load")
    try:
        load.goes_to(cluster.urls())
        load.wait_filled()
        took = []
        before = load.progress()
        for number, old in enumerate(FIRST, 4):
            took.append(cluster.replace(old, f"n{number}", load))
        after = load.progress()
        verdict = load.verdict()
    except BaseException:
        print(cluster.logs())
        raise
    finally:
        load.close()
    rate = (after.writes - before.writes) / (after.at_s - before.at_s)
    said = (
        f"replaced in {', '.join(f'{each:.1f}' for each in took)} s, while {rate:.0f} writes/s "
        f"were acknowledged; {after.written_bytes / 1e6:.0f} MB; {verdict.figures}"
    )
    print(said)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "replacement.txt").write_text(said + "\n")
    assert verdict.lost == []
    assert verdict.anomalies == []
    assert verdict.figures["members"] == 3
    assert verdict.figures["copies_operations"] > 3 * after.writes
    assert before.written_bytes >= FIRST_BYTES
    if busy:
        print(f"times are not judged: the machine had a load of {busy:.1f} before")
        return
    assert max(took) <= REPLACED_WITHIN_S, said
    assert rate >= WRITES_PER_S_LEAST, said
