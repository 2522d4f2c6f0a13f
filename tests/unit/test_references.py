"""What code and documents refer to is there: ids, sections, files, anchors, modules, tests."""

from __future__ import annotations

import io
import re
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).parents[2]
NOT_OURS: Final = {"build", "out", "data", "histories", "stubs", "node_modules"}
"""Directories of what is made, or what others wrote."""
HISTORY: Final = {"CHANGELOG.md"}
"""Speaks of what was: names in it may be gone. So may those in docs/adr."""
OF_OTHERS: Final = {"quorum.py", "syncobj.py", "journal.py", "transport.py", "setup.py"}
"""Modules of the libraries and projects that are spoken of."""


@cache
def files(*suffixes: str) -> tuple[Path, ...]:
    """Return the project's own files with these suffixes."""
    found = (path for suffix in suffixes for path in ROOT.rglob(f"*{suffix}"))
    return tuple(
        sorted(
            path
            for path in found
            if not any(
                part in NOT_OURS
                or (part.startswith(".") and part != ".github")
                or part.endswith(".egg-info")
                for part in path.relative_to(ROOT).parts
            )
        )
    )


@cache
def prose(path: Path) -> tuple[tuple[int, str], ...]:
    """Return the lines that are for people: all of a document, comments and strings of code."""
    text = path.read_text()
    if path.suffix != ".py":
        return tuple(enumerate(text.splitlines(), 1))
    kept = (tokenize.COMMENT, tokenize.STRING)
    return tuple(
        (token.start[0] + number, line)
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type in kept
        for number, line in enumerate(token.string.splitlines())
    )


def dangling(
    pattern: str, is_there: Callable[[str], bool], paths: tuple[Path, ...]
) -> Iterator[str]:
    """Yield where a reference of that form stands that nothing answers to."""
    for path in paths:
        for number, line in prose(path):
            for found in re.finditer(pattern, line):
                if not is_there(found[1]):
                    yield f"{path.relative_to(ROOT)}:{number}: {found[1]}"


@cache
def headings(path: Path) -> frozenset[str]:
    """Return the anchors of a document, as GitHub makes them."""
    lines = re.sub(r"```.*?```", "", path.read_text(), flags=re.S).splitlines()
    titles = [line.lstrip("#").strip() for line in lines if re.match(r"#+ ", line)]
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return frozenset(title.replace(" ", "-") for title in plain)


@cache
def known_tests() -> frozenset[str]:
    """Return the names of all test functions and test modules."""
    ours = [path for path in files(".py") if path.is_relative_to(ROOT / "tests")]
    functions = (
        name
        for path in ours
        for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(), re.M)
    )
    return frozenset(functions) | {path.stem for path in ours}


EVERYWHERE: Final = files(".py", ".md")
TOPS: Final = "|".join(
    sorted(path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != ".")
)
DOCUMENTS: Final = tuple(
    path for path in files(".md") if path.name not in HISTORY and path.parent.name != "adr"
)


@pytest.mark.parametrize(
    ("ids", "page", "defined"),
    [
        (r"\b(HAZ-\d+)\b", "docs/pysyncobj-hazards.md", r"^## (HAZ-\d+): "),
        (r"\b(INV-\d+)\b", "docs/DESIGN.md", r"^\| (INV-\d+) \| "),
        (r"\bDESIGN(?:\.md)? sections? (\d+)", "docs/DESIGN.md", r"^## (\d+)\. "),
        (r"\bADR (\d{4})\b", "docs/adr", ""),
    ],
)
def test_every_id_and_section_that_is_named_is_defined(ids: str, page: str, defined: str) -> None:
    place = ROOT / page
    if place.is_dir():
        known = {path.name[:4] for path in place.glob("*.md")}
    else:
        known = set(re.findall(defined, place.read_text(), re.M))
    assert known
    assert not list(dangling(ids, known.__contains__, EVERYWHERE))


def test_every_link_leads_to_a_file_and_an_anchor() -> None:
    wrong = []
    for path in files(".md"):
        for number, line in prose(path):
            for target in re.findall(r"\]\(([^)\s]+)\)", line):
                if re.match(r"[a-z]+:", target):
                    continue
                name, _, anchor = target.partition("#")
                place = path.parent / name if name else path
                if not place.exists() or (anchor and anchor not in headings(place)):
                    wrong.append(f"{path.relative_to(ROOT)}:{number}: {target}")
    assert not wrong


def test_every_path_that_a_document_names_is_there() -> None:
    wrong = []
    for path in DOCUMENTS:
        places = (ROOT, path.parent)
        for number, line in prose(path):
            for name in re.findall(rf"`((?:{TOPS})/[\w./-]+)`", line):
                if name.startswith(("data/", "out/")):
                    continue
                forms = (name, f"{name}.py", f"{name}-*.md")
                if not any(list(place.glob(form)) for place in places for form in forms):
                    wrong.append(f"{path.relative_to(ROOT)}:{number}: {name}")
    assert not wrong


def test_every_file_that_a_comment_names_by_its_path_is_there() -> None:
    named = rf"(?<![\w/.-])((?:{TOPS})/[\w./-]*\w\.(?:md|py))\b"
    ours = (path for path in files(".py") if not path.is_relative_to(ROOT / "tests"))
    wrong = dangling(named, lambda name: (ROOT / name).exists(), tuple(ours))
    assert not [found for found in wrong if "out/" not in found]


def test_every_dotted_name_that_a_comment_gives_is_there() -> None:
    """As in "`coordinator.raft.storage.disk.File`": a module, or something in one."""

    def is_there(name: str) -> bool:
        parts = name.split(".")
        # Names of files, of the broker's channels, and of a setting of CockroachDB look alike.
        if len(parts) < 3 or "CLUSTER_ID" in parts or parts[1] == "raft_log":
            return True
        for length in range(len(parts), 0, -1):
            place = ROOT.joinpath(*parts[:length])
            module = place.with_suffix(".py") if not place.is_dir() else place / "__init__.py"
            if module.exists():
                # what a package offers under its own name stands in one of its modules
                offered = place.glob("*.py") if place.is_dir() else (module,)
                text = "\n".join(each.read_text() for each in offered)
                return all(re.search(rf"\b{part}\b", text) for part in parts[length:])
        return False

    assert not list(dangling(rf"`((?:{TOPS})(?:\.\w+)+)`", is_there, EVERYWHERE))


def test_every_module_that_is_named_is_there() -> None:
    """As in "(recovery.py)": a reader looks for it in the package, or in the whole project."""
    known = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts} | OF_OTHERS
    paths = tuple(path for path in EVERYWHERE if path in DOCUMENTS or path.suffix == ".py")
    paths = tuple(p for p in paths if p.suffix != ".py" or not p.is_relative_to(ROOT / "tests"))
    assert not list(dangling(r"(?<![\w/.-])([a-z]\w*\.py)\b(?!\w)", known.__contains__, paths))


def test_every_row_of_a_packages_table_of_modules_is_there() -> None:
    wrong, rows = [], 0
    for path in DOCUMENTS:
        if path.name != "DESIGN.md" or path.parent.name == "docs":
            continue
        known = {found.stem for found in path.parent.rglob("*.py")}
        known |= {found.name for found in path.parent.rglob("*") if found.is_dir()}
        of_modules = False
        for number, line in prose(path):
            cells = [cell.strip() for cell in line.split("|")[1:-1]]
            if not cells:
                of_modules = False
            elif cells[0] in ("module", "modules"):
                of_modules = True
            elif of_modules:
                names = re.findall(r"`([\w./]+?)(?:\.py)?/?`", cells[0])
                rows += 1
                gone = [name for name in names if re.split(r"[./]", name)[-1] not in known]
                wrong += [f"{path.relative_to(ROOT)}:{number}: {name}" for name in gone]
    assert not wrong
    assert rows > 20


PRODUCT: Final = (
    "acordo", "backends", "bench", "chaos", "cluster", "coordinator", "deploy", "kv", "node",
)  # fmt: skip


def of_design(section: int) -> str:
    """Return a section of docs/DESIGN.md."""
    page = (ROOT / "docs" / "DESIGN.md").read_text()
    return page.partition(f"\n## {section}. ")[2].partition("\n## ")[0]


def test_the_table_of_packages_is_the_tree() -> None:
    named = re.findall(r"^\| `([\w/]+)` \|", of_design(6), re.M)
    there = {
        path.parent.relative_to(ROOT).as_posix()
        for path in files(".py")
        if path.name == "__init__.py" and path.relative_to(ROOT).parts[0] in PRODUCT
    }
    assert len(named) == len(set(named))
    assert set(named) == there


def imported_by(package: str) -> set[str]:
    """Return the other packages of the product that a package imports anywhere."""
    found: set[str] = set()
    for path in (ROOT / package).rglob("*.py"):
        found |= set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.M))
    return found & set(PRODUCT) - {package}


def test_the_picture_of_packages_is_the_root_and_who_imports_whom() -> None:
    picture = of_design(6).partition("```\n")[2].partition("```")[0]
    named: list[str] = []
    for entry in re.split(r"\n(?=\S)", picture.strip()):
        begun = re.match(r"(?:[\w-]+/\s*)+", entry)
        assert begun, entry
        named += (names := begun[0].replace("/", " ").split())
        if names[0] in PRODUCT:
            said = entry.partition("(imports ")[2].partition(")")[0]
            assert set(re.findall(r"\w+", said)) & set(PRODUCT) == imported_by(*names), entry
    assert len(named) == len(set(named))
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and "." not in path.name}
    assert set(named) == folders - (NOT_OURS - {"stubs"}) - {"__pycache__"}


def test_the_way_of_a_put_is_told_by_functions() -> None:
    way = of_design(6).partition("A PUT's way")[2]
    assert len(re.findall(r"`(?:\w+\.){2,}\w+`", way)) > 12


def test_every_command_that_is_named_is_there() -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.M))
    now = DOCUMENTS + files(".py")
    assert not list(dangling(r"`make ([a-z][a-z-]*)", targets.__contains__, now))

    def is_there(module: str) -> bool:
        place = ROOT.joinpath(*module.split("."))
        return place.with_suffix(".py").exists() or (place / "__main__.py").exists()

    named = rf"python3? -m ((?:{TOPS})(?:\.\w+)*)\b"
    assert not list(dangling(named, is_there, now))


def test_every_test_that_a_document_names_is_there() -> None:
    assert not list(
        dangling(r"\b(test_\w*[a-z0-9])(?![\w*])", known_tests().__contains__, DOCUMENTS)
    )


def test_nothing_is_said_by_sections_that_no_reader_has() -> None:
    words = (
        r"(research [3-5]\.|research section|seed\.md|REPLICATED_STORE|the protocol's model(?! \())"
    )
    bare = r"(\([3-5]\.\d{1,2}\))"
    ours = tuple(path for path in EVERYWHERE if path != Path(__file__))
    assert not list(dangling(words, lambda found: False, ours))
    assert not list(
        dangling(bare, lambda found: False, tuple(p for p in ours if p.suffix == ".py"))
    )


def test_every_hazard_is_shown_by_something() -> None:
    page = (ROOT / "docs" / "pysyncobj-hazards.md").read_text()
    for hazard in re.split(r"^## (?=HAZ-)", page, flags=re.M)[1:]:
        title, shown = hazard.splitlines()[0], hazard.rpartition("*Shown by*")[2]
        assert re.findall(r"`(test_\w+)`", shown), title
        for script in re.findall(r"`(\w+\.py)`", shown):
            assert (ROOT / "tests" / "evidence" / "published" / script).exists(), script
        for transcript in re.findall(r"`(\w+\.txt)`", shown):
            told = (ROOT / "tests" / "unit" / "raft" / "transcripts" / transcript).read_text()
            number = title.partition(":")[0]
            assert not transcript.startswith("haz_") or number in told, transcript


def test_a_reference_that_dangles_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.py"
    page.write_text('"""As X-1 and X-99 say."""\n\nX_97 = 1  # X-98\n')
    found = [(n, name) for n, line in prose(page) for name in re.findall(r"X-\d+", line)]
    assert found == [(1, "X-1"), (1, "X-99"), (3, "X-98")]
    document = tmp_path / "page.md"
    document.write_text("# A title: it's `this`, that\n\n```sh\n# no title\n```\n## A_b & c\n")
    assert headings(document) == {"a-title-its-this-that", "a_b--c"}
