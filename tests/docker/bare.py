"""Do what the README says on a machine that has nothing: `python -m tests.docker.bare [PYTEST
ARGUMENT...]`.

A container made from the distribution's bare base image gets the packages that the README calls
needed, then a fresh clone of the last commit runs its commands: `make run` with a write through one
node and a read through another, `make demo`, `make test`. It never sees what was installed on this
machine by hand; only the trusted certificates, the network and pip's settings (which index, which
folders) come from here. Exit code: that of the first command that fails, else 0; 69 when the
container cannot be made here, or reaches no mirror of packages: nothing is said of the README then.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors

from deploy import images
from tests.docker.engine import ROOT, NoEngine, engine

CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
SHARED_MEMORY: Final = "1g"
"""Chromium draws in it; an engine gives 64 MB."""
UNAVAILABLE: Final = 69
"""sysexits.h: something that this takes is not there, and it is not the project's to bring."""
PIP_SETTINGS: Final = {"index-url", "extra-index-url", "find-links", "constraint", "trusted-host"}
CAPABILITIES: Final = ["NET_ADMIN", "SYS_ADMIN"]
"""For packets that the kernel drops, network namespaces, and small file systems."""

MADE: Final = (
    *(".git", ".venv", "out", "data", "build", "__pycache__", "*.egg-info"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".import_linter_cache"),
)
NOBODY: Final = ("-c", "user.name=acordo", "-c", "user.email=acordo@localhost")

SCRIPT: Final = r"""
set -euo pipefail
step() { printf '\n=== bare: %s\n' "$*"; }
export DEBIAN_FRONTEND=noninteractive PYTHONUNBUFFERED=1 CI=true
step "packages: $NEEDED"
apt-get update -qq || { echo 'error: no mirror of Debian packages is reached from here'; exit 69; }
apt-get install -y -qq --no-install-recommends $NEEDED >/tmp/apt.log 2>&1 || {
    tail -20 /tmp/apt.log
    exit 100
}
python3 -m venv /tmp/probe
/tmp/probe/bin/pip download -q --no-deps -d /tmp/probe "$PROBE" || {
    echo "error: no index of Python packages with $PROBE is reached from here"
    exit 69
}
git -c safe.directory='*' clone -q /commit /acordo
cd /acordo
step make run
set -m  # a job of its own group hears Ctrl-C
make run >/tmp/run.log 2>&1 &
runner=$!
set +m
ask() { python3 -c 'import sys, urllib.request as u
data = sys.argv[3].encode() if len(sys.argv) > 3 else None
request = u.Request(sys.argv[2], method=sys.argv[1], data=data)
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
[ "$ended" = 0 ] || [ "$ended" = 130 ] || {
    tail -50 /tmp/run.log
    echo "make run ended with $ended"
    exit 104
}
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
            take_commit(ROOT, commit)
            return _run(client, commit, shlex.join(arguments))
    except (NoEngine, images.CannotBuild, docker.errors.DockerException) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return UNAVAILABLE


def take_commit(root: Path, to: Path) -> None:
    """Clone what is committed; where `root` is no repository of git's (an unpacked archive), or one
    that git does not trust, copy it without what was made in it, as one commit.
    """
    clone = ["git", "-c", "safe.directory=*", "clone", "-q", "--no-hardlinks", str(root), str(to)]
    done = subprocess.run(clone, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    print(f"no clone of {root.name} is to be had, its files are copied: {done.stderr.strip()}")
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(root, to, symlinks=True, ignore=shutil.ignore_patterns(*MADE))
    for command in (["init", "-q"], ["add", "-A"], [*NOBODY, "commit", "-q", "-m", "a copy"]):
        subprocess.run(["git", *command], cwd=to, check=True)


def pip_settings(listed: str) -> tuple[dict[str, str], list[Path]]:
    """Return the variables that give pip the settings `pip config list` printed, and the folders
    and files of this machine that they name.
    """
    settings: dict[str, str] = {}
    # The environment wins over every file.
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key in PIP_SETTINGS and value:
            words = str(ast.literal_eval(value)).split()
            settings[f"PIP_{key.upper().replace('-', '_')}"] = " ".join(words)
    named = [w.removeprefix("file://") for value in settings.values() for w in value.split()]
    paths = {Path(w) for w in named if w.startswith("/")}
    # An index of files links from /a/simple to /a/files.
    roots = {p.parent if p.name == "simple" else p for p in paths}
    return settings, sorted(p for p in roots if p.exists())


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
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    settings, paths = pip_settings(listed.stdout)
    environment |= settings
    volumes |= {str(path): {"bind": str(path), "mode": "ro"} for path in paths}
    environment["PROBE"] = next(
        line.split(" ")[0].strip()
        for line in (ROOT / "requirements.lock").read_text().splitlines()
        if line.startswith("aiohttp==")
    )
    histories = ROOT.parent / "shared" / "histories"
    if histories.is_dir():
        volumes[str(histories)] = {"bind": "/histories", "mode": "ro"}
        environment["ACORDO_TEST_HISTORIES"] = "/histories"
    container = client.containers.create(
        images.BASE, ["bash", "-c", SCRIPT], environment=environment, volumes=volumes,
        network_mode="host",
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
