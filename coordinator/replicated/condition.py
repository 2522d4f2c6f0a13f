"""Hold what state a member's own store is in, and what follows from it: whether commands are
applied, and whether anything is served.

It decides nothing about the store; those who find something out report it here.
"""

from __future__ import annotations

import asyncio
from typing import Literal, TypeAlias

import structlog

from kv.ports.member_store import MemberStore

_log = structlog.get_logger("acordo.own_store")

OwnStoreState: TypeAlias = Literal[
    "sound", "catching_up", "fetching", "set_aside", "diverged", "undecided", "full"
]
"""sound: all is well. catching_up: the log has not reached what the file holds. fetching: the state
comes from another member. set_aside: the file cannot be used. diverged: its contents are not what
the majority has. undecided: the members' contents differ, and none has a majority. full: nothing
gets into the file.
"""


class Condition:
    """The state of one member's own store."""

    def __init__(self, own: MemberStore, *, unwritten_bytes_max: int) -> None:
        self._own, self._unwritten_bytes_max = own, unwritten_bytes_max
        self.spoilt: Literal["set_aside", "diverged"] | None = None
        """Why the store cannot be used any more; None: it can."""
        self.why = ""
        """The same for people to read."""
        self.replacing = False
        """Whether another member's state is being put in place."""
        self.fetching = False
        """Whether another member's state was asked for."""
        self.draining = False
        """Whether what was settled has to be in the file before the log is replayed."""
        self.undecided = ""
        """Not empty: the members' contents differ, and none of them has a majority."""
        self.caught_up = True
        """Whether the log has reached what the file holds."""
        self.shared_to = 0
        """The newest log index at which file and log are known to have the same command: the dump's
        end, then each row that the log has reached (R5). What a command without a row did is not
        compared.
        """
        self.replaced = asyncio.Event()
        """Set when a store that could not be used was replaced."""
        self.spoils = 0
        """How often the store became unusable."""

    def spoil(self, how: Literal["set_aside", "diverged"], why: str) -> None:
        """Record that the store cannot be used: it is set aside, and the state fetched anew."""
        if self.spoilt is None:
            _log.critical("own store cannot be used", state=how, why=why)
            self.spoils += 1
            self.spoilt, self.why = how, why

    def mended(self) -> None:
        """Record that the store was replaced by a sound one."""
        if self.spoilt is not None:
            _log.info("own store can be used again")
        self.spoilt, self.why, self.fetching = None, "", False
        self.replaced.set()

    @property
    def takes_more(self) -> bool:
        """Whether the next command may be applied now (R9)."""
        return (
            self.spoilt is None
            and not self.replacing
            and not self.draining
            and not self._is_behind()
        )

    def _is_behind(self) -> bool:
        """Return whether too much is settled that is not in the file yet (R9)."""
        return self._own.unwritten_bytes > self._unwritten_bytes_max

    @property
    def refusal(self) -> str | None:
        """Why nothing is served from this member; None: it may serve."""
        if self.spoilt is not None:
            return f"own_store_{self.spoilt}"
        if self.undecided:
            return "own_store_undecided"
        if self.replacing or not self._is_caught_up():
            return "own_store_catching_up"
        return None

    def _is_caught_up(self) -> bool:
        """Return whether the log has reached the file's newest command: until then file and machine
        are not the same, and nothing is served (R5).
        """
        return self.caught_up and not self.draining

    @property
    def state(self) -> OwnStoreState:
        """The state in one word."""
        if self.replacing or (self.fetching and self.spoilt is not None):
            return "fetching"
        if self.spoilt is not None:
            return self.spoilt
        if self.undecided:
            return "undecided"
        if not self._is_caught_up():
            return "catching_up"
        return "full" if self._own.trouble else "sound"

    @property
    def detail(self) -> str:
        """The state in a sentence; empty when there is nothing to say."""
        match self.state:
            case "sound":
                behind = "what is settled waits for the disk: nothing more is applied meanwhile"
                return behind if self._is_behind() else ""
            case "catching_up":
                return f"the log has not reached command {self._own.note.index} of the file yet"
            case "undecided":
                return self.undecided
            case "full":
                return f"nothing gets into the file: {self._own.trouble}"
            case _:
                return self.why or "the state comes from another member"
