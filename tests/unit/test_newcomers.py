"""What a newcomer is given works: files that parse, and nothing named that is not there."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from tests.unit.test_references import ROOT, files

KIT: Final = (
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    ".editorconfig",
    ".pre-commit-config.yaml",
    ".github/PULL_REQUEST_TEMPLATE.md",
    ".github/ISSUE_TEMPLATE/bug.yml",
    ".github/ISSUE_TEMPLATE/fault.yml",
    ".github/ISSUE_TEMPLATE/proposal.yml",
    ".github/workflows/ci.yml",
)
TARGETS: Final = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
FORMS: Final = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def parsed(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def fenced(page: str) -> Iterator[str]:
    """Yield the commands in the fences of a document."""
    for block in re.findall(r"```sh\n(.*?)```", (ROOT / page).read_text(), re.S):
        yield from (line for line in block.splitlines() if line and not line.startswith("#"))


@pytest.mark.parametrize("name", KIT)
def test_the_kit_is_whole(name: str) -> None:
    assert (ROOT / name).read_text().strip()


def test_what_is_yaml_parses() -> None:
    templates = ROOT / "deploy" / "helm" / "acordo" / "templates"  # YAML once they are rendered
    for path in (*files(".yml", ".yaml"), ROOT / ".pre-commit-config.yaml", *FORMS):
        if not path.is_relative_to(templates):
            assert None not in list(yaml.safe_load_all(path.read_text())), path


def test_every_command_in_a_fence_is_there() -> None:
    commands = list(fenced("CONTRIBUTING.md"))
    assert len(commands) >= 4
    for command in commands:
        program, *arguments = shlex.split(command, comments=True)
        assert program == "make", command
        assert arguments[0] in TARGETS, command


def test_every_file_that_the_kit_names_is_there() -> None:
    """Those that begin with a point, and those of the root: test_references.py holds the others."""
    for page in ("CONTRIBUTING.md", "SECURITY.md", ".github/PULL_REQUEST_TEMPLATE.md"):
        text = (ROOT / page).read_text()
        for name in re.findall(r"`(\.[a-z][\w./-]*|[\w-]+\.(?:md|toml|in|lock|sh|yml))`", text):
            assert name == "DESIGN.md" or (ROOT / name).exists(), f"{page}: {name}"


def test_options_of_the_makefile_are_there() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for name in re.findall(r"`[^`]*\b([A-Z_]{1,20})=", (ROOT / "CONTRIBUTING.md").read_text()):
        assert re.search(rf"\$\([^)]*\b{name}\b", makefile) or name == "REWRITE", name


def test_a_form_has_what_the_hosting_site_wants() -> None:
    for path in (each for each in FORMS if each.name != "config.yml"):
        form = parsed(path)
        assert form["name"] and form["description"], path
        asked = [part for part in form["body"] if part["type"] != "markdown"]
        ids = [part["id"] for part in asked]
        assert len(ids) == len(set(ids)), path
        assert all(part["attributes"]["label"] for part in asked), path


def test_a_form_names_commands_that_are_there() -> None:
    said = " ".join(path.read_text() for path in FORMS)
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)", said)) <= TARGETS
    for module in re.findall(r"python -m (\w+)", said):
        assert (ROOT / module / "__main__.py").exists(), module


def test_hooks_call_make_targets() -> None:
    for repository in parsed(ROOT / ".pre-commit-config.yaml")["repos"]:
        assert repository["repo"] == "local"
        for hook in repository["hooks"]:
            program, target, *_ = shlex.split(hook["entry"])
            assert program == "make" and target in TARGETS, hook["id"]


def test_the_hosted_checks_are_ci_run_and_nothing_else() -> None:
    (job,) = parsed(ROOT / ".github" / "workflows" / "ci.yml")["jobs"].values()
    *before, last = [step["run"].strip() for step in job["steps"] if "run" in step]
    assert last == ".ci/run" and (ROOT / ".ci" / "run").stat().st_mode & 0o111
    assert all(
        line.split()[0] in {"apt-get", "git"} for step in before for line in step.splitlines()
    ), "what is needed is brought, nothing is checked"


def test_the_editors_rules_are_those_of_the_linter() -> None:
    rules = configparser.ConfigParser()
    rules.read_string("[top]\n" + (ROOT / ".editorconfig").read_text())
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert rules["*.{py,pyi}"]["max_line_length"] == str(ruff["line-length"])


def test_the_newest_release_is_the_version() -> None:
    titles = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert titles[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", each) for each in titles[1:])
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert titles[1].split()[0] == version
    nodes = re.findall(r'^    version: str = "(.+)"', (ROOT / "node/settings.py").read_text(), re.M)
    assert nodes == [version], "nodes say the same"
