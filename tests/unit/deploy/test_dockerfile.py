"""What the Dockerfile's commands do where something goes wrong, run by the shell without an
engine.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from deploy.images import _reproducible, main

DOCKERFILE = (Path(__file__).parents[3] / "Dockerfile").read_text()
FAKE = '#!/bin/sh\necho "${0##*/}" >> "$CALLS"\n'


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return the instructions of every stage, each with what it is given."""
    text = re.sub(r"(?m)^\s*#.*\n", "", DOCKERFILE).replace("\\\n", " ")
    found: dict[str, list[tuple[str, str]]] = {}
    for line in filter(str.strip, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found[rest.rpartition(" AS ")[2]] = []
        elif found:
            found[list(found)[-1]].append((word, rest.strip()))
    return found


def first_command(stage: str) -> str:
    return next(rest for word, rest in stages()[stage] if word == "RUN")


def run(command: str, folder: Path, *, tini: bool, apt: int) -> tuple[int, list[str]]:
    """Run a command of the Dockerfile where nothing is real; return its exit code and what it
    called.
    """
    programs = {"apt-get": f"exit {apt}\n", "useradd": "", "install": "", "rm": ""}
    for name, rest in (programs | ({"tini": ""} if tini else {})).items():
        (folder / name).write_text(FAKE + rest)
        (folder / name).chmod(0o755)
    calls = folder / "calls"
    calls.write_text("")
    environ = {"PATH": str(folder), "CALLS": str(calls)}
    done = subprocess.run(
        ["/bin/sh", "-c", command], env=environ, capture_output=True, text=True, check=False
    )
    return done.returncode, calls.read_text().split()


@pytest.mark.parametrize("stage", ["node", "nginx"])
def test_an_install_that_fails_fails_the_build(stage: str, tmp_path: Path) -> None:
    code, _ = run(first_command(stage), tmp_path, tini=False, apt=100)
    assert code != 0


@pytest.mark.parametrize("tini", [True, False])
def test_the_nodes_user_is_made_with_and_without_an_install(tini: bool, tmp_path: Path) -> None:
    code, calls = run(first_command("node"), tmp_path, tini=tini, apt=0)
    assert code == 0
    assert calls[-2:] == ["useradd", "install"]
    assert ("apt-get" in calls) is not tini


@pytest.mark.parametrize("stage", ["node", "nginx"])
def test_the_code_is_readable_whatever_the_umask_of_the_checkout(stage: str) -> None:
    instructions = stages()[stage]
    last_copy = max(n for n, (word, _) in enumerate(instructions) if word == "COPY")
    after = [rest for word, rest in instructions[last_copy:] if word == "RUN"]
    assert any("chmod -R a+rX /app" in rest for rest in after)
    assert instructions[-1][0] == "CMD" and any(word == "USER" for word, _ in instructions)


def test_what_is_sent_to_be_built_does_not_follow_the_umask(tmp_path: Path) -> None:
    for name, closed in (("a.py", 0o600), ("a.sh", 0o700), ("folder", 0o700)):
        path = tmp_path / name
        path.mkdir() if name == "folder" else path.write_text("")
        path.chmod(closed)
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as tar:
        tar.add(tmp_path, arcname=".", filter=_reproducible)
        modes = {member.name: member.mode for member in tar.getmembers()}
    assert modes == {".": 0o755, "./a.py": 0o644, "./a.sh": 0o755, "./folder": 0o755}


@pytest.mark.parametrize("fresh", [True, False])
def test_fresh_images_use_no_layer_of_before(fresh: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cached layers hold the distribution's packages as they were when the image was first made."""
    asked: list[dict[str, Any]] = []

    class Engine:
        def __init__(self) -> None:
            self.api = self.images = self

        def get(self, name: str) -> None: ...

        def build(self, **how: Any) -> list[dict[str, str]]:
            asked.append(how)
            return []

    monkeypatch.setattr("docker.from_env", lambda timeout: Engine())
    assert main(["redis", "postgres", *(["--fresh"] if fresh else [])]) == 0
    assert [(how["target"], how["nocache"]) for how in asked] == [
        ("redis", fresh),
        ("postgres", fresh),
    ]


def test_no_container_leaves_an_anonymous_volume_behind() -> None:
    for stage, instructions in stages().items():
        assert not any(word == "VOLUME" for word, _ in instructions), stage
