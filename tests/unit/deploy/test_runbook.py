"""Every alert leads to a section of docs/runbook.md, which says how urgent it is, and no section is
of an alert that there is not.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml  # type: ignore[import-untyped]  # ships no types

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "runbook.md").read_text()
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
SECTIONS = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def test_alerts_and_sections_are_the_same_in_the_same_order() -> None:
    assert list(SECTIONS) == list(RULES)


def test_each_alert_leads_to_its_section() -> None:
    for name, rule in RULES.items():
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"


def test_each_section_says_how_urgent_it_is_and_more_than_the_alert_does() -> None:
    for name, text in SECTIONS.items():
        severity = RULES[name]["labels"]["severity"]
        assert text.startswith(f"*{severity.title()}.* "), name
        assert len(text.split()) > 15, name
