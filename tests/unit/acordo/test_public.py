"""The public face of the package: every name in `__all__` can be had, and nothing loads early."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import acordo

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("name", acordo.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(acordo, name) is not None
    assert name in dir(acordo)


def test_a_name_that_is_not_public_is_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        acordo.Nonsense  # type: ignore[attr-defined]  # noqa: B018  # the access is what is tested
    with pytest.raises(ImportError):
        exec("from acordo import BadRequests", {})  # noqa: S102  # a type checker refuses the line


def test_the_command_line_listens_for_ctrl_c_before_the_client_is_loaded() -> None:
    """Loading takes a while: a Ctrl-C in it leaves with 130 only if somebody listens already."""
    program = "import sys, acordo.__main__; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_every_private_module_is_named_in_the_contract_that_keeps_it_private() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    (kept,) = (c for c in contracts["contracts"] if c["name"].startswith("the private modules"))
    private = {f"acordo.{path.stem}" for path in (ROOT / "acordo").glob("_[!_]*")}
    assert set(kept["forbidden_modules"]) == private
