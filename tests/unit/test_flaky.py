"""The flaky runner counts a test that fails now and then, and passes over what touches nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import flaky


def test_one_that_fails_every_other_time_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    one = tmp_path / "test_one.py"
    one.write_text(
        "import time, pathlib\n"
        f"STATE = pathlib.Path({str(state)!r})\n"
        "def test_now_and_then():\n"
        "    time.sleep(0)\n"
        "    n = int(STATE.read_text()) if STATE.exists() else 0\n"
        "    STATE.write_text(str(n + 1))\n"
        "    assert n % 2 == 0, 'odd'\n"
        "def test_always():\n    assert True\n"
    )
    (tmp_path / "test_pure.py").write_text("def test_pure():\n    assert False\n")
    assert flaky.main([str(tmp_path), "--rounds", "2", "--busy", "0"]) == 1
    said = capsys.readouterr().out
    assert "test_now_and_then` | 1 | 2 |" in said and "odd" in said
    assert "test_always`" not in said and "test_pure" not in said
    assert "2 tests, 2 rounds, 4 runs, 1 of them failed at least once" in said


def test_a_module_that_uses_private_services_touches_processes(tmp_path: Path) -> None:
    (tmp_path / "test_real.py").write_text("from tests.services import database\n")
    (tmp_path / "test_own.py").write_text("from cluster.services.redis import RedisServer\n")
    (tmp_path / "test_pure.py").write_text("from kv.model import Key\n")
    found = [module.name for module in flaky.touching([tmp_path])]
    assert found == ["test_own.py", "test_real.py"]


def test_the_modules_that_mean_processes_are_there() -> None:
    named = re.findall(r"(cluster|tests)\\\.(\w+)", flaky.TOUCHES.pattern)
    assert named
    for package, module in named:
        place = flaky.ROOT / package / module
        assert place.is_dir() or place.with_suffix(".py").exists(), f"{package}.{module}"


def test_nothing_run_is_no_result(tmp_path: Path) -> None:
    assert flaky.main([str(tmp_path), "--rounds", "1", "--busy", "0"]) == 2


def test_a_round_that_dies_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "test_dies.py").write_text(
        "import os, time\ndef test_dies():\n    time.sleep(0)\n    os._exit(9)\n"
    )
    assert flaky.main([str(tmp_path), "--rounds", "2", "--busy", "0"]) == 1
    assert "pytest ended with 9" in capsys.readouterr().out
