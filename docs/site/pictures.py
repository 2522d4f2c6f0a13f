"""Draw the pictures of docs/how-it-works.md: `python -m docs.site.pictures` writes them as SVG.

They follow the reader's light or dark setting, and load nothing.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parents[1] / "pictures"
STYLE: Final = (
    ":root{--paper:#fff;--ink:#1c2330;--quiet:#667085;--line:#98a2b3;--box:#eef2f7;--lead:#dbe6f7;"
    "--lead-edge:#2f5fae;--good:#cfe3d4;--good-edge:#2f7d4f;--bad:#f6c9c6;--bad-edge:#b42318}"
    "@media(prefers-color-scheme:dark){:root{--paper:#14181f;--ink:#e6e9ef;--quiet:#98a2b3;"
    "--line:#667085;--box:#232a35;--lead:#22324d;--lead-edge:#7fa8ea;--good:#1f4030;"
    "--good-edge:#5fbf86;--bad:#5a211d;--bad-edge:#ff8177}}"
    "text{font:14px system-ui,sans-serif;fill:var(--ink)}.q{fill:var(--quiet);font-size:12.5px}"
    ".b{font-weight:700}.box{fill:var(--box);stroke:var(--line)}.lead{fill:var(--lead);"
    "stroke:var(--lead-edge)}.good{fill:var(--good);stroke:var(--good-edge)}.bad{fill:var(--bad);"
    "stroke:var(--bad-edge)}.l{stroke:var(--line);fill:none}.d{stroke:var(--line);"
    "stroke-dasharray:4 4;fill:none}.a{stroke:var(--ink);fill:none;stroke-width:1.4}"
    ".h{fill:var(--ink)}.paper{fill:var(--paper)}"
)
HEAD: Final = (
    '<marker id="h" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto-start-reverse"><path class="h" d="M0 0L8 4L0 8z"/></marker>'
)


class Picture:
    """One picture: what is drawn on it, in order, and a title for those who do not see it."""

    def __init__(self, name: str, title: str, width: int, height: int) -> None:
        self.name, self.title = name, title
        self.width, self.height = width, height
        self.parts: list[str] = []

    def box(  # noqa: PLR0917 - where it is, how large, what it says: as one writes it down
        self, x: float, y: float, w: float, h: float, text: str = "", kind: str = "box"
    ) -> None:
        """Draw a box with its text in the middle; a line break begins a new line."""
        self.parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" rx="6"/>')
        lines = text.split("\n") if text else []
        top = y + h / 2 - 9 * (len(lines) - 1) + 5
        for n, line in enumerate(lines):
            self.text(x + w / 2, top + 18 * n, line, anchor="middle")

    def text(self, x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> None:
        """Write a line of text."""
        self.parts.append(
            f'<text class="{kind}" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'
        )

    def arrow(
        self, x1: float, y1: float, x2: float, y2: float, text: str = "", *, up: float = 6
    ) -> None:
        """Draw an arrow, with a text above its middle."""
        self.parts.append(
            f'<line class="a" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" marker-end="url(#h)"/>'
        )
        if text:
            self.text((x1 + x2) / 2, (y1 + y2) / 2 - up, text, "q", "middle")

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str = "l") -> None:
        """Draw a line."""
        self.parts.append(f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>')

    def svg(self) -> str:
        """Return the file."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'role="img"><title>{escape(self.title)}</title><style>{STYLE}</style>'
            f"<defs>{HEAD}</defs>"
            f'<rect class="paper" width="{self.width}" height="{self.height}"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def write() -> Picture:
    """Draw the way of a write through three members."""
    p = Picture(
        "write", "A write: any node, the leader, the disks of a majority, the answer", 860, 430
    )
    lanes = {"client": 90, "n2": 300, "n1, the leader": 530, "n3": 760}
    for name, x in lanes.items():
        kind = "lead" if "leader" in name else "box"
        p.box(x - 70, 16, 140, 36, name, kind)
        p.line(x, 52, x, 376, "d")
    p.arrow(90, 86, 296, 86, "PUT colour = blue, op_id")
    p.arrow(300, 118, 526, 118, "submit: all that is queued")
    p.box(470, 132, 120, 34, "log, synced", "good")
    p.arrow(530, 190, 304, 190, "append")
    p.arrow(530, 190, 756, 190, "append")
    p.box(240, 204, 120, 34, "log, synced", "good")
    p.box(700, 204, 120, 34, "log, synced", "good")
    p.arrow(300, 258, 526, 258, "it is on my disk")
    p.text(540, 254, "two of three: ordered, revision 7", "q")
    p.arrow(530, 290, 304, 290, "committed up to here")
    p.arrow(530, 290, 756, 290, "committed up to here")
    for x in (300, 530, 760):
        p.box(x - 74, 304, 148, 34, "evaluate, settle")
    p.arrow(300, 366, 94, 366, "200, revision 7")
    p.text(300, 402, "each member's file, behind the answers", "q", "middle")
    p.text(760, 402, "watchers are told", "q", "middle")
    return p


def failover() -> Picture:
    """Draw what happens when the leader dies."""
    p = Picture(
        "failover", "A fail-over: the leader dies, another is elected, writes go on", 860, 330
    )
    for n, name in enumerate(("n1", "n2", "n3")):
        p.text(16, 66 + 64 * n, name, "b")
        p.line(60, 61 + 64 * n, 840, 61 + 64 * n, "d")
    p.box(60, 44, 250, 34, "leads, term 3", "lead")
    p.box(310, 44, 190, 34, "dead", "bad")
    p.box(640, 44, 200, 34, "follows, catches up")
    p.box(500, 44, 140, 34, "starts again")
    p.box(60, 108, 420, 34, "follows")
    p.box(480, 108, 360, 34, "leads, term 4", "lead")
    p.box(60, 172, 780, 34, "follows")
    for x in (120, 180, 240, 300):
        p.arrow(x, 78, x, 106)
    p.text(322, 98, "silence: 0.3 to 0.6 s", "q")
    p.arrow(450, 142, 450, 170)
    p.arrow(466, 172, 466, 144)
    p.text(474, 162, "vote for me · yes, your log is as new as mine", "q")
    p.text(6, 259, "writes", "b")
    p.box(60, 240, 254, 30, "acknowledged", "good")
    p.box(314, 240, 206, 30, "none: they wait", "bad")
    p.box(520, 240, 320, 30, "acknowledged", "good")
    p.text(
        60,
        304,
        "A client's write waits and is asked again under the same op_id. "
        "Nothing that was acknowledged is lost.",
        "q",
    )
    return p


def cache() -> Picture:
    """Draw how a cached entry is judged."""
    p = Picture(
        "cache", "Judging a cached entry by the revision that touched its key last", 860, 360
    )
    p.text(16, 30, "The log's order, as every member knows it", "b")
    for n in range(1, 11):
        x = 40 + 78 * (n - 1)
        touched = n in (3, 8)
        p.box(
            x, 44, 70, 44, f"rev {n}\n{'colour' if touched else '·'}", "lead" if touched else "box"
        )
    p.text(16, 124, "A cache holds: colour = blue, as of revision 5", "b")
    p.box(40, 138, 382, 26, "", "good")
    p.text(52, 156, "touched last at 3, and 3 ≤ 5: right for a read at 5, 6 or 7", "q")
    p.line(430, 136, 430, 256, "d")
    p.text(16, 202, "A read at revision 7", "b")
    p.box(40, 214, 382, 34, "nothing touched it in (5, 7]: serve it", "good")
    p.text(446, 202, "A read at revision 9", "b")
    p.box(446, 214, 382, 34, "8 touched it, and 8 > 5: read the store", "bad")
    p.text(
        16,
        290,
        "Which revisions touched a key is known from the log, in order, before anybody is "
        "told that a write is done.",
        "q",
    )
    p.text(
        16,
        312,
        "So it does not matter whether the cache was told, wiped, restored, or filled "
        "too late: a wrong entry is not served.",
        "q",
    )
    return p


def stores() -> Picture:
    """Draw the two kinds of store."""
    p = Picture("stores", "Two kinds of store: each member's own, or one that is shared", 860, 300)
    p.text(215, 30, "each member's own (the default)", "b", "middle")
    p.text(645, 30, "one that is shared", "b", "middle")
    for n in range(3):
        x = 30 + 130 * n
        p.box(x, 50, 110, 40, f"n{n + 1}", "lead" if n == 0 else "box")
        p.arrow(x + 55, 90, x + 55, 126)
        p.box(x, 128, 110, 34, "log", "good")
        p.arrow(x + 55, 162, x + 55, 198)
        p.box(x, 200, 110, 34, "file", "good")
    p.text(215, 270, "acknowledged: in the logs of a majority", "q", "middle")
    p.line(430, 20, 430, 280, "d")
    for n in range(3):
        x = 460 + 130 * n
        p.box(x, 50, 110, 40, f"n{n + 1}", "lead" if n == 0 else "box")
        p.arrow(x + 55, 90, x + 55, 126)
        p.box(x, 128, 110, 34, "log")
    p.arrow(515, 162, 590, 198)
    p.box(540, 200, 210, 34, "PostgreSQL", "good")
    p.text(645, 270, "acknowledged: committed there, by the leader", "q", "middle")
    return p


PICTURES: Final = (write, failover, cache, stores)


def main() -> None:
    """Write all of them."""
    for draw in PICTURES:
        picture = draw()
        (HERE / f"{picture.name}.svg").write_text(picture.svg())


if __name__ == "__main__":
    main()
