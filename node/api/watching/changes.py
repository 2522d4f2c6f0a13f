"""Show changes in JSON, for all that watch them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from kv.access import plain_op_id
from kv.errors import BackendUnavailable
from kv.model import Version
from kv.ports import Change
from node.exchange.exchange import Exchange
from node.wire.byte_forms import json_form
from node.wire.lease_forms import lease_id

PIECE_BYTES: Final = 64 * 1024
"""After a value of this many bytes other tasks get a turn: those of one revision may have 4 MiB
together.
"""


async def change_forms(x: Exchange, change: Change) -> AsyncIterator[tuple[str, dict[str, object]]]:
    """Yield what happened to each key of a change: "put" or "delete", and its form."""
    for version in change.versions:
        form: dict[str, object] = {"key": json_form(version.key), "revision": change.revision}
        size = 0
        if version.present:
            value = await _value(x, version)
            size = len(value)
            form["value"] = json_form(value)
        if version.expires_ms is not None:
            form["expires_ms"] = version.expires_ms
        if version.present:
            form["create_revision"] = version.create_revision
            form["version"] = version.version
        if version.lease:
            form["lease"] = lease_id(version.lease)
        form["op_id"] = plain_op_id(change.op_id)
        form["log_time_ms"] = change.log_time_ms
        yield "put" if version.present else "delete", form
        if size >= PIECE_BYTES:
            await asyncio.sleep(0)


async def _value(x: Exchange, version: Version) -> bytes:
    deadline = x.services.clock.monotonic() + x.services.settings.store_timeout_s
    value = await x.services.reads.store.value_of(version, deadline=deadline)
    if value is None:
        raise BackendUnavailable("store", "a present version without a value")
    return value
