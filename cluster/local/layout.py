"""Read and write the files of a local cluster's directory: its identity, secret, and processes.

It refuses a directory that it did not make or that a newer version made, and never deletes or
overwrites anything else in there.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final, Literal

import msgspec

from cluster.directory import (
    FORMAT,
    StoreKind,
    check_kind,
    is_locked,
    make_directory,
    read_file,
    sync_directory,
    write_whole,
)
from kv.errors import BadRequest

CHANGED_FORMAT: Final = 2
"""Format of a `cluster.json` whose members have changed since the start. An older runner would
start the wrong members, and this number makes it refuse the file.
"""
OWN_FORMAT: Final = 3
"""Format of the `cluster.json` of a replicated store, whether or not members have changed. Version
0.1 would start its nodes on one shared file, and this number makes it refuse the directory.
"""
ID_PREFIX: Final = "n"


class Place(msgspec.Struct, frozen=True):
    """A member and its ports: HTTP listens on base_port + `number`.

    A place is never given to another member.
    """

    id: str
    number: int
    state: Literal["member", "joining", "removed"] = "member"
    """joining: the member runs but has no vote yet. removed: it is not started again, and its
    directory stays as it is.
    """
    first_members: str = ""
    """The member list with which a member that was added later was started. Empty for the first
    members, which were started with each other.
    """


class ClusterFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """The content of `cluster.json`, written once with the cluster; `places` is updated when
    members change.
    """

    format: int
    cluster_id: str
    nodes: int
    base_port: int
    places: tuple[Place, ...] = ()
    store: StoreKind = "shared"

    @property
    def all_places(self) -> tuple[Place, ...]:
        """Return every place that was ever given, including those of removed members."""
        return self.places or self.first_places

    @property
    def first_places(self) -> tuple[Place, ...]:
        """Return the places of the first members."""
        return tuple(Place(f"{ID_PREFIX}{number + 1}", number) for number in range(self.nodes))

    def with_place(self, place: Place) -> ClusterFile:
        """Return a copy with one place added or changed."""
        kept = tuple(place if each.id == place.id else each for each in self.all_places)
        places = kept if place in kept else (*kept, place)
        return msgspec.structs.replace(self, format=max(self.format, CHANGED_FORMAT), places=places)


class RunningNode(msgspec.Struct, frozen=True):
    """One node of a running cluster, as `running.json` lists it."""

    id: str
    pid: int | None
    url: str
    raft_address: str


class Running(msgspec.Struct, frozen=True):
    """The content of `running.json`: the runner and its processes. It is rewritten whenever one
    changes.
    """

    runner_pid: int
    nodes: tuple[RunningNode, ...]


def find_cluster(
    data: Path,
    nodes: int | None,
    base_port: int | None,
    default: tuple[int, int],
    cluster_id: str = "",
    *,
    store: StoreKind = "shared",
) -> tuple[ClusterFile, bool]:
    """Return the directory's cluster, or the one to create there, and whether it is new.

    `nodes` and `base_port` are the values that the user gave. None takes what the directory says,
    or `default` if it is new. An empty `cluster_id` creates a random one; any other is that of the
    store which the cluster continues.

    Raises BadRequest if the directory holds another cluster or something else. This creates the
    directory only; `keep_cluster` writes the file, once the ports are known to be free.
    """
    path = data / "cluster.json"
    make_directory(data)
    if not path.exists():
        others = sorted(p.name for p in data.iterdir() if p.name != "lock")
        if others:
            raise BadRequest(
                "foreign_directory",
                f"{data} is not empty and not a cluster's directory (it holds "
                f"{', '.join(others[:5])})",
                allowed="an empty or new directory, or one made by this command",
            )
        return ClusterFile(
            FORMAT if store == "shared" else OWN_FORMAT,
            cluster_id or secrets.token_hex(8),
            nodes or default[0],
            base_port or default[1],
            store=store,
        ), True
    found = read_cluster(data)
    check_kind(data, found.store, store)
    for name, asked, has in (
        ("nodes", nodes, found.nodes),
        ("base port", base_port, found.base_port),
        ("cluster id", cluster_id or None, found.cluster_id),
    ):
        if asked is not None and asked != has:
            raise BadRequest(
                "other_cluster",
                f"{data} holds a cluster made with {name} {has}, not {asked}",
                allowed=f"{name} {has} (or nothing: the directory remembers it), or another "
                "directory",
            )
    return found, False


def keep_cluster(data: Path, file: ClusterFile) -> None:
    """Write `cluster.json`."""
    write_whole(data / "cluster.json", msgspec.json.format(msgspec.json.encode(file)))


def read_cluster(data: Path) -> ClusterFile:
    """Read `cluster.json`. Raises BadRequest if it is missing, damaged or too new."""
    return read_file(data / "cluster.json", ClusterFile, newest=OWN_FORMAT)


def make_secret(path: Path) -> bool:
    """Create the shared secret if it is missing, readable by its owner alone. Return whether it was
    created.

    The secret authenticates members to each other. It encrypts nothing: that needs certificates
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
    sync_directory(path.parent)
    return True


def running(data: Path) -> Running | None:
    """Return the runner and nodes that run in this directory now; None if none do."""
    if not is_locked(data) or not (data / "running.json").exists():
        return None
    return read_file(data / "running.json", Running)
