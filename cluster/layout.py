"""Keep the local cluster's directory: who it belongs to, its secret, and who is running in it.

It refuses what it did not make or is too new for it, and never deletes or overwrites anything in there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from kv.errors import BadRequest

FORMAT: Final = 1
"""Raised when an older runner or node could not use the directory."""


_F = TypeVar("_F")


class ClusterFile(msgspec.Struct, frozen=True):
    """`cluster.json`: made once, with the cluster."""

    format: int
    cluster_id: str
    nodes: int
    base_port: int


class NodeFile(msgspec.Struct, frozen=True):
    """`node.json` in a node's own directory: made once, with the node."""

    format: int
    cluster_id: str
    node_id: str


class RunningNode(msgspec.Struct, frozen=True):
    """One node process."""

    id: str
    pid: int | None
    url: str
    raft_address: str


class Running(msgspec.Struct, frozen=True):
    """`running.json`: the runner and its processes, rewritten whenever one of them changes."""

    runner_pid: int
    nodes: tuple[RunningNode, ...]


def claim_cluster(data: Path, nodes: int | None, base_port: int | None, default: tuple[int, int]) -> ClusterFile:
    """Return what the directory was made for, making it when it is new. Raises BadRequest for any other's.

    `nodes` and `base_port`: as asked for, or None to take what the directory says (`default`, when it is new).
    """
    path = data / "cluster.json"
    _make_directory(data)
    if not path.exists():
        strangers = sorted(p.name for p in data.iterdir() if p.name != "lock")
        if strangers:
            raise BadRequest(
                "foreign_directory",
                f"{data} is not empty and not a cluster's directory (it holds {', '.join(strangers[:5])})",
                allowed="an empty or new directory, or one made by this command",
            )
        made = ClusterFile(FORMAT, secrets.token_hex(8), nodes or default[0], base_port or default[1])
        write_whole(path, msgspec.json.format(msgspec.json.encode(made)))
        return made
    found = _read(path, ClusterFile)
    for name, asked, has in (("nodes", nodes, found.nodes), ("base port", base_port, found.base_port)):
        if asked is not None and asked != has:
            raise BadRequest(
                "other_cluster",
                f"{data} holds a cluster made with {name} {has}, not {asked}",
                allowed=f"{name} {has}, or another directory",
            )
    return found


def claim_node(data_dir: Path, cluster_id: str, node_id: str) -> NodeFile:
    """Return whose directory this is, making it when it is new. Raises BadRequest when it is another's."""
    path = data_dir / "node.json"
    _make_directory(data_dir)
    if not path.exists():
        write_whole(path, msgspec.json.encode(NodeFile(FORMAT, cluster_id, node_id)))
    found = _read(path, NodeFile)
    if found.node_id != node_id:
        raise BadRequest("other_node", f"{data_dir} belongs to node {found.node_id}, not to {node_id}")
    if cluster_id and found.cluster_id != cluster_id:
        raise BadRequest(
            "other_cluster", f"{data_dir} belongs to cluster {found.cluster_id or '(unnamed)'}, not to {cluster_id}"
        )
    return found


@contextlib.contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Hold the directory for this process alone. Raises BadRequest while another process does."""
    with (directory / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise BadRequest("in_use", f"{directory} is in use by another {what} (process {holder})") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def is_locked(directory: Path) -> bool:
    """Say whether some process holds the directory."""
    try:
        with (directory / "lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def make_secret(path: Path) -> None:
    """Make the shared secret once, readable by its owner alone."""
    if path.exists():
        return
    descriptor = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    path.with_suffix(".new").rename(path)


def running(data: Path) -> Running | None:
    """Return who runs in this directory now; None when nobody does."""
    if not is_locked(data) or not (data / "running.json").exists():
        return None
    return _read(data / "running.json", Running)


def write_whole(path: Path, content: bytes) -> None:
    """Replace a small file so that a crash leaves the old or the new one."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)  # values and the secret are nobody else's
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable", str(path))
    except OSError as exc:
        raise BadRequest("bad_directory", f"{path} cannot be used: {exc.strerror}") from exc


def _read(path: Path, kind: type[_F]) -> _F:
    try:
        raw = path.read_bytes()
        found = msgspec.json.decode(raw)
        if isinstance(found, dict) and found.get("format", FORMAT) > FORMAT:
            raise BadRequest(
                "newer_version",
                f"{path} was written by a newer version (format {found['format']}, this one knows {FORMAT})",
            )
        return msgspec.json.decode(raw, type=kind)
    except (OSError, msgspec.MsgspecError, TypeError, UnicodeDecodeError) as exc:
        raise BadRequest("corrupt_file", f"{path} cannot be read: {exc}", allowed="the file as it was written") from exc
