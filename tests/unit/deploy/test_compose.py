"""What docker-compose.yml, the alerts and the list of mirrors say, read without an engine."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # ships no types

from deploy.images import CannotBuild, mirrors

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
OBSERVERS_MAX = 2


def megabytes(service: dict[str, Any]) -> int:
    return int(service["mem_limit"].removesuffix("m"))


def test_the_default_stack_fits_into_six_gigabytes() -> None:
    services = [s for s in COMPOSE["services"].values() if set(s.get("profiles", ["crdb"])) & {"crdb", "grafana"}]
    observer = megabytes(COMPOSE["services"]["node1"])
    assert sum(map(megabytes, services)) + OBSERVERS_MAX * observer <= 6 * 1024


def test_every_port_is_published_on_loopback_alone() -> None:
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_every_image_comes_from_the_environment_with_an_exact_default() -> None:
    for name, service in COMPOSE["services"].items():
        match = re.fullmatch(r"\$\{ACORDO_IMAGE_[A-Z]+:-([^}]+:[^}]+)\}", service["image"])
        assert match and not match[1].endswith(":latest"), name


def test_every_variable_is_described() -> None:
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", (ROOT / "docker-compose.yml").read_text()))
    described = set(re.findall(r"(?m)^#?([A-Z0-9_]+)=", (ROOT / ".env.example").read_text()))
    assert used <= described


def test_each_alert_fires_and_clears() -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not there: apt-get install prometheus")
    folder = ROOT / "deploy" / "prometheus"
    done = subprocess.run(
        ["promtool", "test", "rules", "alerts_test.yml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    alerts = {r["alert"] for g in yaml.safe_load((folder / "alerts.yml").read_text())["groups"] for r in g["rules"]}
    tests = yaml.safe_load((folder / "alerts_test.yml").read_text())["tests"]
    for alert in alerts:
        seen = [bool(a["exp_alerts"]) for t in tests for a in t["alert_rule_test"] if a["alertname"] == alert]
        assert seen == [False, True, False], alert


def test_the_mirror_is_this_machines_own(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text(
        "deb [arch=amd64] http://one.invalid/debian bookworm main contrib\n# deb x y z\n"
    )
    (tmp_path / "sources.list.d" / "more.sources").write_text(
        "Types: deb\nURIs: http://two.invalid/security/\nSuites: bookworm-security\n\nTypes: deb\nURIs: http://x.invalid\n"
        "Suites: trixie\n"
    )
    assert mirrors(tmp_path) == (
        "http://one.invalid/debian",
        "deb http://one.invalid/debian bookworm main\ndeb http://two.invalid/security bookworm-security main\n",
    )
    (tmp_path / "sources.list").write_text("")
    with pytest.raises(CannotBuild):
        mirrors(tmp_path)
