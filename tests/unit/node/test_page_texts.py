"""The page's texts: every id stands in both languages, is used, and holds the same names."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[3] / "node" / "page"
TABLE = re.compile(r'addStrings\("(en|pt)", \{\n(.*?)\n\}\);', re.DOTALL)
TEXT = re.compile(r'^ +"([\w.-]+)": (".*"),$', re.MULTILINE)
USED = re.compile(r'data-t(?:-placeholder|-label)?="([\w.-]+)"|"([\w-]+(?:\.[\w-]+)+|[\w-]+)"')
BEGINNING = re.compile(r"\bt\(`([\w.-]+\.)\$\{")
ASKED = re.compile(r'\bt\("([\w.-]+)"|data-t(?:-placeholder|-label)?="([\w.-]+)"')


def sources() -> str:
    """All of the page but the tables themselves."""
    files = [file for suffix in ("html", "js") for file in sorted(PAGE.glob(f"*.{suffix}"))]
    return "\n".join(TABLE.sub("", file.read_text()) for file in files)


def tables() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {"en": {}, "pt": {}}
    for file in sorted(PAGE.glob("*.js")):
        for language, body in TABLE.findall(file.read_text()):
            texts = TEXT.findall(body)
            lines = [line for line in body.splitlines() if line.strip() and "//" not in line]
            assert len(texts) == len(lines), (file.name, language)
            for name, text in texts:
                assert name not in found[language], f"{name} stands twice in {language}"
                found[language][name] = text
    return found


def test_every_text_stands_in_both_languages() -> None:
    found = tables()
    assert found["en"].keys() == found["pt"].keys()
    for name, text in found["en"].items():
        names = [set(re.findall(r"\{\w+\}", each)) for each in (text, found["pt"][name])]
        assert names[0] == names[1], name


def test_no_text_is_missing_and_none_is_unused() -> None:
    known, used = set(tables()["en"]), sources()
    asked = {one or other for one, other in ASKED.findall(used)}
    assert asked - known == set()
    named = {one or other for one, other in USED.findall(used)}
    begun = tuple(BEGINNING.findall(used))
    assert {name for name in known - named if not name.startswith(begun)} == set()
