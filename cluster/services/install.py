"""Install the distribution's packages of the real servers when they are missing.

This needs root, or sudo without a password; otherwise the error says exactly what to install. With
SKIP_SERVICES=1 nothing is installed, and the tests that need a missing service are skipped, by
name.
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
    "patroni": ("patroni",),
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
    "patroni": "/usr/bin/patroni",
}


class Missing(Exception):
    """A service's program is missing and could not be installed."""


def present(service: str) -> bool:
    """Return whether the service's program is installed."""
    return bool(glob.glob(_THERE[service]))


def skipping() -> bool:
    """Return whether missing services are skipped (SKIP_SERVICES=1)."""
    return os.environ.get("SKIP_SERVICES", "") not in {"", "0"}


@functools.cache
def ensure(*services: str) -> None:
    """Install the packages of those services that are missing.

    Raises Missing with the command that would install them.
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
        "RUNLEVEL": "1",  # keeps packages from starting services: the tests start private ones
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
