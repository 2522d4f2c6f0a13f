"""Every block of the guide's pages runs, in the order of its page, against one local cluster."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from cluster.ports import free_base_port
from tests.e2e.guide_blocks import ROOT, Block, Cluster, Reader, blocks, missing

PAGES: Final = (
    "docs/guide.md",  # first: it reads revision 1
    "README.md",
    "docs/python.md",
    "docs/recipes.md",
    "docs/tutorial.md",  # last: it replaces a member
)
ELSEWHERE: Final = {
    "docs/deploy.md": "tests/hosts/test_deploy_page.py",
    "docs/operations.md": "tests/e2e/test_backup.py",
    "docs/migrating.md": "tests/e2e/test_migrating.py",
    "docs/security.md": "tests/unit/raft/net/test_security_page.py",  # those about certificates
    "docs/runbook.md": "tests/unit/deploy/test_runbook.py",  # its NODE is yours
    "docs/chaos.md": "tests/e2e/test_chaos_command.py",  # it takes minutes, as a whole
}
"""Pages whose commands are another test's, and which."""
NOT_RUN_MAX: Final = 8
"""Most blocks that say why they are not run. More need more than a reason each."""
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    base_port = free_base_port(3, 23000 + os.getpid() % 900 * 10)
    with Cluster(tmp_path_factory.mktemp("guide"), base_port) as running:
        yield running


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_the_page_runs(page: str, cluster: Cluster) -> None:
    found = blocks(ROOT / page)
    assert any(block.is_program for block in found), "a page of the guide shows how"
    with Reader(cluster) as reader:
        for block in found:
            reader.follow(block)


def programs() -> list[Block]:
    return [block for page in PAGES for block in blocks(ROOT / page) if block.is_program]


def test_what_is_not_run_says_why_and_is_counted(
    record_property: Callable[[str, object], None],
) -> None:
    left_out = [block for block in programs() if block.says == "not run"]
    for block in left_out:
        print(f"not run: {block.place}: {block.argument}")
        assert len(block.argument) > 15, f"{block.place}: why?"
    record_property("blocks", len(programs()))
    record_property("blocks_not_run", len(left_out))
    assert len(left_out) <= NOT_RUN_MAX


def test_a_fence_of_the_guide_is_in_a_language_that_is_known() -> None:
    known = {"python", "sh", "text", "json", "mermaid", "toml", "yaml", "ini"}
    for page in PAGES:
        for block in blocks(ROOT / page):
            assert block.language in known, f"{block.place}: {block.language!r}"


def test_no_page_shows_what_nobody_runs() -> None:
    for path in sorted((ROOT / "docs").glob("*.md")):
        name = f"docs/{path.name}"
        if name not in PAGES and any(block.is_program for block in blocks(path)):
            assert (ROOT / ELSEWHERE.get(name, "nobody")).is_file(), f"{name}: enter it in PAGES"


def written(tmp_path: Path, text: str) -> list[Block]:
    page = tmp_path / "page.md"
    page.write_text(text)
    return blocks(page)


def test_what_the_comments_say_is_read(tmp_path: Path) -> None:
    page = (
        "<!-- not run: it has no ground -->\n```sh\nfalse\n```\n\n"
        "```python\nx = 1\n```\n<!-- output -->\n```text\n1\n```\n"
        "<!-- until: put -->\n\n```sh\ntrue\n```\n"
    )
    found = written(tmp_path, page)
    assert [(b.says, b.argument) for b in found] == [
        ("not run", "it has no ground"), ("", ""), ("output", ""), ("", ""),
    ]  # fmt: skip
    assert [b.language for b in found] == ["sh", "python", "text", "sh"]


def test_a_line_that_was_not_printed_is_found() -> None:
    printed = "n1  leads\nn2 follows  3\nend\n"
    assert missing("n1 leads\nn2 follows …\n", printed) is None
    assert missing("n2 follows …\nn1 leads", printed) == "n1 leads"
    assert missing("n3 leads", printed) == "n3 leads"
