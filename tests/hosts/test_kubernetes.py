"""Three members started by what deploy/kubernetes has a pod run, on hosts that know each other by
the names of a headless Service: one comes back under another address, one without its disk.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import trustme

from tests.hosts.network import Host, Network, NoHosts, network
from tests.unit.deploy.test_kubernetes import first_members, named

ROOT: Final = Path(__file__).parents[2]
PODS: Final = {"acordo-0": "10.0.0.11", "acordo-1": "10.0.0.12", "acordo-2": "10.0.0.13"}
MOVED: Final = "10.0.0.23"
POD: Final = "var/lib/pod"
"""Where a host has what is mounted in a pod."""
UNIT: Final = f"""
[Service]
Environment=PATH={sys.prefix}/bin:/usr/bin:/bin ROOT=/{POD} KEYS=/{POD}/keys POD_NAME=%s
EnvironmentFile=/etc/pod.env
WorkingDirectory={ROOT}
ExecStart=/bin/sh {ROOT}/deploy/kubernetes/start.sh
StateDirectory=acordo
RestartPreventExitStatus=78
TimeoutStopSec=40
"""
CA: Final = f"/{POD}/https/ca.crt"
READY: Final = (
    f"timeout 60 sh -c 'until curl -fs --cacert {CA} "
    "https://{pod}.acordo-members:8000/readyz; do sleep 0.2; done'"
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Network]:
    """A network whose hosts see this checkout."""
    try:
        with network(tmp_path / "hosts", [ROOT]) as made:
            yield made
    except NoHosts as exc:
        pytest.skip(f"no hosts here: {exc}")


def resolve(hosts: Network, addresses: dict[str, str]) -> None:
    """Let every host find the pods where they are, as the cluster's DNS would."""
    lines = [f"{address} {pod}.acordo-members {pod}" for pod, address in addresses.items()]
    for host in hosts.hosts.values():
        (host.root / "etc" / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))


def https() -> dict[str, bytes]:
    """Return the Secret acordo-https, with a certificate of the names that cert-manager is told."""
    authority = trustme.CA()
    own = authority.issue_cert(*named("Certificate", "acordo-https")["spec"]["dnsNames"])
    return {
        "tls.crt": own.cert_chain_pems[0].bytes(),
        "tls.key": own.private_key_pem.bytes(),
        "ca.crt": authority.cert_pem.bytes(),
    }


def schedule(host: Host, pod: str, secret: dict[str, bytes]) -> None:
    """Give a host what is mounted in the pod, and its disk."""
    for folder in ("settings", "secrets", "keys", "replaced", "https"):
        (host.root / POD / folder).mkdir(parents=True)
    text = named("ConfigMap", "acordo-settings")["data"]["members"]
    (host.root / POD / "settings" / "members").write_text(text)
    (host.root / POD / "secrets" / "raft").write_text("s" * 64)
    for name, content in secret.items():
        (host.root / POD / "https" / name).write_bytes(content)
    environment = named("ConfigMap", "acordo-environment")["data"]
    environment = {**environment, "ACORDO_DATA_DIR": "/var/lib/acordo"}
    lines = "".join(f"{name}={value}\n" for name, value in environment.items())
    (host.root / "etc" / "pod.env").write_text(lines)
    (host.root / "etc/systemd/system/acordo.service").write_text(UNIT % pod)


def acordo(host: Host, words: str) -> str:
    """Run the command line on a host, against the members in turn."""
    urls = ",".join(f"https://{pod}.acordo-members:8000" for pod in first_members())
    token = host.root / POD / "token"
    known = f"ACORDO_CA={CA} ACORDO_TOKEN={token.read_text().strip() if token.exists() else ''}"
    return host.run(
        f"cd {ROOT} && {known} ACORDO_URLS={urls} {sys.prefix}/bin/python "
        f"-m acordo --timeout 30 {words}"
    )


def test_pods_find_each_other_by_name_move_and_are_replaced(hosts: Network) -> None:
    secret = https()
    for pod, address in PODS.items():
        schedule(hosts.host(pod, address), pod, secret)
    resolve(hosts, PODS)
    zero, one, two = (hosts.hosts[pod] for pod in PODS)
    for host in (zero, one, two):
        host.run("systemctl start acordo")
    for pod in PODS:
        zero.run(READY.format(pod=pod))
    # Nobody is served before an admin's token was made, in a pod; and then nobody without one.
    with pytest.raises(RuntimeError, match="not_open"):
        acordo(one, "--json --url https://acordo-0.acordo-members:8000 put kept 1")
    said = acordo(zero, "--url https://localhost:8000 token create admin --role admin")
    made = next(word for word in said.split() if word.startswith("acordo_"))
    acordo(zero, f"--url https://localhost:8000 --token-file <(echo {made}) access on")
    with pytest.raises(RuntimeError, match="token"):
        acordo(one, "put kept 1")
    for host in (zero, one, two):
        (host.root / POD / "token").write_text(made)
    acordo(zero, "put kept 1")

    # The pod is started on another machine: the same disk, another address.
    two.run("systemctl stop acordo")
    two.run(f"ip addr del {PODS['acordo-2']}/24 dev eth0; ip addr add {MOVED}/24 dev eth0")
    resolve(hosts, {**PODS, "acordo-2": MOVED})
    two.run("systemctl start acordo")
    zero.run(READY.format(pod="acordo-2"))
    acordo(zero, "put kept 2")
    assert acordo(two, "--url https://acordo-2.acordo-members:8000 get kept").strip() == "2"

    # Its disk is lost: the pod and its address stay, the member is a new one.
    one.run("systemctl stop acordo")
    shutil.rmtree(one.root / "var/lib/acordo")
    acordo(zero, "members remove acordo-1")
    (one.root / POD / "replaced" / "acordo-1").write_text("acordo-1-2")
    one.run("systemctl start acordo")
    where = "--raft-address acordo-1.acordo-members:9001"
    acordo(
        zero, f"members add acordo-1-2 {where} --member-url https://acordo-1.acordo-members:8000"
    )
    zero.run(
        f"cd {ROOT} && ACORDO_CA={CA} ACORDO_TOKEN={made} timeout 120 sh -c "
        "'until ACORDO_URLS=https://acordo-0.acordo-members:8000 "
        f"{sys.prefix}/bin/python -m acordo members promote acordo-1-2; do sleep 0.5; done'"
    )
    zero.run(READY.format(pod="acordo-1"))
    found = acordo(one, "--url https://acordo-1.acordo-members:8000 get kept")
    assert found.strip() == "2"
    zero.run("systemctl stop acordo")  # a majority without the last that was never touched
    acordo(one, "put kept 3")
