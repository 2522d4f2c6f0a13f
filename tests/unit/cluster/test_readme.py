"""The README and the page of settings say what is so."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap
from pathlib import Path

from cluster.local.process import ROOT
from cluster.settings.loading import table
from cluster.settings.node import NodeSettings
from cluster.settings.runner import RunnerSettings
from cluster.settings.worker import WorkerSettings

README = (ROOT / "README.md").read_text()
SETTINGS = ROOT / "docs" / "settings.md"
WORDS_MAX = 700


def test_it_is_read_in_three_minutes() -> None:
    assert len(README.split()) <= WORDS_MAX


def test_its_example_is_typed(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    imports, _, body = example.partition("\n\n")
    program = tmp_path / "example.py"
    indented = textwrap.indent(body, "    ")
    program.write_text(f"{imports}\n\n\nasync def example() -> None:\n{indented}")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(program)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tables_of_settings_are_those_of_the_code() -> None:
    """Mend with `python -m tests.unit.cluster.test_readme`."""
    text = SETTINGS.read_text()
    assert written(text) == text


def test_every_path_it_names_is_there() -> None:
    for path in re.findall(r"`((?:[a-z]+/)+[\w.]*)`", README):
        assert path.startswith("data/") or (ROOT / path).exists(), path


def test_every_make_target_it_names_is_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) | set(
        re.findall(r"`make ([a-z-]+)", README)
    )
    assert named <= targets


def written(text: str) -> str:
    """Return the page with its tables of settings made anew."""
    node = table(NodeSettings)
    shared = node.splitlines()[2:]
    runner, worker = (
        "\n".join(row for row in table(of).splitlines() if row not in shared)
        for of in (RunnerSettings, WorkerSettings)
    )
    for name, rows in (("node", node), ("runner", runner), ("worker", worker)):
        begin, end = f"<!-- settings: {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(begin)
        text = before + begin + rows + "\n" + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    SETTINGS.write_text(written(SETTINGS.read_text()))
