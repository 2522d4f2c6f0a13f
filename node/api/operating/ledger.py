"""GET /v1/ledger: list the ledger's rows by `seq`, so that anyone can recompute the chain of
digests.
"""

from __future__ import annotations

from typing import Any, Final

from aiohttp import web

from node.exchange.exchange import Exchange
from node.judging.positions import check_given
from node.wire.answers import LedgerAnswer, ledger_row
from node.wire.documents import encode
from node.wire.text_fields import parse_count, parse_revision

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
STEP_ROWS: Final = 64
PAGE_BYTES: Final = 2 * 1024 * 1024
"""A page ends early once it has about this many bytes; it always contains at least one row."""


async def get(x: Exchange) -> web.Response:
    """Return rows from a `seq` on, and the `seq` at which to continue."""
    params = x.text_params("from", "limit")
    at = parse_revision(params["from"], "from") if "from" in params else 0
    limit = parse_count(params["limit"], "limit", LIMIT_MAX) if "limit" in params else LIMIT_DEFAULT
    rows: list[dict[str, Any]] = []
    size = 0
    following: int | None = at
    while following is not None and len(rows) < limit and size < PAGE_BYTES:
        asked = min(limit - len(rows), STEP_ROWS)
        step = await x.services.store.ledger(
            following, asked, timeout_s=min(x.left_s, x.services.settings.store_timeout_s)
        )
        following = step[-1].seq + 1 if len(step) == asked else None
        for place, row in enumerate(step):
            form = ledger_row(row)
            size += len(encode(form))
            rows.append(form)
            if size >= PAGE_BYTES and place < len(step) - 1:
                following = row.seq + 1
                break
    if at and not rows:
        # What a member's own store lacks, another member may have.
        await x.services.reads.confirm_store(x.deadline)
        head = await x.services.store.head(
            timeout_s=min(x.left_s, x.services.settings.store_timeout_s)
        )
        # Asking for the next seq is valid: a client that follows the ledger asks for it again and
        # again.
        check_given(at, head.seq + 1, "seq")
    return x.json(LedgerAnswer(rows, following))
