"""Say what one run is asked to do, and by which command it is done again."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from chaos.nemeses.base import Nemesis
from chaos.nemeses.catalogue import EVERY
from chaos.runs.schedule import Step, schedule

HEALTHY_WITHIN_S: Final = 120.0
"""For all nodes to be ready and one to lead, at first and after each fault. A slow machine may need
most of it.
"""
LONGER: Final = 3
"""A run that is to reach so many operations or faults may take so many times its time."""


@dataclass(frozen=True)
class Plan:
    """Everything that one run was asked to do."""

    folder: Path
    workloads: tuple[str, ...]
    families: dict[str, tuple[str, ...]]
    seconds: float
    seed: int
    clients: int = 6
    rate: float | None = None
    pause_s: float = 0.01
    hot: int = 0
    operations: int = 0
    """The run goes on past its time until so many operations took effect, enough of them in each
    workload …
    """
    faults: int = 0
    """… and so many faults bit; at most LONGER times as long."""
    nodes: int = 3
    servers: tuple[str, ...] = ()
    at_once: bool = False
    broadcast: str = ""
    """URL of the target's broker; with private servers it is known."""
    target: str = "local"
    began: str = ""
    commit: str = ""
    quiet: bool = False
    node_command: tuple[str, ...] | None = None
    """Starts a node in place of `python -m node`."""
    steps: tuple[Step, ...] = ()
    """Faults in place of those that the seed plans."""
    nemeses: dict[str, type[Nemesis]] = field(default_factory=lambda: dict(EVERY))

    @property
    def command(self) -> str:
        """Return the command that does it again."""
        words = ["python -m chaos run", f"--workload {','.join(self.workloads)}"]
        if self.families:
            words.append(f"--nemesis {','.join(self.families)}")
        words += [f"--time {self.seconds:g}", f"--seed {self.seed}", f"--clients {self.clients}"]
        words += [f"--rate {self.rate:g}"] if self.rate else [f"--pause {self.pause_s:g}"]
        words += [f"--hot {self.hot}"] if self.hot else []
        words += [f"--operations {self.operations}"] if self.operations else []
        words += [f"--faults {self.faults}"] if self.faults else []
        words += [f"--nodes {self.nodes}"] if self.target == "local" and self.nodes != 3 else []
        words += [f"--servers {','.join(self.servers)}"] if self.servers else []
        words += ["--at-once"] if self.at_once else []
        words += [f"--broadcast {without_password(self.broadcast)}"] if self.broadcast else []
        if self.node_command:
            words.append(f"--node-command {shlex.quote(shlex.join(self.node_command))}")
        words += [f"--target {self.target}"] if self.target != "local" else []
        return " ".join(words)

    @property
    def schedule(self) -> list[Step]:
        """Return the faults to inflict, in order: those given, else those that the seed plans."""
        if self.steps:
            return list(self.steps)
        longest_s = self.seconds * (LONGER if self.operations or self.faults else 1)
        return schedule(self.families, longest_s, self.seed)


def without_password(url: str) -> str:
    """Return a URL that can be shown."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":…@") if parts.password else url
