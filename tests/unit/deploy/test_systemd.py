"""The unit of systemd is one text: the file, and what docs/deploy.md has every machine write.
`make test-hosts` runs the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from cluster.settings.loading import load
from cluster.settings.worker import WorkerSettings
from tests.hosts.services import environment_file, parse

ROOT = Path(__file__).parents[3]
UNIT = (ROOT / "deploy" / "systemd" / "acordo.service").read_text()


def test_the_page_writes_the_unit_of_the_file() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    place = r"cat > /etc/systemd/system/acordo.service <<'END'\n(.*?)^END$"
    assert re.findall(place, page, re.MULTILINE | re.DOTALL) == [UNIT]


def test_a_worker_takes_the_settings_that_the_page_gives_it() -> None:
    unit = (ROOT / "deploy" / "systemd" / "acordo-worker.service").read_text()
    own, of_node = parse(unit), parse(UNIT)
    assert own["EnvironmentFile"] == ["/etc/acordo/worker.env"]
    assert own["ExecStart"] == ["/opt/acordo/.venv/bin/python -m cluster worker"]
    alike = ("User", "Restart", "RestartPreventExitStatus", "NoNewPrivileges", "ProtectSystem")
    assert all(own[name] == of_node[name] for name in alike)
    page = (ROOT / "docs" / "deploy.md").read_text()
    found = re.findall(r"^```ini\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    given = environment_file(found[0])
    assert given.pop("ACORDO_CA") and given.pop("ACORDO_TOKEN_FILE")
    flags = [
        f"--{n.removeprefix('ACORDO_').lower().replace('_', '-')}={v}" for n, v in given.items()
    ]
    assert load(WorkerSettings, flags, prog="worker").urls.count("https://") == 3


def test_it_waits_for_the_drain_and_starts_nothing_that_a_person_must_mend() -> None:
    said = parse(UNIT)
    assert said["RestartPreventExitStatus"] == ["78"]
    assert said["Restart"] == ["always"]
    assert int(said["TimeoutStopSec"][0]) > 15 + 10  # ACORDO_DRAIN_TIMEOUT_S, and to close
    assert said["NoNewPrivileges"] == ["true"]
