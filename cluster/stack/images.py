"""Provide the stack's images: build ours from the checkout, tag them, and keep the previous ones.

Ours are tagged with version and commit.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cluster.stack.engine import Engine, StackFailed, run
from cluster.stack.env_file import StackSettings

CODE: Final = ("kv", "backends", "coordinator", "node", "acordo", "cluster", "deploy")
"""Folders that go into the images."""
OURS: Final = {"NODE": "acordo-node:local", "NGINX": "acordo-nginx:local"}
PREVIOUS: Final = "previous"


def named(settings: StackSettings) -> dict[str, str]:
    """Return our images that are in use, by the name in their setting."""
    return {name: settings.get(f"ACORDO_IMAGE_{name}", image) for name, image in OURS.items()}


def check_readable(root: Path) -> None:
    """Raise StackFailed if the containers' users, who are others, cannot read the code."""
    for name in (*CODE, "requirements-run.lock"):
        top = root / name
        for path in (top, *(p for p in top.rglob("*") if "__pycache__" not in p.parts)):
            if not path.exists():  # a dangling link, or an editor's file that has vanished
                continue
            need = 0o005 if path.is_dir() else 0o004
            if path.stat().st_mode & need != need:
                raise StackFailed(
                    f"{path.relative_to(root)} cannot be read by the containers' users (a clone "
                    f"under umask 077?): chmod -R go+rX {' '.join(CODE)} requirements-run.lock"
                )


def build(engine: Engine, settings: StackSettings, root: Path, say: Callable[[str], None]) -> None:
    """Build our images from the current code; this is quick if nothing changed.

    Raises StackFailed.
    """
    services = {"NODE": "secret", "NGINX": "nginx"}
    wanted = {
        name: image
        for name, image in named(settings).items()
        if re.fullmatch(r"acordo-[\w.-]+:local", image)
    }
    if not wanted:
        return
    say(f"building {', '.join(wanted.values())}")
    before = {image: identity(engine, image) for image in wanted.values()}
    done = engine.compose("build", "--quiet", *(services[name] for name in wanted))
    if not done.ok:
        raise StackFailed(
            "building failed; where no image registry is reached: make images, remove "
            f"{settings.path}, ./start.sh. It said: {done.last(5)}"
        )
    keep(engine, before, version(root))


def build_air(
    engine: Engine, settings: StackSettings, root: Path, say: Callable[[str], None]
) -> None:
    """Rebuild the images made from the distribution's packages, if they are in use.

    Raises StackFailed.
    """
    wanted = {name: image for name, image in named(settings).items() if image.endswith(":air")}
    if not wanted:
        return
    say(f"building {', '.join(wanted.values())}")
    before = {image: identity(engine, image) for image in wanted.values()}
    names = [name.lower() for name in wanted]
    command = [sys.executable, "-m", "deploy.images", *names]
    done = run(command, cwd=root, environ=engine.environ)
    if not done.ok:
        raise StackFailed(f"building failed; it said: {done.last(5)}")
    keep(engine, before, version(root))


def version(root: Path) -> str:
    """Return the version and commit of the checkout as an image tag.

    It ends in `-changed` if files differ from the commit.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    try:
        commit = _git(root, "rev-parse", "--short=10", "HEAD")
        return f"{project}-{commit}" + (
            "-changed" if _git(root, "status", "--porcelain", "-uno") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return f"{project}"


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
    ).stdout.strip()


def identity(engine: Engine, image: str) -> str:
    """Return the id of an image; '' if it does not exist."""
    done = engine.docker("image", "inspect", image, "--format", "{{.Id}}")
    return done.out if done.ok else ""


def keep(engine: Engine, before: Mapping[str, str], tag: str) -> None:
    """Tag the new images with version and commit, and those `before` them with `previous`.

    If one image changed, the previous ones of all are tagged, including those that did not change:
    images that were in use together must go back together.
    """
    for image in before:
        engine.docker("tag", image, f"{_repository(image)}:{tag}")
    if any(was and was != identity(engine, image) for image, was in before.items()):
        for image, was in before.items():
            if was:
                engine.docker("tag", was, f"{_repository(image)}:{PREVIOUS}")


def _repository(image: str) -> str:
    return image.rpartition(":")[0]


def go_back(engine: Engine, settings: StackSettings, say: Callable[[str], None]) -> None:
    """Put the previous images back in use. Repeating this changes nothing more.

    The images that were in use keep the tag of their version and commit. Raises StackFailed.
    """
    ours = [
        image
        for image in named(settings).values()
        if re.fullmatch(r"acordo-[\w.-]+:(local|air)", image)
    ]
    if not ours:
        raise StackFailed(
            f"no image here was made by this checkout: name the one before in {settings.path}"
        )
    before = {image: identity(engine, f"{_repository(image)}:{PREVIOUS}") for image in ours}
    for image, was in before.items():  # all or none
        if not was:
            raise StackFailed(
                f"image {_repository(image)}:{PREVIOUS} is not there: no upgrade was made here "
                f"since {image} was; nothing was changed"
            )
    for image, was in before.items():
        if was == identity(engine, image):
            say(f"{image} is the one before already")
            continue
        done = engine.docker("tag", was, image)
        if not done.ok:
            raise StackFailed(
                f"{image} could not be named anew: {done.last(3)}. The same command goes on from "
                "here"
            )
        say(f"{image} is what {_repository(image)}:{PREVIOUS} is")
    if any(image.endswith(":local") for image in ours):
        say(
            "note: ./start.sh builds from the checkout: take the commit before there too, else it "
            "goes forward again"
        )


def say_age(engine: Engine, image: str, root: Path, say: Callable[[str], None]) -> None:
    """Print the age of an image that is not built at each start; warn if the code is newer."""
    done = engine.docker(
        "image", "inspect", image, "--format", "{{json .Metadata.LastTagTime}} {{.Created}}"
    )
    if not done.ok:
        return
    tagged, created = done.out.replace('"', "").split()[:2]
    made = datetime.fromisoformat(
        re.sub(r"\.\d+", "", tagged if tagged.startswith("20") else created)
    ).astimezone(UTC)
    paths = [root / "Dockerfile", root / "requirements-run.lock"]
    paths += [
        p
        for name in CODE
        for p in (root / name).rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    ]
    newer = next((p for p in paths if p.exists() and p.stat().st_mtime > made.timestamp()), None)
    when = made.isoformat(timespec="seconds").replace("+00:00", "Z")
    if newer is None:
        say(f"{image} is of {when}; make images makes it anew")
    else:
        say(
            f"warning: {image} is of {when}, and {newer.relative_to(root)} is newer: what runs may "
            "be older code; python -m cluster stack upgrade makes it anew and rolls it out"
        )


def fetch(engine: Engine, settings: StackSettings) -> None:
    """Pull the images that are missing. Raises StackFailed."""
    config = engine.compose("config")
    if not config.ok:
        raise StackFailed(
            f"docker-compose.yml cannot be used with {settings.path}: {config.last(5)}"
        )
    for image in sorted(set(re.findall(r"(?m)^ *image: *(\S+)", config.out))):
        # Compose 1.29 also lists images of profiles that are not enabled.
        if any(word in image and not chosen for word, chosen in _of_profiles(settings)) or identity(
            engine, image
        ):
            continue
        if image.endswith(":air") or image.startswith("acordo-air-"):
            raise StackFailed(f"image {image} is not there: make images")
        if not engine.docker("pull", "-q", image).ok:
            raise StackFailed(
                f"image {image} cannot be pulled; where no image registry is reached: make images, "
                f"remove {settings.path}, ./start.sh"
            )


def _of_profiles(settings: StackSettings) -> list[tuple[str, bool]]:
    profiles = settings.profiles
    return [
        ("cockroach", bool(profiles & {"crdb-dev", "crdb3-dev"})),
        ("grafana", "grafana" in profiles),
        ("postgres", "postgres" in profiles),
    ]
