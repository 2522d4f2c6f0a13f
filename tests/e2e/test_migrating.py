"""Every new call of the tables in docs/migrating.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import acordo
from acordo import SyncClient

PAGE = (Path(__file__).parents[2] / "docs" / "migrating.md").read_text()
IMPORTS = "\n".join(
    line
    for line in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0].splitlines()
    if line.startswith("from ")
)
ROW = re.compile(r"^\| .* \| `([^`]+)` \|$", re.MULTILINE)
TABLES = {part.partition("\n")[0]: ROW.findall(part) for part in PAGE.split("\n## From ")[1:]}


@pytest.fixture(scope="module")
def node(acordo_node: acordo.Embedded) -> Any:
    with SyncClient(acordo_node.urls) as client:
        yield client


@pytest.mark.parametrize("name", TABLES)
def test_the_new_calls_run(name: str, node: SyncClient) -> None:
    names: dict[str, Any] = {"client": node}
    exec(IMPORTS, names)  # noqa: S102 - the page is ours
    rows = PAGE.partition(f"## From {name}\n")[2].partition("\n## ")[0]
    assert len(TABLES[name]) == sum(row.startswith("| `") for row in rows.splitlines())
    assert len(TABLES[name]) > 10
    for call in TABLES[name]:
        try:
            exec(call, names)  # noqa: S102 - the page is ours
        except Exception as exc:  # noqa: BLE001 - whatever it is, it names the row
            pytest.fail(f"{call}: {exc!r}")
