"""Manage a directory that belongs to one cluster or node: create, lock, claim, and write whole
files.

It refuses a directory that belongs to another node or that a newer version wrote, and never deletes
anything in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TextIO, TypeAlias, TypeVar

import msgspec

from kv.errors import BadRequest

FORMAT: Final = 1
"""Format number, increased when an older runner or node could not use the directory."""
OWN_FORMAT: Final = 2
"""Format of `node.json` of a member that keeps its own copy of the store: version 0.1 knows of no
such member, and this number makes it refuse the directory.
"""

RESTORING: Final = "restoring"
"""Marks a directory that is being made out of a backup."""

StoreKind: TypeAlias = Literal["shared", "replicated"]

KINDS: Final[dict[StoreKind, str]] = {
    "shared": "a store that all members share",
    "replicated": "the replicated store, of which every member keeps its own copy",
}
WAY_OVER: Final = (
    "the ACORDO_STORE that it was made with, or a new directory. What is in the old cluster comes "
    "over by `acordo dump` there, with version 0.1 if its store is a SQLite file, and `acordo "
    "load` in the new one: expiries are kept, op_ids and history are not"
)

_F = TypeVar("_F")


class NodeFile(msgspec.Struct, frozen=True):
    """The content of `node.json` in a node's own directory, written once when the node is new."""

    format: int
    cluster_id: str
    node_id: str
    store: StoreKind = "shared"


def check_kind(directory: Path, made_with: StoreKind, asked: StoreKind) -> None:
    """Raise BadRequest("other_store") if a directory was made with another kind of store."""
    if made_with != asked:
        raise BadRequest(
            "other_store",
            f"{directory} was made with {KINDS[made_with]}, and the settings say {KINDS[asked]}; "
            "nothing in it was touched",
            allowed=WAY_OVER,
        )


def claim_node(
    data_dir: Path,
    cluster_id: str,
    node_id: str,
    store: StoreKind = "shared",
    *,
    restoring: bool = False,
) -> NodeFile:
    """Create `node.json` in a new directory, or check the one that is there, and return it.

    Raises BadRequest if the directory belongs to another node or cluster, was made with another
    kind of store, or is being made out of a backup by another than the caller (`restoring`).
    """
    path = data_dir / "node.json"
    make_directory(data_dir)
    if is_restoring(data_dir) and not restoring:
        raise BadRequest(
            "half_restored",
            f"{data_dir} was being restored from a backup, and that did not end",
            allowed="the same `python -m node --restore` again, which begins anew",
        )
    if not path.exists():
        format = FORMAT if store == "shared" else OWN_FORMAT
        write_whole(path, msgspec.json.encode(NodeFile(format, cluster_id, node_id, store)))
    found = read_file(path, NodeFile, newest=OWN_FORMAT)
    if found.node_id != node_id:
        raise BadRequest(
            "other_node", f"{data_dir} belongs to node {found.node_id}, not to {node_id}"
        )
    if cluster_id and found.cluster_id != cluster_id:
        raise BadRequest(
            "other_cluster",
            f"{data_dir} belongs to cluster {found.cluster_id or '(unnamed)'}, not to {cluster_id}",
        )
    check_kind(data_dir, found.store, store)
    return found


def start_restoring(directory: Path) -> None:
    """Mark a directory as one that is made out of a backup, durably: no node starts from it."""
    (directory / RESTORING).touch()
    sync_directory(directory)


def is_restoring(directory: Path) -> bool:
    """Return whether a directory is being made out of a backup, or that was interrupted."""
    return (directory / RESTORING).exists()


def finish_restoring(directory: Path) -> None:
    """Take the mark away: all of the directory is there."""
    sync_directory(directory)
    (directory / RESTORING).unlink()
    sync_directory(directory)


@contextlib.contextmanager
def locked(directory: Path, what: str) -> Iterator[None]:
    """Lock the directory for this process. Raises BadRequest while another process holds it."""
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
    """Return whether a process holds the directory's lock.

    Raises BadRequest if the lock file cannot be opened.
    """
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
    """Create a directory that only its owner can use, with its parents, unless it exists.

    Raises BadRequest if it cannot be created or is not writable.
    """
    try:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        # The mode is given here because the umask may let others read, and the directory will hold
        # values and the secret.
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in missing:
            sync_directory(made.parent)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(13, "not writable", str(path))
    except OSError as exc:
        raise BadRequest("bad_directory", f"{path} cannot be used: {exc.strerror}") from exc


def write_whole(path: Path, content: bytes) -> None:
    """Replace a small file atomically: after a crash either the old or the new content is there."""
    new = path.with_name(path.name + ".new")
    with new.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Fsync a directory, so that files created or renamed in it survive a crash."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_file(path: Path, kind: type[_F], *, newest: int = FORMAT) -> _F:
    """Decode one of our JSON files.

    Raises BadRequest if it is damaged or was written by a newer version (its format is above
    `newest`).
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
    except (OSError, msgspec.MsgspecError, TypeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRequest(
            "corrupt_file", f"{path} cannot be read: {exc}", allowed="the file as it was written"
        ) from exc
