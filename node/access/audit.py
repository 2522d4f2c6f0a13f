"""Record what admins do that is no write itself: the ledger then says who did it, and when.

What is recorded is that it was asked for: the entry is ordered before it is done. Nothing is held
up where nothing can be ordered: the log has a line for each action, recorded or not.
"""

from __future__ import annotations

from typing import Final

import msgspec
import structlog

from kv.access import AUDIT, Rights
from kv.errors import KvError
from kv.model import Applied, Intent, Put
from node.access.access import Access
from node.writes.writes import Writes

WAIT_S: Final = 2.0
"""How long an action waits for its entry: without a quorum, what mends that has to go on."""
PATH_CHARS_MAX: Final = 300
KEPT_MS: Final = 86_400_000
"""How long the key of an entry stays. The ledger's row, which says the same, stays as long as any;
without an end, keys would grow with every path that was ever asked for.
"""

log = structlog.get_logger("acordo.access")


class Entry(msgspec.Struct, frozen=True):
    """What stands in an entry beside its principal, time and name."""

    node: str
    request_id: str | None


class Audit:
    """The record that one node keeps of what admins have it do."""

    def __init__(self, access: Access, writes: Writes, node: str) -> None:
        self._access, self._writes, self._node = access, writes, node

    async def record(
        self, by: Rights, method: str, path: str, *, request_id: str | None, left_s: float
    ) -> None:
        """Log an action, and record it in the ledger while access is controlled."""
        asked = f"{method} {path[:PATH_CHARS_MAX]}"
        recorded = by.principal is not None and await self._recorded(by, asked, request_id, left_s)
        log.info(
            "admin action",
            principal=by.principal,
            method=method,
            path=path[:PATH_CHARS_MAX],
            request_id=request_id,
            recorded=recorded,
        )

    async def _recorded(
        self, by: Rights, asked: str, request_id: str | None, left_s: float
    ) -> bool:
        entry = msgspec.json.encode(Entry(self._node, request_id))
        op_id = by.tagged(self._writes.new_op_id())
        intent = Intent(
            op_id, 0, (), (Put(AUDIT + asked.encode(errors="replace"), entry, KEPT_MS),)
        )
        deadline = self._access.monotonic() + min(left_s / 2, WAIT_S)
        try:
            answer = await self._writes.one(intent, deadline=deadline, system=True)
        except (KvError, TimeoutError) as exc:
            log.warning("an admin's action is not in the ledger", asked=asked, reason=str(exc))
            return False
        return isinstance(answer.outcome, Applied)
