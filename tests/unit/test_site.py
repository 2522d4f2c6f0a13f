"""The site of docs/: what it holds, and that its pages ask nobody else for anything."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

import acordo
import acordo.recipes
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
    names = {*acordo.__all__, *(f"recipes.{name}" for name in acordo.recipes.__all__)}
    assert set(re.findall(r"^### ([\w.]+)$", python, re.M)) == names
    named = set(re.findall(r"^#+ acordo (\S+)$", cli, re.M))
    assert named >= set(COMMANDS)
    assert set(re.findall(r"^### ([A-Z]+) (/\S*)$", http, re.M)) == {(m, p) for p, m in ALL}


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


def test_every_decision_is_listed() -> None:
    adr = ROOT / "docs" / "adr"
    listed = re.findall(r"\]\((\d{4}-[\w-]+)\.md\)", (adr / "README.md").read_text())
    assert listed == sorted(path.stem for path in adr.glob("0*.md")), "docs/adr/README.md"


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
            elif name.startswith("recipes."):
                assert hasattr(acordo.recipes, name.removeprefix("recipes.")), name
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


def code_of(page: Path) -> list[str]:
    return re.findall(r"^```\w+\n.*?^```", page.read_text(), re.M | re.S)


def test_the_readme_in_portuguese_keeps_step() -> None:
    english, portuguese = ROOT / "README.md", ROOT / "README.pt-BR.md"
    assert code_of(english) == code_of(portuguese), "the same commands, programs and output"
    for form in (r"^#+ ", r"^\| ", r"^\* ", r"^!\["):
        counts = [len(re.findall(form, page.read_text(), re.M)) for page in (english, portuguese)]
        assert counts[0] == counts[1], form
    links = [
        set(re.findall(r"\]\((?!README)([^)\s]+)\)", page.read_text()))
        for page in (english, portuguese)
    ]
    assert links[0] == links[1]


def test_what_is_said_to_language_models_leads_somewhere() -> None:
    text = (ROOT / "llms.txt").read_text()
    assert text.startswith("# Acordo\n\n> ")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 15
    assert not [link for link in links if not (ROOT / link).exists()]
    paths = {re.sub(r"\{\w+\}", "{}", path) for path, _ in ALL}
    for path in re.findall(r"(?:GET|PUT|POST) (/[\w/{}]+)", text):
        assert re.sub(r"\{\w+\}", "{}", path) in paths, path
    for name in re.findall(r"`(Sync)?Client`", text):
        assert hasattr(acordo, f"{name}Client")


def test_the_page_of_releases_names_what_is_made() -> None:
    page, version = (ROOT / "docs" / "releases.md").read_text(), generated.version()
    for name in (f"acordo-{version}-py3-none-any.whl", f"acordo-node:{version}"):
        assert name in page
    manifests = (ROOT / "deploy" / "kubernetes" / "members.yaml").read_text()
    assert f"image: acordo-node:{version}" in manifests
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {"cli", "server", "cert"} <= set(project["optional-dependencies"])
