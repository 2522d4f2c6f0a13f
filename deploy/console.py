"""Generate the live page that Prometheus serves from the dashboard's panels: `python -m
deploy.console`.

It is for machines without Grafana: /consoles/acordo.html of the stack's Prometheus. This module
defines no query of its own.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from deploy.dashboard import overlays, panels

TEMPLATE: Final = Path(__file__).parent / "prometheus" / "console.html"
CONSOLE: Final = Path(__file__).parent / "prometheus" / "consoles" / "acordo.html"
MARK: Final = "/* panels */ null"


def made() -> str:
    """Return the page. Prometheus reads it as a template, in which two opening braces start a
    command.
    """
    what = {
        "panels": [
            {
                "title": p.title,
                "unit": p.unit,
                "queries": [[q.expression, q.legend] for q in p.queries],
            }
            for p in panels()
        ],
        "overlay": overlays()[0].expression,
    }
    page = TEMPLATE.read_text().replace(
        MARK, json.dumps(what, indent=1).replace("{{", r"\u007b\u007b")
    )
    if "{{" in page:
        raise ValueError("the page holds what Prometheus would take for a command")
    return page


if __name__ == "__main__":
    CONSOLE.parent.mkdir(exist_ok=True)
    CONSOLE.write_text(made())
    sys.exit(0)
