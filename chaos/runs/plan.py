"""Define what one run is asked to do, and the command that repeats it."""

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
"""Longest wait for all nodes to be ready and one to lead, at the start and after each fault. A slow
machine may need most of it.
"""
LONGER: Final = 3
"""A run that must reach a number of operations or faults may take this many times its time."""


@dataclass(frozen=True)
class Plan:
    """The settings of one run."""

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
    """The run continues beyond its time until this many operations took effect, with enough of them
    in each workload, and at most LONGER times as long.
    """
    faults: int = 0
    """The run continues beyond its time until this many faults took effect, with the same limit."""
    nodes: int = 3
    servers: tuple[str, ...] = ()
    store: str = ""
    """What a local cluster's setting of that name is; empty: its own default, or a private server.
    """
    at_once: bool = False
    broadcast: str = ""
    """URL of the target's broker. For private servers it is known without this."""
    target: str = "local"
    began: str = ""
    commit: str = ""
    quiet: bool = False
    node_command: tuple[str, ...] | None = None
    """Command that starts a node instead of `python -m node`."""
    steps: tuple[Step, ...] = ()
    """Faults to inflict instead of those that the seed plans."""
    nemeses: dict[str, type[Nemesis]] = field(default_factory=lambda: dict(EVERY))

    @property
    def command(self) -> str:
        """Return the command that repeats the run."""
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
        words += [f"--store {shlex.quote(without_password(self.store))}"] if self.store else []
        words += ["--at-once"] if self.at_once else []
        words += [f"--broadcast {without_password(self.broadcast)}"] if self.broadcast else []
        if self.node_command:
            words.append(f"--node-command {shlex.quote(shlex.join(self.node_command))}")
        words += [f"--target {self.target}"] if self.target != "local" else []
        return " ".join(words)

    @property
    def schedule(self) -> list[Step]:
        """Return the faults to inflict, in order: the given ones, or those that the seed plans."""
        if self.steps:
            return list(self.steps)
        longest_s = self.seconds * (LONGER if self.operations or self.faults else 1)
        return schedule(self.families, longest_s, self.seed)


def without_password(url: str) -> str:
    """Return a URL with its password hidden."""
    parts = urlsplit(url)
    return url.replace(f":{parts.password}@", ":…@") if parts.password else url
