"""Read docs/deploy.md: which commands it gives, and on which machines they run.

A comment before each fence says where: `<!-- on: n1 n2 -->` on these machines at the same time,
with `, one after another` in turn. A comment without a fence, `<!-- on: n4, as in: 4 5 -->`, stands
for what sections 4 and 5 have every machine do. It must run nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

PAGE: Final = Path(__file__).parents[2] / "docs" / "deploy.md"
DESK: Final = "desk"
_PART: Final = re.compile(
    r"^## (?P<section>\d+)\. [^\n]*$"
    r"|^<!-- on: (?P<on>[\w ]+?)(?P<turns>, one after another)?(, as in: (?P<like>[\d ]+))? -->\n"
    r"|^```sh\n(?P<script>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """Commands that the page gives, and where they run."""

    section: int
    hosts: tuple[str, ...]
    in_turn: bool
    script: str


def blocks(text: str) -> list[Block]:
    """Return the commands of the page in their order. Raises ValueError where it does not say on
    which machine they run, or names a machine for nothing.
    """
    found: list[Block] = []
    section, where = 0, None
    for part in _PART.finditer(text):
        if part["section"]:
            section = int(part["section"])
        elif part["on"]:
            if where is not None:
                raise ValueError(f"no commands follow {where[0]!r}")
            where = part
            if part["like"]:
                wanted = {int(number) for number in part["like"].split()}
                hosts = tuple(part["on"].split())
                again = [b for b in found if b.section in wanted and len(b.hosts) > 1]
                found += [Block(section, hosts, False, b.script) for b in again]
                where = None
        else:
            if where is None:
                raise ValueError(f"it does not say where this runs:\n{part['script']}")
            hosts = tuple(where["on"].split())
            found.append(Block(section, hosts, bool(where["turns"]), part["script"]))
            where = None
    return found
