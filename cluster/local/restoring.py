"""Make the directories of a new local cluster's members out of a backup.

All of them or none: a member that was not restored, beside two that were, would never vote.
"""

from __future__ import annotations

import secrets
import shutil
import subprocess
from collections.abc import Callable, Sequence

from cluster.local.process import NodeProcess
from cluster.settings.runner import RunnerSettings
from kv.errors import BadRequest


def restore_members(
    settings: RunnerSettings,
    nodes: Sequence[NodeProcess],
    command: Sequence[str],
    say: Callable[[str], None],
) -> None:
    """Restore every member with one incarnation, each by a process of its own. Raises BadRequest
    "restore_not_empty" if a directory of one holds anything, which stays as it is; and
    "not_restored", which says why the first one that failed did: then none is left.
    """
    for node in nodes:
        # What is there is not a member of this cluster, or `cluster.json` was lost: in any case it
        # is not for us to remove below.
        if node.data_dir.is_dir() and any(node.data_dir.iterdir()):
            raise BadRequest(
                "restore_not_empty",
                f"{node.data_dir} is not empty; nothing in it was touched",
                allowed="a new --data directory",
            )
    incarnation = secrets.token_hex(16)
    files = [each.strip() for each in settings.from_backup.split(",")]
    options = ["--restore", *files, "--incarnation", incarnation]
    options += ["--of-cluster", settings.cluster_id]
    if settings.at_revision:
        options += ["--at-revision", str(settings.at_revision)]
    if settings.at_time:
        options += ["--at-time", settings.at_time]
    for node in nodes:
        done = subprocess.run(
            [*command, *options],
            env=dict(node.environ),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            for each in nodes:
                shutil.rmtree(each.data_dir, ignore_errors=True)
            why = done.stderr.strip().removeprefix("error: ") or f"exit code {done.returncode}"
            raise BadRequest("not_restored", f"{node.id} could not be restored: {why}")
        say(done.stdout.strip().partition(" Restore every")[0])
