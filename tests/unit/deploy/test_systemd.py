"""The unit of systemd is one text: the file, and what docs/deploy.md has every machine write.
`make test-hosts` runs the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from tests.hosts.services import parse

ROOT = Path(__file__).parents[3]
UNIT = (ROOT / "deploy" / "systemd" / "acordo.service").read_text()


def test_the_page_writes_the_unit_of_the_file() -> None:
    page = (ROOT / "docs" / "deploy.md").read_text()
    place = r"cat > /etc/systemd/system/acordo.service <<'END'\n(.*?)^END$"
    assert re.findall(place, page, re.MULTILINE | re.DOTALL) == [UNIT]


def test_it_waits_for_the_drain_and_starts_nothing_that_a_person_must_mend() -> None:
    said = parse(UNIT)
    assert said["RestartPreventExitStatus"] == ["78"]
    assert said["Restart"] == ["always"]
    assert int(said["TimeoutStopSec"][0]) > 15 + 10  # ACORDO_DRAIN_TIMEOUT_S, and to close
    assert said["NoNewPrivileges"] == ["true"]
