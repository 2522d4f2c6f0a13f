"""Run `python -m node --verify`: check a member's directory at rest, all of it at once.

It repairs nothing. A node that runs holds its directory: that one is asked by `acordo verify`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backends.replicated.store import SqliteMemberStore
from cluster.directory import claim_node, locked
from cluster.settings.loading import load
from cluster.settings.node import NodeSettings
from coordinator.machine.snapshot import decode_state
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.snapshot import SnapshotStore
from kv.errors import BadRequest
from kv.names import UNNAMED
from node.reads.inspection import Inspected, Inspection

OPTION: Final = "--verify"
TIMEOUT_S: Final = 3600.0
"""Of one step."""


async def verify(argv: Sequence[str]) -> bool:
    """Check the directory that the settings name, say what was found, and return whether all is
    sound. Raises BadRequest, KvError.
    """
    settings = load(
        NodeSettings, [each for each in argv if each != OPTION], prog="python -m node --verify"
    )
    if not settings.own_file.exists():
        raise BadRequest(
            "nothing_to_verify",
            f"{settings.own_file} is not there",
            allowed="the directory of a member that keeps its own store",
        )
    with locked(settings.data_dir, "node"):
        cluster = claim_node(
            settings.data_dir, settings.cluster_id, settings.node_id, settings.kind
        ).cluster_id
        dump = _dump(settings, cluster or UNNAMED)
        found = await _inspected(settings)
    for flaw in found.flaws:
        print(flaw)
    print(
        f"{settings.node_id}: {found.flaws_total or 'no'} flaws; {found.keys} keys as of revision "
        f"{found.revision}, {found.versions} versions, rows to {found.rows}, {dump}; digest "
        f"{found.digest}"
    )
    return not found.flaws_total


async def _inspected(settings: NodeSettings) -> Inspected:
    async with SqliteMemberStore(str(settings.own_file)) as store:
        if store.condition == "damaged":
            damage = f"the file is damaged: {store.damage}"
            return Inspected(
                node=settings.node_id, revision=0, flaws=(damage,), flaws_total=1, done=True
            )
        revision = (await store.head(timeout_s=TIMEOUT_S)).last
        inspection = Inspection(settings.node_id, store, store, revision, TIMEOUT_S)
        return [found async for found in inspection.steps()][-1]


def _dump(settings: NodeSettings, cluster: str) -> str:
    """Check the dump beside the file. Raises BadRequest, as the start would."""
    disk = RealDisk(settings.data_dir / "raft")
    try:
        snapshot = SnapshotStore(disk, cluster=cluster).load_now()
    finally:
        disk.close()
    if snapshot is None:
        return "no dump yet"
    try:
        decode_state(snapshot.body)
    except ValueError as exc:
        raise BadRequest("snapshot_unreadable", f"the dump cannot be decoded: {exc}") from exc
    return f"a dump at the log index {snapshot.header.index}"
