"""The README says what is so."""

from __future__ import annotations

import re

from cluster.local.process import ROOT
from cluster.settings.loading import table
from cluster.settings.node import NodeSettings
from cluster.settings.runner import RunnerSettings

README = (ROOT / "README.md").read_text()


def test_the_tables_of_settings_are_those_of_the_code() -> None:
    """Mend with `python -m tests.unit.cluster.test_readme`."""
    assert written(README) == README


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
    """Return the README with its tables of settings made anew."""
    node = table(NodeSettings)
    own = [row for row in table(RunnerSettings).splitlines() if row not in node.splitlines()[2:]]
    for name, rows in (("node", node), ("runner", "\n".join(own))):
        begin, end = f"<!-- settings: {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(begin)
        text = before + begin + rows + "\n" + end + rest.partition(end)[2]
    return text


if __name__ == "__main__":
    (ROOT / "README.md").write_text(written(README))
