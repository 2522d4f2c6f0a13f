"""Run `python -m node --restore FILE` (or `s3://BUCKET/KEY`): make this member's directory out of a
backup, before its first start.

It touches no directory that holds anything, and leaves one that no node starts from until it is
done.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from backends import by_url
from backends.replicated import restoring as own_file
from cluster.directory import (
    claim_node,
    finish_restoring,
    is_restoring,
    locked,
    make_directory,
    start_restoring,
)
from cluster.settings.loading import load
from cluster.settings.node import NodeSettings
from coordinator.machine.snapshot import encode_state
from coordinator.raft.core.rules.membership import Configuration, Seat, encode
from coordinator.raft.net.peer_identity import Origin
from coordinator.raft.storage.real_disk import RealDisk
from coordinator.raft.storage.snapshot import SnapshotStore
from kv.errors import BadRequest
from kv.names import UNNAMED
from kv.ports import Identity
from node.startup.restoring.files import opened
from node.startup.restoring.history import INDEX, NewHistory, begun
from node.startup.restoring.state import Digested, StateAt
from node.startup.settings import first_members, first_members_digest

INCARNATION_CHARS: Final = 32
_OPTIONS: Final = ("--restore", "--at-revision", "--at-time", "--incarnation", "--of-cluster")
MADE: Final = ("raft", "store.sqlite", "node.json")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def asked(argv: Sequence[str]) -> bool:
    """Return whether a node is to be restored and not started."""
    return any(each == "--restore" or each.startswith("--restore=") for each in argv)


def main(argv: Sequence[str]) -> None:
    """Restore, and say what was. Raises BadRequest, OSError."""
    options, rest = _parser().parse_known_args(list(argv))
    settings = load(NodeSettings, rest, prog="python -m node --restore FILE")
    incarnation = _incarnation(options.incarnation, settings)
    at_ms = _log_time_of(options)
    with ExitStack() as stack:
        first = stack.enter_context(opened(options.restore[0]))  # before anything is made
        make_directory(settings.data_dir)
        stack.enter_context(locked(settings.data_dir, "node"))
        _check_empty(settings.data_dir)
        start_restoring(settings.data_dir)
        state = stack.enter_context(StateAt(settings.data_dir))
        state.read(first, options.at_revision, at_ms)
        for each in options.restore[1:]:
            with opened(each) as source:
                state.read(source, options.at_revision, at_ms)
        backup = state.digested(options.at_revision, at_ms)
        _check_cluster(backup, options.of_cluster, settings)
        members = first_members_digest(settings)
        history = begun(backup, incarnation, members, replicated=settings.replicated)
        _write(settings, state, history)
        keys = state.keys
    print(
        f"{settings.node_id}: {keys} keys as of revision {backup.revision} of cluster "
        f"{backup.header.cluster_id or '(unnamed)'} are restored; it goes on from revision "
        f"{history.row.last}. Restore every first member with the same file and --incarnation "
        f"{incarnation.hex()} before any of them starts."
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m node --restore FILE", allow_abbrev=False)
    parser.add_argument("--restore", required=True, nargs="+", metavar="FILE")
    parser.add_argument("--at-revision", type=int, default=None, metavar="N")
    parser.add_argument("--at-time", default="", metavar="TIME")
    parser.add_argument("--incarnation", default="", metavar="HEX")
    parser.add_argument("--of-cluster", default=None, metavar="ID")
    return parser


def _log_time_of(options: argparse.Namespace) -> int | None:
    """Return the log time as of which to restore, in milliseconds; None: none is given. Raises
    BadRequest.
    """
    if not options.at_time:
        return None
    try:
        at = datetime.fromisoformat(options.at_time)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or options.at_revision is not None:
        raise BadRequest(
            "bad_time",
            f"--at-time {options.at_time!r}",
            allowed="a time with its zone, 2026-11-30T18:45:00Z or …+01:00, and no --at-revision",
        )
    # whole milliseconds throughout: as a float, .123 s would be 122.99… ms
    return (at - _EPOCH) // timedelta(milliseconds=1)


def _incarnation(given: str, settings: NodeSettings) -> bytes:
    """Return what makes this restore another one than every other. Members of one cluster need the
    same; one that is alone draws it. Raises BadRequest.
    """
    if not given:
        if len(settings.first_members) > 1:
            raise BadRequest(
                "no_incarnation",
                "the members of one cluster are restored with one --incarnation",
                allowed=f"--incarnation {secrets.token_hex(INCARNATION_CHARS // 2)}, the same for "
                "each of them, and another one for every restore",
            )
        return secrets.token_bytes(INCARNATION_CHARS // 2)
    try:
        found = bytes.fromhex(given)
    except ValueError:
        found = b""
    if len(found) * 2 != INCARNATION_CHARS:
        raise BadRequest(
            "bad_incarnation", "--incarnation", allowed=f"{INCARNATION_CHARS} hexadecimal digits"
        )
    return found


def _check_empty(directory: Path) -> None:
    """Raise BadRequest if the directory holds anything of a member, but for what a restore that was
    interrupted left, which is removed.
    """
    if is_restoring(directory):
        for name in MADE:
            path = directory / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return
    there = sorted(name for name in MADE if (directory / name).exists())
    if there:
        raise BadRequest(
            "restore_not_empty",
            f"{directory} holds a member already ({', '.join(there)}); nothing in it was touched",
            allowed="an empty directory, of a new cluster: a member of one that runs is replaced, "
            "never restored",
        )


def _check_cluster(backup: Digested, of_cluster: str | None, settings: NodeSettings) -> None:
    wanted = settings.cluster_id if of_cluster is None else of_cluster
    theirs = backup.header.cluster_id
    if wanted not in {theirs, ""} and not (wanted == UNNAMED and not theirs):
        raise BadRequest(
            "backup_of_another_cluster",
            f"the backup is of cluster {theirs!r}, not of {wanted!r}",
            allowed=f"--of-cluster {theirs!r} if it shall go on under another name",
        )


def _write(settings: NodeSettings, state: StateAt, history: NewHistory) -> None:
    """Fill the store and write the member's directory. Raises BadRequest, KvError, OSError."""
    cluster = settings.cluster_id or UNNAMED
    if settings.replicated:
        place = str(settings.own_file)
        try:
            own_file.restore(place, history.note, history.row, state.versions(), state.operations())
        except sqlite3.Error as exc:
            raise BadRequest("bad_store", f"{place} cannot be made: {exc}") from exc
    else:
        identity = Identity(cluster, history.founded.history)
        asyncio.run(
            by_url.restore(
                settings.store_url, identity, history.row, state.versions, state.operations
            )
        )
    data_dir, kind = settings.data_dir, settings.kind
    claim_node(data_dir, settings.cluster_id, settings.node_id, kind, restoring=True)
    asyncio.run(_save(settings, cluster, history))
    finish_restoring(data_dir)


async def _save(settings: NodeSettings, cluster: str, history: NewHistory) -> None:
    """Put the machine's state in place as the snapshot with which the log begins."""
    disk = RealDisk(settings.data_dir / "raft")
    try:
        seats = tuple(
            sorted(
                # joined: one that comes with an empty directory was not restored, and never votes
                Seat(member.id, member.address, member.voter, joined=True)
                for member in first_members(settings)
            )
        )
        origin = Origin(history.founded.history, first_members_digest(settings))
        snapshots = SnapshotStore(disk, cluster=cluster)
        await snapshots.save(
            INDEX,
            history.row.term,
            encode(Configuration(seats, (), origin)),
            lambda: encode_state(history.state),
        )
    finally:
        disk.close()
