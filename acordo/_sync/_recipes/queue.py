# Made by `make sync` from acordo/_recipes/queue.py; do not edit.
"""A queue: each item is taken by one taker, in the order in which the items were put."""

from __future__ import annotations

import contextlib
import time
from typing import Final

from acordo._errors import Pruned
from acordo._intents import Bytes, absent, as_bytes, at_revision, delete, key_bytes, put
from acordo._results import Found
from acordo._sync._base_client import new_op_id
from acordo._sync._client import SyncClient
from acordo._sync._recipes.counting import exactly_once

HEAD: Final = 8
"""Items that a taker looks at, oldest first: others may take the first ones meanwhile."""


class Queue:
    """A queue of up to 100,000 items, each under a key of its own, `NAME/ID`.

    `take` deletes the item that it returns: a taker that dies afterwards has taken it.
    """

    def __init__(self, client: SyncClient, name: Bytes) -> None:
        self._client, self._prefix = client, key_bytes(name) + b"/"

    def put(self, item: Bytes) -> int:
        """Put an item at the end, exactly once; return its revision. Raises what `Client.txn`
        raises.
        """
        raw = as_bytes(item, "item")
        while True:
            key = self._prefix + new_op_id().encode()
            revision = exactly_once(self._client, [absent(key)], [put(key, raw)])
            if revision is not None:
                return revision

    def take(self, *, timeout_s: float | None = 0.0) -> bytes | None:
        """Take the oldest item, exactly once; None: there was none within `timeout_s` seconds
        (None: wait as long as it takes). Raises what `Client.txn` raises.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            items, revision = self._oldest()
            for found in items:
                guards = [at_revision(found.key, found.revision)]
                if exactly_once(self._client, guards, [delete(found.key)]) is not None:
                    return found.value
            if items:
                continue
            left = 30.0 if deadline is None else deadline - time.monotonic()
            if left <= 0:
                return None
            with contextlib.suppress(Pruned):  # what was told is void, or too old: look anew
                self._client.poll(self._prefix, after=revision, wait_s=left)

    def size(self) -> int:
        """Return how many items wait. Raises ReadFailed, Unreachable."""
        count = 0
        for key, _ in self._client.keys(self._prefix):
            count += self._is_item(key)
        return count

    def _oldest(self) -> tuple[list[Found], int]:
        revision = 0
        for page in self._client.pages(self._prefix, limit=HEAD, sort="create_revision"):
            revision = page.revision
            if items := [found for found in page.found if self._is_item(found.key)]:
                return items, revision
        return [], revision

    def _is_item(self, key: bytes) -> bool:
        """Return whether it is ours, and not of a queue whose name begins with ours and a slash."""
        return b"/" not in key[len(self._prefix) :]
