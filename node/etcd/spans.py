"""Name ranges of keys and put them in order, as etcd's requests ask for. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from kv.leases import SYSTEM_PREFIX
from kv.model import Version
from node.etcd.messages import FROM_KEY, RangeRequest, SortOrder, SortTarget
from node.etcd.refusals import SYSTEM_KEY, Refusal
from node.wire.byte_forms import checked_key

HIDDEN: Final = SYSTEM_PREFIX
"""Keys that are the system's, which no client of etcd sees: none is told, and none is named."""

T = TypeVar("T")


def shown(key: bytes) -> bool:
    """Return whether a key is one that clients of etcd see."""
    return not key.startswith(HIDDEN)


def client_key(key: bytes) -> bytes:
    """Return a key that a client may compare or write. Raises Refusal, BadRequest."""
    if not shown(key):
        raise Refusal(*SYSTEM_KEY)
    return checked_key(key)


def covers(begin: bytes, end: bytes, key: bytes) -> bool:
    """Return whether a key lies in a range; without an end the range is one key."""
    if not end:
        return key == begin
    return key >= begin and (end == FROM_KEY or key < end)


def is_empty(begin: bytes, end: bytes) -> bool:
    """Return whether a range has an end, and no key before it."""
    return bool(end) and end != FROM_KEY and end <= begin


def common_prefix(begin: bytes, end: bytes) -> bytes:
    """Return the longest prefix of all keys of a range."""
    if not end:
        return begin
    if end == FROM_KEY:
        return b""
    if begin[:-1] == end[:-1] and begin and end and begin[-1] + 1 == end[-1]:
        return begin  # all keys that begin so, as clients name a prefix
    length = 0
    while length < min(len(begin), len(end)) and begin[length] == end[length]:
        length += 1
    return begin[:length]


def takes_all(asked: RangeRequest) -> bool:
    """Return whether all keys of a range are needed before the limit can be applied."""
    return asked.sort_order is not SortOrder.NONE or bool(
        asked.min_mod_revision
        or asked.max_mod_revision
        or asked.min_create_revision
        or asked.max_create_revision
    )


def chosen(found: Sequence[Version], asked: RangeRequest) -> tuple[list[Version], bool]:
    """Return the keys that a request asks for, in its order, and whether there are more."""
    kept = [version for version in found if is_wanted(version, asked)]
    key, reverse = sort_key(asked)
    if key is not None:
        kept.sort(key=key, reverse=reverse)
    return first(kept, asked)


def sort_key(asked: RangeRequest) -> tuple[Callable[[Version], Any] | None, bool]:
    """Return by what a request wants its keys sorted, and whether from the last on; None: by key,
    as they are read.
    """
    order = asked.sort_order
    if order is SortOrder.NONE and asked.sort_target is SortTarget.KEY:
        return None, False
    return _SORTED_BY[asked.sort_target], order is SortOrder.DESCEND


def first(found: list[Version], asked: RangeRequest) -> tuple[list[Version], bool]:
    """Return as many keys as a request has room for, and whether there are more."""
    limit = asked.limit
    return (found[:limit], True) if 0 < limit < len(found) else (found, False)


def is_wanted(version: Version, asked: RangeRequest) -> bool:
    """Return whether a key's numbers are within a request's bounds."""
    if asked.max_mod_revision and version.revision > asked.max_mod_revision:
        return False
    if asked.min_mod_revision and version.revision < asked.min_mod_revision:
        return False
    if asked.max_create_revision and version.create_revision > asked.max_create_revision:
        return False
    return not (asked.min_create_revision and version.create_revision < asked.min_create_revision)


def _value(version: Version) -> bytes:
    assert isinstance(version.value, bytes)  # whoever sorts by values has fetched them
    return version.value


_SORTED_BY: Final[dict[SortTarget, Callable[[Version], Any]]] = {
    SortTarget.KEY: lambda version: version.key,
    SortTarget.VERSION: lambda version: version.version,
    SortTarget.CREATE: lambda version: version.create_revision,
    SortTarget.MOD: lambda version: version.revision,
    SortTarget.VALUE: _value,
}
