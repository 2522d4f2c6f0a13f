"""Keep the local cluster's directory: who it belongs to, its secret, and who is running in it.

It refuses what it did not make or is too new for it, and never deletes or overwrites anything in
there.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TextIO, TypeVar

import msgspec

from kv.errors import BadRequest

FORMAT: Final = 1
"""Raised when an older runner or node could not use the directory."""
CHANGED_FORMAT: Final = 2
"""Of a `cluster.json` whose members are no longer the first ones: an older runner would start the
wrong ones.
"""
ID_PREFIX: Final = "n"

_F = TypeVar("_F")


class Place(msgspec.Struct, frozen=True):
    """A member and its ports: HTTP listens on base_port + `number`. A place is never given to
    another member.
    """

    id: str
    number: int
    state: Literal["member", "joining", "removed"] = "member"
    """joining: it runs, and may not vote yet. removed: it is not started again; its directory stays
    as it is.
    """
    first_members: str = ""
    """The member list that a later member was started with; empty for the first members, who were
    given each other.
    """


class ClusterFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """`cluster.json`: made once, with the cluster; `places` is written when members change."""

    format: int
    cluster_id: str
    nodes: int
    base_port: int
    places: tuple[Place, ...] = ()

    @property
    def all_places(self) -> tuple[Place, ...]:
        return self.places or self.first_places

    @property
    def first_places(self) -> tuple[Place, ...]:
        return tuple(Place(f"{ID_PREFIX}{number + 1}", number) for number in range(self.nodes))

    def with_place(self, place: Place) -> ClusterFile:
        """Return the file with one place new or changed."""
        kept = tuple(place if each.id == place.id else each for each in self.all_places)
        places = kept if place in kept else (*kept, place)
        return msgspec.structs.replace(self, format=CHANGED_FORMAT, places=places)


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


def find_cluster(
    data: Path,
    nodes: int | None,
    base_port: int | None,
    default: tuple[int, int],
    cluster_id: str = "",
) -> tuple[ClusterFile, bool]:
    """Return what the directory was made for, or would be, and whether it is new. Raises BadRequest
    for any other's.

    `nodes` and `base_port`: as asked for, or None to take what the directory says (`default`, when
    it is new). `cluster_id`: empty for a new random one; another is that of the store which the
    cluster is to go on with. It makes the directory; `keep_cluster` writes the file in it, once its
    ports are known to be free.
    """
    path = data / "cluster.json"
    make_directory(data)
    if not path.exists():
        strangers = sorted(p.name for p in data.iterdir() if p.name != "lock")
        if strangers:
            raise BadRequest(
                "foreign_directory",
                f"{data} is not empty and not a cluster's directory (it holds {', '.join(strangers[:5])})",
                allowed="an empty or new directory, or one made by this command",
            )
        return ClusterFile(
            FORMAT, cluster_id or secrets.token_hex(8), nodes or default[0], base_port or default[1]
        ), True
    found = read_cluster(data)
    for name, asked, has in (
        ("nodes", nodes, found.nodes),
        ("base port", base_port, found.base_port),
        ("cluster id", cluster_id or None, found.cluster_id),
    ):
        if asked is not None and asked != has:
            raise BadRequest(
                "other_cluster",
                f"{data} holds a cluster made with {name} {has}, not {asked}",
                allowed=f"{name} {has} (or nothing: the directory remembers it), or another directory",
            )
    return found, False


def keep_cluster(data: Path, file: ClusterFile) -> None:
    """Write `cluster.json`."""
    write_whole(data / "cluster.json", msgspec.json.format(msgspec.json.encode(file)))


def read_cluster(data: Path) -> ClusterFile:
    """Return what the directory was made for. Raises BadRequest when it is no cluster's, broken, or
    too new.
    """
    return _read(data / "cluster.json", ClusterFile, newest=CHANGED_FORMAT)


def claim_node(data_dir: Path, cluster_id: str, node_id: str) -> NodeFile:
    """Return whose directory this is, making it when it is new. Raises BadRequest when it is
    another's.
    """
    path = data_dir / "node.json"
    make_directory(data_dir)
    if not path.exists():
        write_whole(path, msgspec.json.encode(NodeFile(FORMAT, cluster_id, node_id)))
    found = _read(path, NodeFile)
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


def make_secret(path: Path) -> bool:
    """Make the shared secret once, readable by its owner alone; say whether it was made now.

    It authenticates what members say to each other, and encrypts nothing: certificates do
    (docs/security.md).
    """
    if path.exists():
        return False
    descriptor = os.open(path.with_suffix(".new"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(32) + "\n")
        file.flush()
        os.fsync(file.fileno())
    path.with_suffix(".new").rename(path)
    _sync_directory(path.parent)
    return True


def running(data: Path) -> Running | None:
    """Return who runs in this directory now; None when nobody does."""
    if not is_locked(data) or not (data / "running.json").exists():
        return None
    return _read(data / "running.json", Running)


def make_directory(path: Path) -> None:
    """Make a directory for its owner alone, unless it is there. Raises BadRequest when it cannot be
    used.
    """
    try:
        missing = [each for each in (path, *path.parents) if not each.exists()]
        # values and the secret are nobody else's
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for made in missing:
            _sync_directory(made.parent)
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
    _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    """Make the names in a directory durable: what it holds is relied on as soon as it was
    written.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path, kind: type[_F], *, newest: int = FORMAT) -> _F:
    try:
        raw = path.read_bytes()
        found = msgspec.json.decode(raw)
        if isinstance(found, dict) and found.get("format", newest) > newest:
            raise BadRequest(
                "newer_version",
                f"{path} was written by a newer version (format {found['format']}, this one knows {newest})",
            )
        return msgspec.json.decode(raw, type=kind)
    except (OSError, msgspec.MsgspecError, TypeError, UnicodeDecodeError) as exc:
        raise BadRequest(
            "corrupt_file", f"{path} cannot be read: {exc}", allowed="the file as it was written"
        ) from exc
