"""Run a node whose log is cut after a few hundred entries: `python -m tests.bugs.small_log`, in
place of `python -m node`.

No bug is planted. A member that was away, or lost its file, then needs a copy of another's store
within seconds, which a log of the usual size spares it.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from cluster.settings.node import NodeSettings
from coordinator.raft.core import compaction
from coordinator.raft.member import Settings
from node.startup import settings as startup

ENTRIES: Final = 200
KEPT_ENTRIES: Final = 50
KEPT_BYTES: Final = 16 << 10


def main() -> int:
    """Make the log small, then run the node."""
    right = startup.raft_settings

    def raft_settings(settings: NodeSettings) -> Settings:
        return msgspec.structs.replace(right(settings), compact_entries=ENTRIES, keep_bytes=0)

    startup.raft_settings = raft_settings
    compaction.KEEP_ENTRIES, compaction.KEEP_BYTES = KEPT_ENTRIES, KEPT_BYTES  # type: ignore[misc]  # constants of the product
    from node.__main__ import main as run_node

    return run_node(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
