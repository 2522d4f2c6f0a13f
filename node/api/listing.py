"""GET /v1/kv: list the keys under a prefix, or of a range, in byte order, now or as they were at a
revision, in pages that all show one revision (410 once that revision is pruned).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from aiohttp import web
from msgspec import UNSET, Raw, Struct

from kv.errors import BackendUnavailable, BadRequest, NotApplied
from kv.model import FROM_KEY, Version
from kv.ports import Listing
from node.exchange.exchange import Exchange
from node.exchange.parameters import parse_level
from node.judging.positions import check_given, check_in_force
from node.judging.store_identity import check_store_identity
from node.reads.levels import Level
from node.reads.orders import PARAMETERS, Order, check_count, kept, offset_of, order_of
from node.reads.separated import STEPS_MAX, Separator, separator_of
from node.reads.store_reads import check_snapshot
from node.wire.answers import version_answer
from node.wire.byte_forms import checked_key, checked_prefix, json_form
from node.wire.documents import encode
from node.wire.kept_positions import KeptPosition
from node.wire.page_tokens import PagePosition, place_of, token_of
from node.wire.text_fields import parse_count, parse_flag, parse_revision

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
STEP_KEYS: Final = 64
"""Keys read with their values in one store read: at most 4 MiB inline."""
OWN_STEP_KEYS: Final = 4
"""Keys of the first such read where values of every size are inline (R11). The next ones go by the
size of what was read.
"""
PAGE_BYTES: Final = 2 * 1024 * 1024
"""A page ends early once its keys and values take this many bytes; it always contains at least one
key. A larger page would block the event loop, and with it the election clock.
"""

TURN_BYTES: Final = 128 * 1024
"""Bytes of JSON after which other tasks of the event loop get a turn."""


async def get(x: Exchange) -> web.Response:
    """Return one page."""
    params = x.params(
        "prefix", "start", "end", "limit", "continue", "keys_only", "consistency", "min_revision",
        "revision", "separator", *PARAMETERS,
    )  # fmt: skip
    texts = {
        name: value.decode("utf-8", "replace")
        for name, value in params.items()
        if name not in {"prefix", "start", "end", "separator"}
    }
    span = _span(params)
    limit = parse_count(texts["limit"], "limit", LIMIT_MAX) if "limit" in texts else LIMIT_DEFAULT
    keys_only = "keys_only" in texts and parse_flag(texts["keys_only"], "keys_only")
    order = order_of(texts)
    separator = separator_of(params, ordered=bool(order.token) or order.count_only)
    binding = span.token + (order.token if separator is None else separator.token)
    place = (
        place_of(texts["continue"], binding, keys_only=keys_only) if "continue" in texts else None
    )
    if "revision" in texts:
        if place is not None:
            raise BadRequest(
                "conflicting_parameters", "the token says the revision", allowed="one of the two"
            )
        place = PagePosition(parse_revision(texts["revision"], "revision", low=1), b"")
    # A shared store answers every level from one snapshot, which is at least as fresh as each asks
    # for. A member's own one needs a quorum to confirm that it is the newest.
    level = parse_level(texts.get("consistency", "linearizable"))
    least = parse_revision(texts["min_revision"], "min_revision") if "min_revision" in texts else 0
    page: _Page
    if order.token:
        page = _OrderedPage(x, span, level, order, keys_only=keys_only, place=place)
    elif separator is not None:
        page = _SeparatedPage(x, span, level, separator, keys_only=keys_only, place=place)
    else:
        page = _Page(x, span, level, keys_only=keys_only, place=place)
    async with x.services.load.pages:
        connections = x.services.load.connections
        if connections is not None and not connections.has_room(PAGE_BYTES):
            raise NotApplied("overloaded", "too many bytes of answers wait for their readers")
        await page.gather(limit, least)
        return page.reply()


class _Span(NamedTuple):
    """The keys to list: those under a prefix, or, with an end, those of a range."""

    first: bytes
    end: bytes | None

    @property
    def token(self) -> bytes:
        """What a page token is bound to."""
        return self.first if self.end is None else b"%d:%b%b" % (
            len(self.first), self.first, self.end,
        )  # fmt: skip


def _span(params: Mapping[str, bytes]) -> _Span:
    """Return the keys that a request names. Raises BadRequest."""
    if "start" not in params and "end" not in params:
        return _Span(checked_prefix(params.get("prefix", b"")), None)
    if "prefix" in params:
        raise BadRequest(
            "conflicting_parameters", "a prefix is a range", allowed="prefix, or start and end"
        )
    end = checked_key(params["end"]) if "end" in params else FROM_KEY
    return _Span(checked_prefix(params.get("start", b"")), end)


class _Answer(Struct, frozen=True, omit_defaults=True, rename={"continue_": "continue"}):
    """A `ListingAnswer` whose items are already encoded as JSON."""

    revision: int
    items: list[Raw]
    continue_: str | None = None
    count: int | None = None
    prefixes: list[str | dict[str, str]] | None = None


class _Page:
    """A page being built: several steps of one listing, all at the revision of the first."""

    def __init__(
        self,
        x: Exchange,
        span: _Span,
        level: Level,
        *,
        keys_only: bool,
        place: PagePosition | None,
    ) -> None:
        self._x, self._span, self._keys_only = x, span, keys_only
        self._own = x.services.own is not None
        self._level: Level = level if self._own else "linearizable"
        self._after = place.after if place is not None else b""
        self._at = place.revision if place is not None else None
        self._term = place.term if place is not None else 0
        """Of the row that gave the revision `_at` (R12)."""
        self._items: list[Raw] = []
        self._since_turn = 0
        """Bytes of JSON since other tasks last got a turn."""
        self._bytes = 0
        self._more = True
        self._head = 0
        self._binding = span.token
        self._count: int | None = None
        """Of all keys, if it was asked for."""
        self._prefixes: list[str | dict[str, str]] | None = None
        """What further keys begin with, if they are folded at a separator."""

    async def gather(self, limit: int, least: int) -> None:
        """Add keys until the page is full. Raises Pruned, NotApplied, BackendUnavailable,
        BadRequest.
        """
        await self._reach(least)
        while self._more and len(self._items) < limit and self._bytes < PAGE_BYTES:
            left = limit - len(self._items)
            listing = await self._step(left if self._keys_only else min(left, self._step_keys()))
            self._note(listing, least)
            for place, version in enumerate(listing.versions):
                await self._take(version)
                if self._bytes >= PAGE_BYTES:
                    self._more = self._more or place < len(listing.versions) - 1
                    break

    def _note(self, listing: Listing, least: int) -> None:
        """Take the revision of the first step, and see that the next ones still show it. Raises
        NotApplied, Undone.
        """
        self._head = max(self._head, listing.head.last)
        if self._head < least:
            raise NotApplied("behind", f"nothing above revision {self._head} is known, not {least}")
        if self._at is None:
            self._at = listing.head.last
            self._term = listing.head.term if self._own else 0
        elif self._own:
            kept = KeptPosition(self._at, self._term)
            check_in_force(kept, self._x.services.consensus.holds_to(*kept))
        self._more = listing.more

    async def _reach(self, least: int) -> None:
        """Wait until this node has settled what the page has to show. Raises NotApplied,
        BadRequest, and Undone for a token of what the log has lost (R12).
        """
        reads, deadline = self._x.services.reads, self._x.deadline
        if not self._own:
            # Do not refuse yet if this node lags: the store may be ahead of what is settled here.
            await reads.reach(least, "revision", deadline)
            return
        if self._at is None and self._level == "linearizable":
            await reads.confirm_store(deadline)
        wanted = max(least, self._at or 0)
        kept = KeptPosition(self._at or 0, self._term)
        if not (
            await reads.reach_kept(kept, "revision", deadline)
            and await reads.reach(wanted, "revision", deadline)
        ):
            raise reads.behind(wanted)

    def _step_keys(self) -> int:
        if not self._own:
            return STEP_KEYS
        if not self._items:
            return OWN_STEP_KEYS
        each = max(1, self._bytes // len(self._items))
        return max(OWN_STEP_KEYS, min(STEP_KEYS, PAGE_BYTES // each))

    async def _step(self, limit: int, *, values: bool = True) -> Listing:
        services, left_s = (
            self._x.services,
            min(self._x.left_s, self._x.services.settings.store_timeout_s),
        )
        services.reads.store.check_refusal()
        settled = services.consensus.settled
        try:
            async with asyncio.timeout(left_s):
                listing = await services.store.list(
                    self._span.first,
                    end=self._span.end,
                    after=self._after,
                    limit=limit,
                    at=self._at,
                    settled=settled.last,
                    keys_only=self._keys_only or not values,
                    timeout_s=left_s,
                )
        except TimeoutError as exc:
            raise BackendUnavailable("store", f"no answer within {left_s:.1f} s") from exc
        check_snapshot(settled, listing.head, listing.digest_at)
        await check_store_identity(services.consensus, services.shared, settled, timeout_s=left_s)
        if self._at is not None:
            check_given(self._at, listing.head.last, "the revision")
        return listing

    async def _take(self, version: Version) -> None:
        value = (
            None
            if self._keys_only
            else await self._x.services.reads.store.value_of(version, deadline=self._x.deadline)
        )
        shown = UNSET if value is None else value
        answer = encode(version_answer(version, shown))
        self._items.append(Raw(answer))
        self._since_turn += len(answer)
        if self._since_turn >= TURN_BYTES:
            self._since_turn = 0
            await asyncio.sleep(0)
        self._bytes += len(version.key) + (0 if value is None else len(value))
        self._after = version.key

    def reply(self) -> web.Response:
        at = self._at or 0
        token = None
        if self._more and (self._items or self._prefixes):
            place = PagePosition(at, self._after, term=self._term)
            token = token_of(place, self._binding, keys_only=self._keys_only)
        more: dict[str, str] = {"Acordo-Level": self._level, "Acordo-Source": "store"}
        page = _Answer(at, self._items, token, self._count, self._prefixes)
        return self._x.json(page, revision=at, more=more)

    async def _whole(self, versions: list[Version]) -> list[Version]:
        """Return versions that were listed without their values with them, if they are wanted."""
        if self._keys_only:
            return versions
        timeout_s = min(self._x.left_s, self._x.services.settings.store_timeout_s)
        places = [(version.key, version.revision) for version in versions]
        found = await self._x.services.store.versions(places, timeout_s=timeout_s)
        return [kept(version) for version in found]


class _OrderedPage(_Page):
    """A page of a listing in an order, or within bounds; or only the number of its keys."""

    def __init__(
        self,
        x: Exchange,
        span: _Span,
        level: Level,
        order: Order,
        *,
        keys_only: bool,
        place: PagePosition | None,
    ) -> None:
        super().__init__(x, span, level, keys_only=keys_only, place=place)
        self._order = order
        self._binding = span.token + order.token
        self._start, self._after = offset_of(self._after), b""

    async def gather(self, limit: int, least: int) -> None:
        """Look at all keys, and read those of the page. Raises as that of other pages."""
        wanted = await self._found(least)
        self._more = False
        if self._order.count_only:
            return
        page = await self._order.put_in(wanted, self._start, limit)
        for first in range(0, len(page), OWN_STEP_KEYS):
            for version in await self._whole(page[first : first + OWN_STEP_KEYS]):
                if self._bytes < PAGE_BYTES:
                    await self._take(version)
            if self._bytes >= PAGE_BYTES:
                break
        reached = self._start + len(self._items)
        self._more = reached < (self._count or 0)
        self._after = b"%d" % reached

    async def _found(self, least: int) -> list[Version]:
        """Return all keys within the bounds, without values, and count them."""
        await self._reach(least)
        found: list[Version] = []
        count = 0
        while self._more:
            listing = await self._step(LIMIT_MAX, values=False)
            self._note(listing, least)
            kept_ = [each for each in listing.versions if self._order.wants(each)]
            count += len(kept_)
            if not self._order.count_only:
                check_count(count)
                found += kept_
            self._after = listing.versions[-1].key if listing.versions else b""
            self._more = self._more and bool(listing.versions)
        self._count = count
        return found


class _SeparatedPage(_Page):
    """A page of the keys right under a prefix, and of the folders that the others are in."""

    def __init__(
        self,
        x: Exchange,
        span: _Span,
        level: Level,
        separator: Separator,
        *,
        keys_only: bool,
        place: PagePosition | None,
    ) -> None:
        super().__init__(x, span, level, keys_only=keys_only, place=place)
        self._separator = separator
        self._binding = span.token + separator.token
        self._folders: list[str | dict[str, str]] = []
        self._prefixes = self._folders
        self._last = self._after
        """The key or the folder that was shown last."""

    async def gather(self, limit: int, least: int) -> None:
        """Add keys and folders until the page is full. Raises as that of other pages."""
        await self._reach(least)
        for _ in range(STEPS_MAX):
            if not self._more or self._full(limit):
                break
            begins = self._separator.go_on_after(self._last)
            if begins is None:
                break
            first, end, self._after = begins
            self._span = _Span(first, end)
            listing = await self._step(STEP_KEYS, values=False)
            self._note(listing, least)
            await self._show(self._separator.fold(listing.versions, self._last), limit)
        self._more = self._more and self._separator.go_on_after(self._last) is not None
        self._after = self._last

    def _full(self, limit: int) -> bool:
        shown = len(self._items) + len(self._folders)
        return shown >= limit or self._bytes >= PAGE_BYTES

    async def _show(self, found: list[Version | bytes], limit: int) -> None:
        """Add what one read found, with the values of a few keys at a time."""
        whole: dict[bytes, Version] = {}
        for place, each in enumerate(found):
            if self._full(limit):
                self._more = True
                return
            if isinstance(each, bytes):
                self._folders.append(json_form(each))
                self._bytes += len(each)
                self._last = each
                continue
            if each.key not in whole:
                ahead = found[place : place + OWN_STEP_KEYS]
                keys = [one for one in ahead if not isinstance(one, bytes)]
                whole = {one.key: one for one in await self._whole(keys)}
            await self._take(whole[each.key])
            self._last = each.key
