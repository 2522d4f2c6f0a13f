"""docs/deploy.md: its commands, run in their order on hosts of their own, make a cluster that
loses a machine with its disk and nothing else.
"""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

from tests.hosts.network import Host, Network
from tests.hosts.page import DESK, PAGE, Block, blocks
from tests.hosts.services import parse

ROOT: Final = PAGE.parents[1]
SHIMS: Final = {
    "scp": r"""
while [ "${1#-}" != "$1" ]; do shift; done
for last in "$@"; do :; done
place=$(sed -n "s,^${last%%:*} ,,p" "$HOSTS_FILE")${last#*:}
while [ $# -gt 1 ]; do cp -r "$1" "$place"; shift; done
""",
    "ssh": r"""
where=$1; shift
exec nsenter --target "$(cat "$(sed -n "s,^$where ,,p" "$HOSTS_FILE").pid")" \
    --net --mount --uts --ipc --pid --root --wd env -i "PATH=/usr/sbin:/usr/bin" "$@"
""",
}
"""What the desk has in the place of ssh: the machines' directories are here."""
MOVED: Final = "10.0.0.23"
"""Where n3 is after "When a machine moves to another address"."""

STATUS: Final = "curl -s -o /dev/null -w %{http_code} --cacert /etc/acordo/clients-ca.pem"
"""Prints the status of an answer."""

pytestmark = pytest.mark.timeout(900)


class Desk:
    """The place where the page's reader works: this checkout, and a home of its own."""

    def __init__(self, network: Network, folder: Path) -> None:
        self.network, self.home = network, folder
        shims = folder / "shims"
        shims.mkdir(parents=True)
        for name, script in SHIMS.items():
            (shims / name).write_text(f"#!/bin/sh\nset -eu\n{script}")
            (shims / name).chmod(0o755)
        self.environ = os.environ | {
            "HOME": str(folder),
            "PATH": f"{shims}:{os.environ['PATH']}",
            "HOSTS_FILE": str(folder / "hosts"),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }

    def knows(self, host: Host) -> None:
        """Let the shims find a machine by its address."""
        with (self.home / "hosts").open("a") as file:
            file.write(f"root@{host.address} {host.root}\n")
        Path(f"{host.root}.pid").write_text(str(host.held.pid))

    def run(self, script: str) -> str:
        """Run commands in the checkout."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script], cwd=ROOT, env=self.environ,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"at the desk:\n{script}\nended badly:\n{done.stdout}"
        return done.stdout


def run(block: Block, desk: Desk) -> dict[str, str]:
    """Run the commands of a block where it says; return what they printed, by machine."""
    if block.hosts == (DESK,):
        return {DESK: desk.run(block.script)}
    found = [desk.network.hosts[name] for name in block.hosts]
    with ThreadPoolExecutor(1 if block.in_turn else len(found)) as pool:
        said = list(pool.map(lambda host: host.run(block.script), found))
    return dict(zip(block.hosts, said, strict=True))


def logs(hosts: Network) -> str:
    """Return the ends of the services' logs."""
    ends = []
    for name, host in hosts.hosts.items():
        log = host.root / "var" / "log" / "journal" / "acordo.log"
        if log.exists():
            ends += [f"--- {name}", *log.read_text().splitlines()[-10:]]
    return "\n".join(ends)


def addresses(text: str) -> dict[str, str]:
    """Return the machines in the page's table, by name."""
    found: dict[str, str] = {}
    for row in re.findall(r"^\| (n[^|]*)\| ([\d., ]+)\|", text, re.MULTILINE):
        names, where = ([word.strip() for word in cell.split(",")] for cell in row)
        found |= dict(zip(names, where, strict=True))
    return found


def test_the_page_makes_a_cluster_and_replaces_a_lost_machine(
    hosts: Network, tmp_path: Path
) -> None:
    text = PAGE.read_text()
    machines = addresses(text)
    assert list(machines) == ["n1", "n2", "n3", "n4"]
    desk = Desk(hosts, tmp_path / "desk")
    for name, address in machines.items():
        desk.knows(hosts.host(name, address))
    said: dict[int, str] = {}
    lost, token = False, ""
    for block in blocks(text):
        if block.section == 6 and not lost:  # "When a machine is lost"
            token = (hosts.hosts["n1"].root / "root" / "app.token").read_text()
            hosts.hosts["n1"].take_away()
            lost = True
        if block.section == 8 and hosts.hosts["n3"].address != MOVED:
            hosts.hosts["n3"].address = MOVED
            desk.knows(hosts.hosts["n3"])
        try:
            answers = run(block, desk)
        except RuntimeError:
            print(logs(hosts))
            raise
        for told in answers.values():
            said[block.section] = said.get(block.section, "") + told
    assert "hello" in said[5]
    assert "n4 promoted" in said[6] and "n1 removed" in said[6]
    for name in ("n2", "n3", "n4"):
        host = hosts.hosts[name]
        url = f"https://{host.address}:8001"
        assert host.run(f"acordo --url {url} get greeting").strip() == "hello"
        assert "store" in host.run("ls /var/lib/acordo")
        assert host.run(f"{STATUS} {url}/livez") == "200"
        assert host.run(f"{STATUS} {url}/v1/kv/greeting") == "401", "nobody reads without a token"
        assert host.run("stat -c %a:%U /etc/acordo/admin.token /etc/acordo/http.key").split() == [
            "600:root", "640:root",
        ]  # fmt: skip
    (hosts.hosts["n2"].root / "root" / "app.token").write_text(token)
    app = "ACORDO_TOKEN_FILE=/root/app.token acordo --url https://10.0.0.12:8001"
    hosts.hosts["n2"].run(f"chmod 600 /root/app.token; {app} put app/mine 1")
    with pytest.raises(RuntimeError, match="no right to read"):
        hosts.hosts["n2"].run(f"{app} get greeting")
    assert said[7].count(f"{MOVED}:8001") == 3, "every member knows where n3 is now"
    assert '"greeting"' in hosts.hosts["n2"].run("cat /root/backup.jsonl")
    members = hosts.hosts["n3"].run("acordo --url https://10.0.0.23:8001 members")
    assert "n4" in members and "n1 " not in members and "does not vote" not in members


def test_every_command_says_where_it_runs() -> None:
    found = blocks(PAGE.read_text())
    assert len(found) > 10
    assert {host for block in found for host in block.hosts} == {DESK, *addresses(PAGE.read_text())}
    with pytest.raises(ValueError, match="where this runs"):
        blocks("```sh\nrm -r /\n```\n")
    with pytest.raises(ValueError, match="no commands follow"):
        blocks("<!-- on: n1 -->\n\n<!-- on: n2 -->\n```sh\ntrue\n```\n")


def test_the_unit_says_nothing_that_its_stand_in_does_not_know() -> None:
    unit = re.findall(r"acordo\.service <<'END'\n(.*?)^END$", PAGE.read_text(), re.M | re.S)
    assert len(unit) == 1
    said = parse(unit[0])
    assert said["EnvironmentFile"] == ["/etc/acordo/node.env"]
    with pytest.raises(ValueError, match="not known"):
        parse(unit[0].replace("UMask=", "Umask="))
