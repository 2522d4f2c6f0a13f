"""Start a private Prometheus with the project's alert rules and the given targets."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.services.install import ensure
from cluster.services.process import Service, find

ALERTS = Path(__file__).parents[2] / "deploy" / "prometheus" / "alerts.yml"


class Prometheus(Service):
    """A Prometheus that scrapes the addresses of `jobs` (by job name) every second."""

    name = "prometheus"

    def __init__(self, jobs: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        ensure("prometheus")
        self.jobs = jobs

    @property
    def url(self) -> str:
        """Return its URL."""
        return f"http://127.0.0.1:{self.port}"

    def prepare(self) -> None:
        """Write its configuration."""
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": [
                {"job_name": job, "static_configs": [{"targets": list(targets)}]}
                for job, targets in self.jobs.items()
            ],
        }
        (self.folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML

    def command(self) -> Sequence[str]:
        """Return the command that starts it."""
        return (
            find("prometheus"),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
        )

    def ready(self) -> bool:
        """Return whether it answers queries."""
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False
