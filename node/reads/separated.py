"""Fold keys at a separator, as a directory shows files and folders: a key whose rest, behind the
prefix, has the separator stands for all keys with the same beginning. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from kv.access import end_of
from kv.errors import BadRequest
from kv.model import FROM_KEY, Version

SEPARATOR_BYTES_MAX: Final = 64
STEPS_MAX: Final = 128
"""Reads of the store in one page. Keys that are folded are skipped, at the price of one read for
each folder with more keys than a read takes, so a page of a thousand folders may end early.
"""


class Separator(NamedTuple):
    """Where keys under a prefix are folded."""

    prefix: bytes
    at: bytes

    @property
    def token(self) -> bytes:
        """What a page token is bound to."""
        return b"|/%b" % self.at

    def folder_of(self, key: bytes) -> bytes | None:
        """Return what a key under the prefix is folded into, the separator included; None: it is
        shown itself.
        """
        place = key.find(self.at, len(self.prefix))
        return None if place < 0 else key[: place + len(self.at)]

    def fold(self, versions: Iterable[Version], last: bytes) -> list[Version | bytes]:
        """Return the keys to show and the folders, in byte order, without the folder `last`, which
        the ones before ended with.
        """
        shown: list[Version | bytes] = []
        for version in versions:
            folder = self.folder_of(version.key)
            if folder is None:
                shown.append(version)
            elif folder != last:
                shown.append(folder)
                last = folder
        return shown

    def go_on_after(self, last: bytes) -> tuple[bytes, bytes, bytes] | None:
        """Return where the next read begins and ends, and the key after which it returns keys,
        behind a key or a whole folder. None: nothing can follow.
        """
        end = end_of(self.prefix) or FROM_KEY
        if not last or self.folder_of(last) is None:
            return self.prefix, end, last
        first = end_of(last)
        if first is None or (end != FROM_KEY and first >= end):
            return None
        return first, end, b""


def separator_of(params: Mapping[str, bytes], *, ordered: bool) -> Separator | None:
    """Return the separator that a request names; None: it names none. Raises BadRequest."""
    if "separator" not in params:
        return None
    at = params["separator"]
    if not 1 <= len(at) <= SEPARATOR_BYTES_MAX:
        raise BadRequest(
            "bad_separator",
            f"the separator has {len(at)} bytes",
            allowed=f"1 to {SEPARATOR_BYTES_MAX} bytes",
        )
    if ordered or "start" in params or "end" in params:
        raise BadRequest(
            "conflicting_parameters",
            "a listing with a separator is of a prefix, in the order of keys",
            allowed="prefix, limit, continue, keys_only, revision, consistency, min_revision",
        )
    return Separator(params.get("prefix", b""), at)
