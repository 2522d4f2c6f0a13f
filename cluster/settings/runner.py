"""Define the settings of the local runner."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cluster.settings.shared import SharedSettings
from cluster.settings.values import (
    PREFIX,
    REPLICATED,
    as_text,
    count,
    seconds,
    setting,
)

NODES_MAX: Final = 9
RAFT_PORT_OFFSET: Final = 1000
"""Distance of a node's Raft port above its HTTP port."""


class RunnerSettings(SharedSettings):
    """Settings of `python -m cluster up`."""

    nodes: int = count(3, "voting nodes to start", 1, NODES_MAX)
    base_port: int = count(
        8001,
        "HTTP port of the first node; the next ones follow",
        1,
        65535 - RAFT_PORT_OFFSET - NODES_MAX,
    )
    host: str = setting(
        "127.0.0.1",
        "address that every node's HTTP listens on; one that other machines reach gets HTTPS and "
        "controlled access, made once ([security](security.md#who-reaches-http))",
        "an address of this machine",
    )
    data: Path = setting(Path("data"), "directory of the cluster", "path of a directory")
    cluster_id: str = setting(
        "",
        "name of the cluster that a new directory is made for, as a store restored from a backup "
        "names it",
        "any text",
    )
    from_backup: str = setting(
        "",
        "backup that a new directory is made of; its cluster goes on as a new one "
        "([operations](operations.md))",
        "path of a file that `acordo backup` wrote, or s3://BUCKET/KEY; those that go on from it "
        "after it, with a comma between them",
    )
    at_revision: int = count(
        0, "revision as of which it is restored; 0: the backup's own", 0, 2**53 - 1
    )
    at_time: str = setting(
        "",
        "time as of which it is restored, by the cluster's own clock",
        "a time with its zone, such as 2026-11-30T18:45:00Z",
    )
    ready_timeout_s: float = seconds(
        60,
        "without a ready quorum for so long, the runner says what is missing, and waits on",
        1,
        3600,
    )
    liveness_timeout_s: float = seconds(
        3, "silence of /livez after which a node is killed and started again", 0.5, 600
    )

    control: bool = setting(
        True,
        "whether people of this machine may kill, pause and cut off members, by the page's buttons "
        "or by `acordo kill`",
        "true, false",
    )
    relay_links: bool = setting(
        False,
        "whether the members' connections to each other lead through the runner, so that a member "
        "can be cut off; each write then takes a little longer",
        "true, false",
    )

    @property
    def store_url(self) -> str:
        """Return what the nodes are told as their store."""
        return self.store or REPLICATED

    def handed_on(self) -> dict[str, str]:
        """Return the environment variables that the nodes inherit: every shared setting given
        explicitly.
        """
        return {
            PREFIX + name.upper(): as_text(getattr(self, name))
            for name in SharedSettings.model_fields
            if name in self.model_fields_set and getattr(self, name) is not None
        }
