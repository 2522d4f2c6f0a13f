"""Do what the README says on a machine that has nothing: `python -m tests.docker.bare [PYTEST
ARGUMENT...]`.

A container made from the distribution's bare base image gets the packages that the README calls
needed, then a fresh clone of the last commit runs its commands: `make run` with a write through one
node and a read through another, `make demo`, `make test`. It never sees what was installed on this
machine by hand; only the trusted certificates and the network come from here. Exit code: that of
the first command that fails, else 0.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import docker

from deploy import images
from tests.docker.engine import ROOT, NoEngine, engine

CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
SHARED_MEMORY: Final = "1g"
"""Chromium draws in it; an engine gives 64 MB."""
CAPABILITIES: Final = ["NET_ADMIN", "SYS_ADMIN"]
"""For packets that the kernel drops, network namespaces, and small file systems."""

SCRIPT: Final = r"""
set -euo pipefail
step() { printf '\n=== bare: %s\n' "$*"; }
export DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 CI=true
step "packages: $NEEDED"
apt-get update -qq
apt-get install -y -qq --no-install-recommends $NEEDED >/tmp/apt.log 2>&1 || { tail -20 /tmp/apt.log; exit 100; }
git clone -q /commit /acordo
cd /acordo
step make run
set -m  # a job of its own group hears Ctrl-C
make run >/tmp/run.log 2>&1 &
runner=$!
set +m
ask() { python3 -c 'import sys, urllib.request as u
request = u.Request(sys.argv[2], method=sys.argv[1], data=sys.argv[3].encode() if len(sys.argv) > 3 else None)
print(u.urlopen(request, timeout=5).read().decode())' "$@"; }
for try in $(seq 240); do
    ask GET http://127.0.0.1:8001/readyz >/dev/null 2>&1 && break
    kill -0 "$runner" 2>/dev/null || { cat /tmp/run.log; exit 101; }
    sleep 1
done
ask PUT http://127.0.0.1:8001/v1/kv/hello world >/dev/null || { tail -50 /tmp/run.log; exit 102; }
[ "$(ask GET http://127.0.0.1:8002/v1/kv/hello)" = world ] || { tail -50 /tmp/run.log; exit 103; }
kill -INT -- "-$runner"
wait "$runner" && ended=0 || ended=$?
[ "$ended" = 0 ] || [ "$ended" = 130 ] || { tail -50 /tmp/run.log; echo "make run ended with $ended"; exit 104; }
step make demo
make demo
step make test
make test ${PART:+T="$PART"}
"""


def needed(readme: str) -> list[str]:
    """Return the packages that the README calls needed on Debian. Raises ValueError where it names
    none.
    """
    line = re.search(r"^Needed: .*$", readme, re.MULTILINE)
    said = line[0] if line else ""
    packages = [word for word in ("make", "git") if re.search(rf"\b{word}\b", said)]
    packages += re.findall(r"`(python3[a-z0-9-]*)`", said)
    if "python3" not in packages:
        raise ValueError(f"the README says no more what is needed: {said!r}")
    return packages


def main(arguments: list[str]) -> int:
    """Build the base image unless it is there, run the README in it, and print what it prints."""
    try:
        with engine(start=True), tempfile.TemporaryDirectory(prefix="acordo-bare-") as folder:
            client: Any = docker.from_env(timeout=3600)
            images.base(client)
            commit = Path(folder, "commit")
            subprocess.run(
                ["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(commit)], check=True
            )
            return _run(client, commit, shlex.join(arguments))
    except (NoEngine, images.CannotBuild) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1


def _run(client: Any, commit: Path, part: str) -> int:
    """Run the script in a container of its own, which is removed; return its exit code."""
    volumes = {str(commit): {"bind": "/commit", "mode": "ro"}}
    environment = {"NEEDED": " ".join(needed((ROOT / "README.md").read_text())), "PART": part}
    # a machine behind a proxy that opens TLS trusts more than the distribution does
    if CERTIFICATES.exists():
        volumes[str(CERTIFICATES)] = {"bind": "/trusted.crt", "mode": "ro"}
        environment |= {"PIP_CERT": "/trusted.crt", "SSL_CERT_FILE": "/trusted.crt"}
    environment |= {
        n: v
        for n, v in os.environ.items()
        if n.lower() in {"http_proxy", "https_proxy", "no_proxy"}
    }
    histories = ROOT.parent / "shared" / "histories"
    if histories.is_dir():
        volumes[str(histories)] = {"bind": "/histories", "mode": "ro"}
        environment["ACORDO_HISTORIES"] = "/histories"
    container = client.containers.create(
        images.BASE, ["bash", "-c", SCRIPT], environment=environment, volumes=volumes, network_mode="host",
        cap_add=CAPABILITIES, security_opt=["seccomp=unconfined", "apparmor=unconfined"], init=True,
        shm_size=SHARED_MEMORY,
    )  # fmt: skip
    try:
        container.start()
        for part_of_it in container.logs(stream=True, follow=True):
            sys.stdout.buffer.write(part_of_it)
            sys.stdout.buffer.flush()
        return int(container.wait()["StatusCode"])
    finally:
        container.remove(force=True, v=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
