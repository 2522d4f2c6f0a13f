"""Prose keeps within its columns: two versions beside each other are read without scrolling."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from tests.unit.test_references import ROOT, files

COLUMNS: Final = 100


def too_wide(text: str) -> Iterator[tuple[int, str]]:
    """Yield the lines of a document that could be shorter: tables, fenced code, and what holds a
    link or a URL could not.
    """
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*(```|~~~)", line):
            fenced = not fenced
        elif fenced or line.lstrip().startswith("|") or len(line) <= COLUMNS:
            continue
        elif not re.search(r"\]\([^)]{40,}\)|\w+://\S{40,}", line):
            yield number, line


def test_prose_is_wrapped() -> None:
    wide = [
        f"{path.relative_to(ROOT)}:{number}: {len(line)} columns"
        for path in files(".md")
        for number, line in too_wide(path.read_text())
    ]
    assert not wide


def test_a_wide_line_is_found_and_what_cannot_be_wrapped_is_not() -> None:
    wide = "word " * 21
    url = f"see https://example.org/{'a' * 90}"
    text = f"{wide}\n\n| {wide} |\n```sh\n{wide}\n```\n{url}\n  * {wide}\n"
    assert [number for number, _ in too_wide(text)] == [1, 8]
