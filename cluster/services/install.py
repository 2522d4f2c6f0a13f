"""Bring the distribution's packages of the real servers when they are missing.

As root, or with sudo that asks nothing. Otherwise it says exactly what to install. SKIP_SERVICES=1
leaves out what is missing: the tests that need it are then skipped, by name.
"""

from __future__ import annotations

import functools
import glob
import os
import shutil
import subprocess
import sys

PACKAGES = {
    "postgresql": ("postgresql",),
    "redis": ("redis-server", "redis-sentinel"),
    "rabbitmq": ("rabbitmq-server",),
    "nginx": ("nginx-light",),
    "prometheus": ("prometheus",),
    "compose": ("docker-compose",),
    "alertmanager": ("prometheus-alertmanager",),
    "curl": ("curl",),
    "chromium": ("chromium",),
    "faketime": ("libfaketime",),
    "nftables": ("nftables", "iproute2"),
    "etcd": ("etcd-server",),
    "siege": ("siege",),
}
_THERE = {
    "postgresql": "/usr/lib/postgresql/*/bin/postgres",
    "redis": "/usr/bin/redis-server",
    "rabbitmq": "/usr/lib/rabbitmq/bin/rabbitmq-server",
    "nginx": "/usr/sbin/nginx",
    "prometheus": "/usr/bin/prometheus",
    "compose": "/usr/bin/docker-compose",
    "alertmanager": "/usr/bin/amtool",
    "curl": "/usr/bin/curl",
    "chromium": "/usr/bin/chromium",
    "faketime": "/usr/lib/*/faketime/libfaketime.so.1",
    "nftables": "/usr/sbin/nft",
    "etcd": "/usr/bin/etcd",
    "siege": "/usr/bin/siege",
}


class Missing(Exception):
    """A service's program is not there, and could not be installed."""


def present(service: str) -> bool:
    """Say whether the service's program is on this machine."""
    return bool(glob.glob(_THERE[service]))


def skipping() -> bool:
    """Say whether missing services are left out (SKIP_SERVICES=1)."""
    return os.environ.get("SKIP_SERVICES", "") not in {"", "0"}


@functools.cache
def ensure(*services: str) -> None:
    """Install what is missing of the named services. Raises Missing with the command that would
    bring it.
    """
    wanted = [
        package for service in services if not present(service) for package in PACKAGES[service]
    ]
    if not wanted:
        return
    command = f"apt-get install -y --no-install-recommends {' '.join(wanted)}"
    if skipping():
        raise Missing(
            "SKIP_SERVICES is set, and not there: "
            f"{', '.join(s for s in services if not present(s))}"
        )
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (
        prefix and subprocess.run([*prefix, "true"], check=False).returncode
    ):
        raise Missing(f"run as root: {command}   (or set SKIP_SERVICES=1 to leave these tests out)")
    print(f"installing {' '.join(wanted)} …", file=sys.stderr, flush=True)
    environment = {
        **os.environ,
        "DEBIAN_FRONTEND": "noninteractive",
        "RUNLEVEL": "1",  # packages start no service of their own: the tests start private ones
    }
    for step in (["apt-get", "update", "-qq"], command.split()):
        done = subprocess.run(
            [*prefix, *step], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Missing(f"{' '.join(step)} failed:\n{done.stderr[-2000:]}")
    if absent := [service for service in services if not present(service)]:
        raise Missing(f"installed, but not found: {', '.join(absent)}")


if __name__ == "__main__":
    try:
        ensure(*(sys.argv[1:] or PACKAGES))
    except Missing as missing:
        sys.exit(str(missing))
