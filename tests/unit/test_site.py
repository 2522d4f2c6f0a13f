"""The site of docs/: what it holds, and that its pages ask nobody else for anything."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

import acordo
from acordo._cli.main import COMMANDS
from docs.site import checks, generated, pictures
from node.api.openapi.document import ALL

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("a.html", '<link rel="stylesheet" href="https://x.example/a.css">', 1),
        ("a.html", '<script src="//x.example/a.js"></script>', 1),
        ("a.html", '<p style="background: url(http://x.example/a.png)">', 1),
        ("a.html", "<style>@import 'https://x.example/a.css';</style>", 1),
        ("a.css", "@font-face { src: url(https://x.example/a.woff2) }", 1),
        ("a.svg", '<svg><image href="https://x.example/a.png"/></svg>', 1),
        ("a.html", '<a href="https://x.example/">x</a><img src="a.png">', 0),
        ("a.css", "a { background: url('data:image/svg+xml,<svg xmlns=\"http://w3\">') }", 0),
    ],
)
def test_what_a_page_fetches_elsewhere_is_found(name: str, text: str, found: int) -> None:
    assert len(list(checks.fetched_elsewhere(name, text))) == found


def test_a_site_without_pages_is_not_taken_for_a_good_one(tmp_path: Path) -> None:
    assert checks.main(tmp_path) == 1


def test_the_references_hold_everything_that_there_is() -> None:
    python, cli, http = ("\n".join(make()) for make in generated.PARTS.values())
    assert set(re.findall(r"^### (\w+)$", python, re.M)) == set(acordo.__all__)
    named = set(re.findall(r"^#+ acordo (\S+)$", cli, re.M))
    assert named >= set(COMMANDS)
    assert set(re.findall(r"^## ([A-Z]+) (/\S*)$", http, re.M)) == {(m, p) for p, m in ALL}


def test_every_page_has_its_place_in_the_menu() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    named = set(re.findall(r"^([\w./-]+)$", index, re.M))
    there = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert not there - named, "enter the page in a toctree of docs/index.md"


@pytest.mark.parametrize("draw", pictures.PICTURES)
def test_a_picture_is_as_it_was_drawn(draw: Callable[[], pictures.Picture]) -> None:
    """Mend with `python -m docs.site.pictures`."""
    picture = draw()
    path = pictures.HERE / f"{picture.name}.svg"
    assert path.read_text() == picture.svg()
    assert not list(checks.fetched_elsewhere(path.name, picture.svg()))
    assert f"pictures/{picture.name}.svg" in (ROOT / "docs" / "how-it-works.md").read_text()


def test_what_a_newcomer_from_elsewhere_is_shown_is_there() -> None:
    page = (ROOT / "docs" / "coming-from.md").read_text()
    commands = set(re.findall(r"^#+ acordo (.+)$", "\n".join(generated.commands()), re.M))
    options = set(re.findall(r"(--[a-z-]+)", "\n".join(generated.commands())))
    paths = {path for path, _ in ALL}
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", page, re.M)
    rows = [row for row in rows if not row[0].startswith("---") and row[1] != "here"]
    assert len(rows) > 60
    named = 0
    for _, here in rows:
        for name in re.findall(r"`([^`]+)`", here):
            if name.startswith("client."):
                assert hasattr(acordo.Client, name.removeprefix("client.")), name
            elif name.startswith("acordo "):
                assert name.removeprefix("acordo ") in commands, name
            elif name.startswith("GET "):
                assert name.removeprefix("GET ") in paths, name
            elif name.startswith("--"):
                assert name in options, name
            else:
                continue
            named += 1
    assert named > 70
