"""Ask the service of pip-audit for known vulnerabilities of what the locks pin: `python -m
deploy.audit LOCK…`, run by the Python that has pip-audit.

The exit code is 1 where there are any, and 69 where the service could not be asked about every
package: pip-audit itself ends with 0 if it was told about none. It installs nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any, Final

UNAVAILABLE: Final = 69
"""EX_UNAVAILABLE of sysexits.h."""
TIMEOUT_S: Final = 300


@dataclass
class Report:
    """What the service said of the packages of one lock."""

    asked: int = 0
    vulnerable: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    """What it said nothing of, each with the reason."""

    @property
    def code(self) -> int:
        """Return the exit code: what was found counts before what could not be asked."""
        return 1 if self.vulnerable else UNAVAILABLE if self.unknown or not self.asked else 0


def read(found: dict[str, Any]) -> Report:
    """Return what pip-audit wrote as JSON, as a report."""
    report = Report()
    for each in found["dependencies"]:
        named = f"{each['name']} {each.get('version', '')}".strip()
        if reason := each.get("skip_reason"):
            report.unknown.append(f"{named}: {reason}")
            continue
        report.asked += 1
        for known in each["vulns"]:
            mended = ", ".join(known.get("fix_versions") or ["no version yet"])
            report.vulnerable.append(f"{named}: {known['id']}, mended in {mended}")
    return report


def ask(lock: str) -> Report:
    """Run pip-audit on a lock."""
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes",
         "--progress-spinner", "off", "--format", "json", "-r", lock],
        capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    try:
        return read(json.loads(done.stdout))
    except ValueError:
        why = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        return Report(unknown=[f"every package: {why[-1]}"])


def main(locks: list[str]) -> int:
    """Audit every lock; say what was found, and what is not known."""
    codes = []
    for lock in locks:
        report = ask(lock)
        codes.append(report.code)
        print(f"{lock}: {report.asked} packages known to the service")
        print("".join(f"  VULNERABLE {line}\n" for line in report.vulnerable), end="")
        if report.unknown:
            print(
                f"  NOT AUDITED: the service of pip-audit could not be asked about "
                f"{len(report.unknown)} packages, so this says nothing of them; the first: "
                f"{report.unknown[0]}"
            )
    return 1 if 1 in codes else max(codes, default=UNAVAILABLE)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
