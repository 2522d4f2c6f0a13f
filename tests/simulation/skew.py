"""Make the wire of a version that does not exist yet: what a rolling upgrade has beside
this one.
"""

from __future__ import annotations

from typing import Final, cast

import msgspec

from coordinator.raft.core.messages import ALL
from coordinator.raft.net.codec import Codec, Count, Message

APPENDED: Final = "of_the_next_version"
"""The field that each message has more. No message of this version may have one of that name: it
would be replaced.
"""
HINT: Final = "hint"
"""A message that this version has no word for."""


def next_version() -> Codec:
    """Return a codec in which every message has one field more, and there is one message more."""
    assert not any(APPENDED in kind.__struct_fields__ for kind in ALL)
    later = [
        msgspec.defstruct(
            kind.__name__, [(APPENDED, Count, 7)], bases=(kind,), frozen=True, array_like=True,
            tag=kind.__struct_config__.tag,
        )
        for kind in ALL
    ]  # fmt: skip
    hint = msgspec.defstruct(
        "Hint", [("x", Count, 1)], bases=(Message,), frozen=True, array_like=True, tag=HINT
    )
    return Codec(*cast("list[type[Message]]", [*later, hint]))
