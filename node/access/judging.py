"""Name what an intent reads and writes, and keep its ranges off what is hidden. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from kv.access import Action, Rights, end_of
from kv.branches import every_guard, every_write
from kv.errors import NotAllowed
from kv.model import FROM_KEY, Compare, DeleteRange, EndLease, Intent, Nested, PutWith, Write


def overlaps(begin: bytes, end: bytes, prefix: bytes) -> bool:
    """Return whether a range (`end` as in `kv.model.Compare`) has keys under a prefix."""
    if not end:
        return begin.startswith(prefix)
    behind = end_of(prefix)
    return (end == FROM_KEY or end > prefix) and (behind is None or begin < behind)


def check(rights: Rights, action: Action, begin: bytes, end: bytes = b"") -> None:
    """Raise NotAllowed unless all keys of a range that are not hidden may be read or written. A
    single hidden key, and a range of nothing else, may not.
    """
    hidden = rights.hidden
    inside = begin.startswith(hidden) and (not end or _ends_in(end, hidden))
    if inside or not rights.may(action, begin, end):
        of = begin[:64].decode("utf-8", "backslashreplace")
        what = f"the keys from {of!r} on" if end else f"the key {of!r}"
        raise NotAllowed(f"no right to {action} {what}")


def _ends_in(end: bytes, prefix: bytes) -> bool:
    behind = end_of(prefix)
    return end != FROM_KEY and behind is not None and end <= behind


def check_intent(rights: Rights, intent: Intent) -> None:
    """Raise NotAllowed unless a principal may do all that an intent may do, on each of its paths.
    A guard reads: its outcome tells of its key.
    """
    for key in intent.reads:
        check(rights, "read", key)
    for guard in every_guard(intent):
        end = guard.end if isinstance(guard, Compare) else b""
        check(rights, "read", guard.key, end)
        if end and overlaps(guard.key, end, rights.hidden):
            raise NotAllowed("a guard on a range has to leave out the keys of the system")
    for write in every_write(intent):
        match write:
            case EndLease():
                raise NotAllowed("a lease is ended by its own request")
            case DeleteRange():
                check(rights, "write", write.key, write.end)
            case _:
                check(rights, "write", write.key)
        if isinstance(write, PutWith):
            _check_with(rights, write)


def _check_with(rights: Rights, write: PutWith) -> None:
    if write.keep_value or write.keep_lease:
        check(rights, "read", write.key)  # whether the key is there is told
    if write.lease and not rights.owns(write.lease):
        raise NotAllowed("the lease is another's")


def sparing(intent: Intent, hidden: bytes) -> Intent:
    """Return the intent with the hidden keys left out of the ranges that it deletes."""
    ranges = (write for write in every_write(intent) if isinstance(write, DeleteRange))
    if not any(overlaps(each.key, each.end, hidden) for each in ranges):
        return intent
    return replace(
        intent,
        writes=tuple(_spared(intent.writes, hidden)),
        otherwise=None if intent.otherwise is None else tuple(_spared(intent.otherwise, hidden)),
    )


def _spared(writes: tuple[Write, ...], hidden: bytes) -> Iterator[Write]:
    for write in writes:
        if isinstance(write, Nested):
            yield Nested(
                write.guards,
                tuple(_spared(write.writes, hidden)),
                tuple(_spared(write.otherwise, hidden)),
            )
        elif isinstance(write, DeleteRange) and overlaps(write.key, write.end, hidden):
            yield from _around(write, hidden)
        else:
            yield write


def _around(write: DeleteRange, hidden: bytes) -> Iterator[DeleteRange]:
    behind = end_of(hidden)
    assert behind is not None
    if write.key < hidden:
        yield DeleteRange(write.key, hidden)
    if write.end == FROM_KEY or write.end > behind:
        yield DeleteRange(max(write.key, behind), write.end)
