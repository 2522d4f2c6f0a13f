"""What a browser would fetch for a page: nothing from another place. `python -m docs.site.checks
DIRECTORY` looks at a built site, and leaves with 1 where it finds something.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

LOADS: Final = {
    "link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src",
    "video": "src", "audio": "src", "object": "data", "embed": "src",
    "image": "href", "use": "href",
}  # fmt: skip
"""Elements that a browser fetches something for, and the attribute that names it."""
ELSEWHERE: Final = re.compile(r"^(?:[a-z]+:)?//", re.IGNORECASE)
STYLES: Final = re.compile(r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]+)""")


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the element loads."""
        given = dict(attrs)
        target = given.get(LOADS.get(tag, "")) or given.get("xlink:href") or ""
        if tag != "a" and ELSEWHERE.match(target):
            self.found.append(target)
        self.found += STYLES.findall(given.get("style") or "")


def fetched_elsewhere(name: str, text: str) -> Iterator[str]:
    """Yield what a browser would ask another host for, because of this file of the site."""
    if name.endswith(".css"):
        yield from STYLES.findall(text)
    elif name.endswith(".svg"):
        yield from STYLES.findall(text)
        yield from re.findall(r"""(?:xlink:href|\shref)=["']((?:https?:)?//[^"']+)""", text)
    elif name.endswith(".html"):
        page = _Page()
        page.feed(text)
        yield from page.found
        for style in re.findall(r"<style.*?</style>", text, re.DOTALL):
            yield from STYLES.findall(style)


def main(directory: Path) -> int:
    """Name every such place; return the exit code."""
    pages = sorted(directory.rglob("*.html"))
    files = [*pages, *directory.rglob("*.css"), *directory.rglob("*.svg")]
    found = [
        f"{path.relative_to(directory)}: {target}"
        for path in files
        for target in fetched_elsewhere(path.name, path.read_text())
    ]
    for line in found:
        print(f"error: fetched from another place: {line}", file=sys.stderr)
    if not pages:
        print(f"error: no pages in {directory}", file=sys.stderr)
    print(f"{len(pages)} pages in {directory}; they ask nobody else for anything")
    return int(bool(found) or not pages)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
