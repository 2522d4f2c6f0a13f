"""Build every image from the distribution's packages alone: `python -m deploy.images [NAME...]`.

The mirror and the package index are those of this machine; no image registry is used. No image is
removed.
"""

from __future__ import annotations

import argparse
import glob
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import docker
import docker.errors

from deploy import wheels

ROOT: Final = Path(__file__).parent.parent
BASE: Final = "acordo-base:bookworm"
PYTHON: Final = "acordo-air-python:bookworm"
CONTEXT: Final = (
    "Dockerfile",
    "requirements-run.lock",
    "kv",
    "backends",
    "coordinator",
    "node",
    "acordo",
    "cluster",
    "deploy",
)


@dataclass(frozen=True)
class Image:
    """An image: its tag, and what it is built from."""

    tag: str
    dockerfile: str
    target: str
    arguments: dict[str, str] = field(default_factory=dict)


_OURS: Final = {"BASE": PYTHON, "INDEX": "--no-index"}
IMAGES: Final = {
    "python": Image(PYTHON, "deploy/air/Dockerfile", "python"),
    "node": Image("acordo-node:air", "Dockerfile", "node", _OURS),
    "nginx": Image("acordo-nginx:air", "Dockerfile", "nginx", _OURS),
    "redis": Image("acordo-air-redis:bookworm", "deploy/air/Dockerfile", "redis"),
    "rabbitmq": Image("acordo-air-rabbitmq:bookworm", "deploy/air/Dockerfile", "rabbitmq"),
    "postgres": Image("acordo-air-postgres:bookworm", "deploy/air/Dockerfile", "postgres"),
    "prometheus": Image("acordo-air-prometheus:bookworm", "deploy/air/Dockerfile", "prometheus"),
    "alertmanager": Image(
        "acordo-air-alertmanager:bookworm", "deploy/air/Dockerfile", "alertmanager"
    ),
    "blackbox": Image("acordo-air-blackbox:bookworm", "deploy/air/Dockerfile", "blackbox"),
}


class CannotBuild(Exception):
    """A build is not possible. The text says why, and what to do about it."""


def main(argv: list[str]) -> int:
    """Build the named images, or all; print one line each."""
    parser = argparse.ArgumentParser(prog="python -m deploy.images", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"of {', '.join(IMAGES)}; none: all"
    )
    parser.add_argument(
        "--fresh",
        action="store_true",
        help="use no layer of before: takes the distribution's updates",
    )
    parser.add_argument(
        "--env", type=Path, help="write the names of the images to this file, for docker-compose"
    )
    given = parser.parse_args(argv)
    if unknown := [n for n in given.names if n not in IMAGES]:
        parser.error(f"no image is called {', '.join(unknown)}; there are {', '.join(IMAGES)}")
    wanted = given.names or list(IMAGES)
    if wanted != ["python"] and "python" not in wanted and {"node", "nginx"} & set(wanted):
        wanted.insert(0, "python")
    try:
        build(wanted, fresh=given.fresh)
    except (CannotBuild, docker.errors.DockerException) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 1
    if given.env:
        given.env.write_text("".join(f"{k}={v}\n" for k, v in names().items()))
    return 0


def names() -> dict[str, str]:
    """Return the variables that make docker-compose.yml use these images."""
    return {f"ACORDO_IMAGE_{n.upper()}": i.tag for n, i in IMAGES.items() if n != "python"}


def build(wanted: list[str], *, fresh: bool = False) -> None:
    """Build these images, in their order; with `fresh` without cached layers.

    Raises CannotBuild or DockerException.
    """
    client = docker.from_env(timeout=1800)
    base(client)
    with tempfile.TemporaryDirectory(prefix="acordo-images-") as folder:
        context = Path(folder)
        for name in CONTEXT:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(
                    source, context / name, ignore=shutil.ignore_patterns("__pycache__", "wheels")
                )
            else:
                shutil.copy(source, context / name)
        if {"node"} & set(wanted):
            _timed("wheels", lambda: wheels.build(context / "deploy" / "wheels"))
        for name in wanted:
            image = IMAGES[name]
            _timed(image.tag, lambda image=image: _build(client, context, image, fresh=fresh))


def base(client: Any) -> None:
    """Build the base image from this machine's own mirror, unless it exists."""
    try:
        client.images.get(BASE)
    except docker.errors.ImageNotFound:
        _timed(BASE, lambda: _debootstrap(client))


def _debootstrap(client: Any) -> None:
    if os.geteuid() != 0:
        raise CannotBuild(
            f"{BASE} is not there, and making it takes root: sudo python -m deploy.images"
        )
    if shutil.which("debootstrap") is None:
        _run("apt-get", "update", "-q")
        _run("apt-get", "install", "-y", "-q", "--no-install-recommends", "debootstrap")
    mirror, sources = mirrors()
    with tempfile.TemporaryDirectory(prefix="acordo-base-") as folder:
        root = Path(folder) / "root"
        _run("debootstrap", "--variant=minbase", "bookworm", str(root), mirror)
        (root / "etc/apt/sources.list").write_text(sources)
        _slim(root)
        packed = Path(folder) / "root.tar"
        with tarfile.open(packed, "w") as tar:
            tar.add(root, arcname=".", filter=lambda member: None if member.ischr() else member)
        repository, _, tag = BASE.partition(":")
        with packed.open("rb") as file:
            client.api.import_image_from_data(file, repository=repository, tag=tag)


def _run(*command: str) -> None:
    """Run a command that uses a mirror; try it twice, because mirrors fail at times. Raises
    CannotBuild.
    """
    for _ in range(2):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if done.returncode == 0:
            return
    raise CannotBuild(f"{' '.join(command[:4])} … failed twice: {done.stdout[-1000:]}")


def _slim(root: Path) -> None:
    """Remove files that no container needs, and keep later installs from adding them.

    Also let apt retry requests to a mirror that fail.
    """
    (root / "etc/apt/apt.conf.d/retries").write_text('Acquire::Retries "3";\n')
    (root / "etc/apt/apt.conf.d/slim").write_text(
        'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache "";\n'
    )
    (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(
        "path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/info/*\n"
        "path-exclude=/usr/share/locale/*\npath-include=/usr/share/doc/*/copyright\n"
    )
    for pattern in (
        "var/cache/apt/*.bin",
        "var/cache/apt/archives/*.deb",
        "var/lib/apt/lists/*",
        "usr/share/locale/*",
    ):
        for name in glob.glob(str(root / pattern)):
            shutil.rmtree(name) if os.path.isdir(name) else os.unlink(name)
    for text in (
        path
        for path in (root / "usr/share/doc").rglob("*")
        if path.name != "copyright" and not path.is_dir()
    ):
        text.unlink()


def mirrors(folder: Path = Path("/etc/apt")) -> tuple[str, str]:
    """Return the mirror of this machine's Debian 12, and a sources.list that includes security
    updates.

    Raises CannotBuild if the machine's apt settings name none.
    """
    found: list[tuple[str, str]] = []
    for uri, suites in _sources(folder):
        found += [
            (uri, suite)
            for suite in suites
            if re.fullmatch(r"bookworm(-updates|-security)?", suite)
        ]
    main_mirror = next((uri for uri, suite in found if suite == "bookworm"), None)
    if main_mirror is None:
        raise CannotBuild(f"{folder} names no mirror with Debian 12 (bookworm)")
    lines = dict.fromkeys(f"deb {uri} {suite} main" for uri, suite in found)
    return main_mirror, "\n".join(lines) + "\n"


def _sources(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the URI and the suites of every entry, in both formats of apt."""
    for path in (folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.list"))):
        for line in path.read_text().splitlines() if path.exists() else ():
            if match := re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)\s", line + " "):
                yield match[1].rstrip("/"), [match[2]]
    for path in sorted((folder / "sources.list.d").glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"(?m)^([A-Za-z-]+):[ \t]*(.*)$", stanza))
            if "deb" in fields.get("Types", "").split() and fields.get("Enabled", "yes") != "no":
                for uri in fields.get("URIs", "").split():
                    yield uri.rstrip("/"), fields.get("Suites", "").split()


def _build(client: Any, context: Path, image: Image, *, fresh: bool) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.add(context, arcname=".", filter=_reproducible)
    packed.seek(0)
    said: list[str] = []
    for event in client.api.build(
        fileobj=packed,
        custom_context=True,
        dockerfile=image.dockerfile,
        target=image.target,
        tag=image.tag,
        buildargs=image.arguments,
        network_mode="host",
        nocache=fresh,
        rm=True,
        forcerm=True,
        decode=True,
    ):
        said.append(str(event.get("stream", "")))
        if "error" in event:
            raise CannotBuild(f"{image.tag}: {event['error']}\n{''.join(said)[-2000:]}")


def _reproducible(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mtime = 0
    # Set the modes, because an image must not depend on the umask under which the repository was
    # cloned.
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


def _timed(what: str, do: Any) -> None:
    began = time.monotonic()
    do()
    print(f"{what}  {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
