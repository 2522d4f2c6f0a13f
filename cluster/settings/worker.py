"""Define the settings of a worker."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator

from cluster.settings.shared import SharedSettings
from cluster.settings.values import count, name_of, place_of_backups, seconds, setting


class WorkerSettings(SharedSettings):
    """Settings of `python -m cluster worker`.

    The settings that it shares with nodes are read from the same file.
    """

    urls: str = setting(
        "http://127.0.0.1:8001", "nodes of the cluster", "URLs with a comma between them"
    )
    worker_name: Annotated[str, BeforeValidator(name_of)] = setting(
        "",
        "this worker's name; empty: of its machine and process",
        "1 to 64 letters, digits and . _ -",
    )
    worker_prefetch: int = count(32, "asynchronous writes that a worker has in hand", 1, 1000)
    worker_metrics_port: int = count(0, "port of its metrics; 0: none", 0, 65535)
    worker_metrics_host: str = setting(
        "127.0.0.1", "address that its metrics listen on", "an address of this machine"
    )
    webhook_attempts_max: int = count(8, "attempts of a delivery; then it is a dead letter", 1, 100)
    webhook_backoff_s: float = seconds(
        0.5, "pause after the first failed attempt; doubled each time", 0.01, 60
    )
    webhook_backoff_max_s: float = seconds(60, "longest pause between attempts", 0.01, 3600)
    webhook_timeout_s: float = seconds(
        10, "longest that one attempt of a delivery may take", 0.1, 60
    )
    webhook_lease_s: float = seconds(
        15, "silence after which another worker takes a subscription over", 2, 300
    )
    webhook_allow_private: bool = setting(
        False, "deliver also to loopback, private and link-local addresses", "true, false"
    )
    backup_to: Annotated[str, BeforeValidator(place_of_backups)] = setting(
        "",
        "where backups are taken to, the same for all workers; empty: none are taken "
        "(docs/operations.md)",
        "a directory, s3://BUCKET or s3://BUCKET/PREFIX",
    )
    backup_every_s: float = seconds(86_400, "time between two backups", 60, 31 * 86_400)
    backup_keep: int = count(7, "backups that are kept; older ones are removed", 1, 10_000)
