"""Put listings in another order than that of keys, within bounds of revisions, or only count them:
all keys are looked at, at one revision. It never holds the event loop for all of them at once.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from kv.errors import BackendUnavailable, BadRequest
from kv.model import Version
from node.wire.text_fields import parse_flag, parse_revision

KEYS_MAX: Final = 100_000
"""Keys within the bounds, at most, unless they are only counted."""
SLICE: Final = 2_000
"""Keys after which other tasks of the event loop get a turn."""
_SORTS: Final[dict[str, Callable[[Version], bytes | int]]] = {
    "key": lambda version: version.key,
    "revision": lambda version: version.revision,
    "create_revision": lambda version: version.create_revision,
    "version": lambda version: version.version,
}
_BOUNDS: Final = (
    "min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision",
)  # fmt: skip
PARAMETERS: Final = ("sort", "order", "count_only", *_BOUNDS)


class Order(NamedTuple):
    """What a request asks for besides a range. Bounds of 0 are none."""

    sort: str = "key"
    descending: bool = False
    count_only: bool = False
    bounds: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def token(self) -> bytes:
        """What a page token is bound to; empty: the keys are listed as they come."""
        if self == _PLAIN:
            return b""
        shown = (self.sort, self.descending, *self.bounds)
        return b"|" + ",".join(map(str, shown)).encode()

    def wants(self, version: Version) -> bool:
        """Return whether a key is within the bounds."""
        least, most, least_created, most_created = self.bounds
        at, created = version.revision, version.create_revision
        return (
            at >= least
            and (not most or at <= most)
            and created >= least_created
            and (not most_created or created <= most_created)
        )

    async def put_in(self, found: list[Version], start: int, limit: int) -> list[Version]:
        """Return `limit` keys from the `start`th on, in this order."""
        runs: list[list[Version]] = []
        for first in range(0, len(found), SLICE):
            run = found[first : first + SLICE]
            run.sort(key=_SORTS[self.sort], reverse=self.descending)
            runs.append(run)
            await asyncio.sleep(0)
        merged: Iterable[Version] = heapq.merge(
            *runs, key=_SORTS[self.sort], reverse=self.descending
        )
        kept: list[Version] = []
        for place, version in enumerate(merged):
            if place >= start + limit:
                break
            if place >= start:
                kept.append(version)
            if place % SLICE == 0:
                await asyncio.sleep(0)
        return kept


_PLAIN: Final = Order()


def order_of(texts: Mapping[str, str]) -> Order:
    """Return the order that a request asks for. Raises BadRequest."""
    sort = texts.get("sort", "key")
    direction = texts.get("order", "asc")
    if sort not in _SORTS or direction not in {"asc", "desc"}:
        raise BadRequest(
            "bad_order",
            f"sort={sort[:20]!r}, order={direction[:20]!r}",
            allowed=f"sort: {', '.join(_SORTS)}; order: asc, desc",
        )
    bounds = [parse_revision(texts[name], name) if name in texts else 0 for name in _BOUNDS]
    least, most, least_created, most_created = bounds
    count_only = "count_only" in texts and parse_flag(texts["count_only"], "count_only")
    return Order(sort, direction == "desc", count_only, (least, most, least_created, most_created))


def check_count(count: int) -> None:
    """Raise BadRequest when there are too many keys to put in an order."""
    if count > KEYS_MAX:
        raise BadRequest(
            "listing_too_large",
            f"more than {KEYS_MAX} keys would have to be put in order",
            allowed="a narrower range, or narrower bounds",
        )


def offset_of(after: bytes) -> int:
    """Return the place from which a page token continues."""
    return int(after) if after.isdigit() else 0


def kept(version: Version | None) -> Version:
    """Return a version that was listed. Raises BackendUnavailable when it was pruned since."""
    if version is None:
        raise BackendUnavailable("store", "what was listed is no longer kept")
    return version
