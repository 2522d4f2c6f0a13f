"""Collect what each member answers by itself: its ledger, and its contents at one revision.

It judges nothing, and leaves out a member that does not answer whole.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

import msgspec

from acordo import AcordoError, Client, LedgerRow
from chaos.records.final_state import CopiedKey, CopiedRow, MemberCopy

TIMEOUT_S: Final = 15.0
"""Longest wait for one page."""
ROUNDS: Final = 5
"""Most times that all copies are read again because one grew meanwhile: keys may still expire."""
PAUSE_S: Final = 0.5


async def collect_copies(
    nodes: Sequence[str], urls: Sequence[str], settled: int
) -> tuple[MemberCopy, ...]:
    """Read every member's ledger and contents, at revision `settled` or above, until all were read
    at the same revision.

    `nodes` are the members' names in the order of `urls`.
    """
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(url, timeout_s=TIMEOUT_S)) for url in urls
        ]
        for _ in range(ROUNDS):
            found = await asyncio.gather(
                *(_copy(n, c, settled) for n, c in zip(nodes, clients, strict=True))
            )
            copies = tuple(copy for copy in found if copy is not None)
            ends = {(c.revision, c.rows[-1].seq if c.rows else 0) for c in copies}
            if len(ends) <= 1:
                break
            await asyncio.sleep(PAUSE_S)
    return copies


async def _copy(node: str, client: Client, settled: int) -> MemberCopy | None:
    revision = 0
    keys: list[CopiedKey] = []
    try:
        async for page in client.pages(b"", min_revision=settled, timeout_s=TIMEOUT_S):
            revision = page.revision
            for found in page.found:
                value = hashlib.blake2b(found.value, digest_size=16).hexdigest()
                keys.append(
                    CopiedKey(_text(found.key), found.revision, value, found.expires_ms or 0)
                )
        rows = [_row(row) async for row in client.ledger(1, timeout_s=TIMEOUT_S)]
    except AcordoError:
        return None
    return MemberCopy(node, revision, tuple(rows), tuple(keys))


def _row(row: LedgerRow) -> CopiedRow:
    body = msgspec.json.encode(row.body, order="deterministic")
    return CopiedRow(
        seq=row.seq,
        index=row.index,
        term=row.term,
        committer=row.committer,
        first=row.first,
        last=row.last,
        log_time_ms=row.log_time_ms,
        digest=row.digest,
        content=row.content,
        body=hashlib.blake2b(body, digest_size=16).hexdigest(),
    )


def _text(key: bytes) -> str:
    """Return a key as the ledger's rows name it."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return "base64:" + msgspec.json.encode(key).decode().strip('"')
