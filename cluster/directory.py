"""Keep a directory that belongs to one cluster or node: make it, hold it, claim it, write its
files whole.

It refuses what another wrote or is too new for it, and never deletes anything in there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TextIO, TypeVar

import msgspec

from kv.errors import BadRequest

FORMAT: Final = 1
"""Raised when an older runner or node could not use the directory."""

_F = TypeVar("_F")


class NodeFile(msgspec.Struct, frozen=True):
    """`node.json` in a node's own directory: made once, with the node."""

    format: int
    cluster_id: str
    node_id: str


def claim_node(data_dir: Path, cluster_id: str, node_id: str) -> NodeFile:
    """Return whose directory this is, making it when it is new. Raises BadRequest when it is
    another's.
    """
    path = data_dir / "node.json"
    make_directory(data_dir)
    if not path.exists():
        write_whole(path, msgspec.json.encode(NodeFile(FORMAT, cluster_id, node_id)))
    found = read_file(path, NodeFile)
    if found.node_id != node_id:
        raise BadRequest(
            "other_node", f"{data_dir} belongs to node {found.node_id}, not to {node_id}"
        )
    if cluster_id and found.cluster_id != cluster_id:
        raise BadRequest(
            "other_cluster",
            f"{data_dir} belongs to cluster {found.cluster_id or '(unnamed)'}, not to {cluster_id}",
        )
    return found


@contextlib.contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Hold the directory for this process alone. Raises BadRequest while another process does."""
    with _opened_lock(directory) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise BadRequest(
                "in_use", f"{directory} is in use by another {what} (process {holder})"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _opened_lock(directory: Path) -> TextIO:
    try:
        return (directory / "lock").open("a+")
    except OSError as exc:
        raise BadRequest(
            "bad_directory",
            f"{directory / 'lock'} cannot be opened: {exc.strerror}",
            allowed="a file of this user",
        ) from exc


def is_locked(directory: Path) -> bool:
    """Say whether some process holds the directory. Raises BadRequest when that cannot be known."""
    try:
        with (directory / "lock").open("r") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as exc:
        raise BadRequest(
            "bad_directory",
            f"{directory / 'lock'} cannot be opened: {exc.strerror}",
            allowed="a file of this user",
        ) from exc
    return False


def make_directory(path: Path) -> None:
    """Make a directory for its owner alone, unless it is there. Raises BadRequest when it cannot be
    used.
    """
    try:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        # Values and the secret are nobody else's, whatever the umask of this process is.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in missing:
            sync_directory(made.parent)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable", str(path))
    except OSError as exc:
        raise BadRequest("bad_directory", f"{path} cannot be used: {exc.strerror}") from exc


def write_whole(path: Path, content: bytes) -> None:
    """Replace a small file so that a crash leaves the old or the new one."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable: what it holds is relied on as soon as it was
    written.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, kind: type[_F], *, newest: int = FORMAT) -> _F:
    """Return what a file of ours holds.

    Raises BadRequest when it is damaged, or was written by a version that knows more.
    """
    try:
        raw = path.read_bytes()
        found = msgspec.json.decode(raw)
        if isinstance(found, dict) and found.get("format", newest) > newest:
            raise BadRequest(
                "newer_version",
                f"{path} was written by a newer version (format {found['format']}, this one knows "
                f"{newest})",
            )
        return msgspec.json.decode(raw, type=kind)
    except (OSError, msgspec.MsgspecError, TypeError, UnicodeDecodeError) as exc:
        raise BadRequest(
            "corrupt_file", f"{path} cannot be read: {exc}", allowed="the file as it was written"
        ) from exc
