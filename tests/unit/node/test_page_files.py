"""The page's files: small, of this node alone, and in two languages."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "node" / "page"
BYTES_MAX = 250_000
VIEWER = ("docs.", "swagger-ui")
"""The viewer of the API, which is a page of its own."""


def test_the_page_is_small_and_asks_nobody_else() -> None:
    files = [path for path in PAGE.rglob("*") if path.is_file()]
    page = [path for path in files if not path.name.startswith(VIEWER)]
    assert sum(path.stat().st_size for path in page) <= BYTES_MAX
    own = [path for path in files if path.suffix in (".js", ".html", ".css")]
    own = [path for path in own if "vendor" not in path.parts]
    foreign = [
        (path.name, url)
        for path in own
        for url in re.findall(r"https?://[\w.-]+", path.read_text())
        if not url.startswith("http://www.w3.org")  # names of namespaces
    ]
    assert foreign == []


def test_every_text_is_there_in_both_languages() -> None:
    for path in PAGE.glob("*.js"):
        tables = {
            language: set(re.findall(r'^  "([\w.-]+)": ', body, re.MULTILINE))
            for language, body in re.findall(
                r'addStrings\("(en|pt)", \{\n(.*?)^\}\);',
                path.read_text(),
                re.MULTILINE | re.DOTALL,
            )
        }
        assert tables.get("en") == tables.get("pt"), path.name
