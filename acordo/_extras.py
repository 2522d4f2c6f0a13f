"""Find what an extra of the package brings, and say by name which extra is missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

EXTRAS: Final[Mapping[str, tuple[str, ...]]] = {
    "cli": ("typer", "rich"),
    "settings": ("pydantic_settings",),
    "server": (
        *("aiormq", "asyncpg", "cryptography", "docker", "pamqp", "prometheus_client"),
        *("pydantic_settings", "pysyncobj", "redis", "rich", "structlog", "uvloop", "yarl"),
    ),
}
"""The modules that each extra brings."""


class MissingExtra(ImportError):
    """An error about a part of the package that is not installed. The message says how to."""


def require(extra: str, what: str) -> None:
    """Raise MissingExtra unless everything that the extra brings is installed. `what` needs it."""
    missing = [name for name in EXTRAS[extra] if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"{what} needs {', '.join(missing)}, which the extra `{extra}` brings: "
            f'pip install "acordo[{extra}]"'
        )


def server_home(what: str = "the server") -> Path:
    """Return the directory from which `python -m node` and `python -m cluster` run: the one inside
    the installed package, or the source tree. Raises MissingExtra.
    """
    require("server", what)
    here = Path(__file__).resolve().parent
    for home in (here / "_server", here.parent):
        if (home / "node" / "__main__.py").is_file():
            return home
    raise MissingExtra(
        f"{what} needs the server's own modules, which this installation of acordo does not have: "
        'pip install --force-reinstall "acordo[server]"'
    )
