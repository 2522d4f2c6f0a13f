"""Make the synchronous client from the asynchronous one: `make sync`, or `--check` to only compare.

It rewrites tokens, as httpcore and redis-py do: `async` and `await` go, and names go by the table
below. What waits for sockets and what runs beside the caller differs in more than words; those
modules are written twice, and are not made here.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tokenize
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = ROOT / "acordo"
MADE: Final = (
    "_access_calls", "_base_client", "_client", "_cluster_calls", "_lease_calls", "_watch",
    "_webhook_calls",
    "_calls.batches", "_calls.caller", "_calls.look_up",
    "_recipes.counting", "_recipes.lock", "_recipes.meeting", "_recipes.queue",
    "_recipes.session", "_recipes.view",
)  # fmt: skip
"""The modules that are made, each below `acordo._sync`."""
WRITTEN: Final = ("_calls.transport", "_recipes.background")
"""The modules that are written twice."""
NAMES: Final = {
    "AbstractAsyncContextManager": "AbstractContextManager",
    "AsyncIterator": "Iterator",
    "Client": "SyncClient",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "aclosing": "closing",
    "anext": "next",
    "asynccontextmanager": "contextmanager",
    "asyncio": "time",
}
PROSE: Final = {
    "`async with`": "`with`",
    "async with Client(": "with SyncClient(",
    "async with": "with",
    "await ": "",
    "Several tasks may": "Several threads may",
}
HEADER: Final = "# Made by `make sync` from acordo/{source}; do not edit.\n"


def main(arguments: list[str]) -> int:
    """Write the modules; with `--check` return 1 if one of them is not what would be written."""
    made = {name: tidied(rewritten(name), place(name)) for name in MADE}
    stale = [name for name, text in made.items() if not is_current(name, text)]
    if "--check" in arguments:
        for name in stale:
            print(f"acordo._sync.{name} is not what `make sync` makes", file=sys.stderr)
        return bool(stale)
    for name in stale:
        place(name).parent.mkdir(parents=True, exist_ok=True)
        place(name).write_text(made[name])
    return 0


def place(name: str) -> Path:
    """Return the path of a module that is made."""
    return PACKAGE.joinpath("_sync", *name.split(".")).with_suffix(".py")


def is_current(name: str, text: str) -> bool:
    """Return whether the module is there as it would be made."""
    return place(name).is_file() and place(name).read_text() == text


def rewritten(name: str) -> str:
    """Return the synchronous form of a module, not formatted yet."""
    source = PACKAGE.joinpath(*name.split(".")).with_suffix(".py")
    text = source.read_text()
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    lines, result, at = text.splitlines(keepends=True), [], (1, 0)
    skip_space = False
    for token in tokens:
        between = _between(lines, at, token.start)
        at = token.end
        if skip_space:
            between = between.lstrip(" ")
            skip_space = False
        result.append(between)
        if token.type == tokenize.NAME and token.string in ("async", "await"):
            skip_space = True
        elif token.type == tokenize.NAME:
            result.append(NAMES.get(token.string, token.string))
        elif token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)):
            result.append(_prose(token.string))
        else:
            result.append(token.string)
    made = "".join(result)
    for other in (*MADE, *WRITTEN):
        made = re.sub(
            rf"\bfrom acordo\.{re.escape(other)} import", f"from acordo._sync.{other} import", made
        )
    return HEADER.format(source=source.relative_to(PACKAGE)) + made


def _prose(text: str) -> str:
    for old, new in PROSE.items():
        text = text.replace(old, new)
    return text


def _between(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return what stands between two tokens."""
    if start[0] == end[0]:
        return lines[start[0] - 1][start[1] : end[1]] if start[0] <= len(lines) else ""
    first = lines[start[0] - 1][start[1] :]
    rest = "".join(lines[start[0] : end[0] - 1])
    last = lines[end[0] - 1][: end[1]] if end[0] <= len(lines) else ""
    return first + rest + last


def tidied(text: str, path: Path) -> str:
    """Sort imports, drop those that stand twice, and format, as the file at `path` would be."""
    for command in (["check", "--fix-only", "--select", "I,F811"], ["format"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--quiet", "--stdin-filename", str(path)]
        done = subprocess.run(
            [*ruff, "-"], input=text, capture_output=True, text=True, cwd=ROOT, check=True
        )
        text = done.stdout
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
