"""List the nemeses by name and by family, for the command line and for runs."""

from __future__ import annotations

from typing import Final

from chaos.nemeses import (
    backends,
    clocks,
    disks,
    links,
    member_disks,
    member_files,
    members,
    packets,
    processes,
    store,
)
from chaos.nemeses.base import Nemesis
from chaos.nemeses.containers import CONTAINER_NEMESES

_KINDS: Final[tuple[type[Nemesis], ...]] = (
    processes.KillLeader,
    processes.KillFollower,
    processes.KillMinority,
    processes.KillMajority,
    processes.KillAll,
    processes.PauseLeader,
    processes.PauseFollower,
    processes.PauseMinority,
    processes.PauseAll,
    processes.Stutter,
    processes.StaggeredRestart,
    processes.RollingRestart,
    links.Halves,
    links.IsolateLeader,
    links.IsolateFollower,
    links.IsolateLeaderFromClients,
    links.OneWay,
    links.Ring,
    links.Bridge,
    links.Flapping,
    links.Slow,
    links.SlowOne,
    links.SlowFollower,
    links.LateEcho,
    links.Lossy,
    links.ResetClients,
    clocks.ClockJump,
    clocks.ClockJumpMost,
    disks.DiskFull,
    disks.TornJournal,
    store.StoreBusy,
    disks.SlowDisk,
    disks.HungDisk,
    member_disks.PowerCut,
    member_disks.PowerCutLeader,
    member_disks.PowerCutAll,
    member_disks.StoreFull,
    member_disks.StoresFull,
    member_disks.StoreSlow,
    member_files.StoreTruncated,
    member_files.StoreFlipped,
    member_files.StoreDeleted,
    member_files.WalDeleted,
    member_files.StoreOld,
    member_files.MemberWiped,
    member_files.MembersWipedInTurn,
    members.MemberChurn,
    members.TransferLeader,
    packets.DropPackets,
    *backends.FAULTS,
)
NEMESES: Final[dict[str, type[Nemesis]]] = {n.name: n for n in _KINDS}

EVERY: Final[dict[str, type[Nemesis]]] = NEMESES | CONTAINER_NEMESES
"""All nemeses, including those of `--target docker`, which "all" leaves out; their family is called
"containers".
"""

FAMILIES: Final[dict[str, tuple[str, ...]]] = {
    "kill": ("kill-leader", "kill-follower", "kill-minority", "kill-majority", "kill-all"),
    "pause": ("pause-leader", "pause-follower", "pause-minority", "pause-all", "stutter"),
    "restart": ("staggered-restart", "rolling-restart"),
    "partition": (
        "partition-halves",
        "isolate-leader",
        "isolate-follower",
        "isolate-leader-from-clients",
        "one-way",
        "partition-ring",
        "partition-bridge",
        "partition-flapping",
    ),
    "weather": ("slow", "slow-one", "slow-follower", "late-echo", "lossy", "reset-clients"),
    "clock": ("clock-jump", "clock-jump-most"),
    "disk": ("disk-full", "torn-journal", "store-busy", "slow-disk", "hung-disk"),
    "power": ("power-cut", "power-cut-leader", "power-cut-all"),
    "own-disk": ("store-full", "stores-full", "store-slow"),
    "own-file": (
        "store-truncated",
        "store-flipped",
        "store-deleted",
        "store-wal-deleted",
        "store-old",
    ),
    "wipe": ("member-wiped", "members-wiped-in-turn"),
    "members": ("member-churn", "transfer-leader"),
    "packets": ("drop-packets",),
    "postgres": ("postgres-kill", "postgres-pause", "postgres-slow"),
    "redis": ("redis-kill", "redis-pause", "redis-slow", "redis-wipe"),
    "rabbitmq": ("rabbitmq-kill", "rabbitmq-pause", "rabbitmq-slow", "rabbitmq-wipe"),
}


def expand(names: str) -> list[str]:
    """Expand a comma-separated list of names and families.

    Raises KeyError with an unknown name.
    """
    found: list[str] = []
    for name in filter(None, (n.strip() for n in names.split(","))):
        if name in FAMILIES:
            found += FAMILIES[name]
        elif name == "all":
            found += NEMESES
        elif name == "containers":
            found += CONTAINER_NEMESES
        else:
            found.append(EVERY[name].name)
    return list(dict.fromkeys(found))


def grouped(names: str) -> dict[str, list[str]]:
    """Expand a list, grouped by the given names, so that each of these gets its turn.

    Raises KeyError with an unknown name.
    """
    found: dict[str, list[str]] = {}
    for name in filter(None, (n.strip() for n in names.split(","))):
        if name == "all":
            found |= {family: list(members) for family, members in FAMILIES.items()}
        else:
            found[name] = expand(name)
    return found
