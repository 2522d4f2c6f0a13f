"""Record why this leader refuses its store, and an operator's request to adopt it.

It never refuses by itself: taking over decides that.
"""

from __future__ import annotations

import asyncio
from typing import Final

from coordinator.commit.leadership import mark_retrieved
from coordinator.machine.standing import GivenUp
from kv.errors import BadRequest, NotApplied

FOREIGN: Final = "store_foreign"
"""The refusal of another cluster's store, which no operator can adopt."""


class StoreRefusal:
    """Why the leader refuses its store, if it does, and the operator's request to adopt its
    head.
    """

    def __init__(self) -> None:
        self.why: str | None = None
        self.gives_up: GivenUp | None = None
        """What adopting the refused head would give up."""
        self._adopting: asyncio.Future[int] | None = None

    def refuse(self, why: str, gives_up: GivenUp) -> None:
        """Start refusing the store."""
        self.why, self.gives_up = why, gives_up

    def clear(self) -> None:
        """Stop refusing the store."""
        self.why = self.gives_up = None

    def ask_adoption(self, gives_up: int | None) -> asyncio.Future[int]:
        """Accept an operator's request. Raises BadRequest for one that cannot be met."""
        if self.why is None or self.gives_up is None:
            raise BadRequest(
                "nothing_to_adopt", "the store is what was settled: there is nothing to adopt"
            )
        if self.why == FOREIGN:
            raise BadRequest(
                "foreign_store",
                "the store is another cluster's: it cannot be adopted",
                allowed="this cluster's store",
            )
        if gives_up != self.gives_up.revisions:
            raise BadRequest(
                "gives_up", _in_words(self.gives_up), allowed=f"gives_up: {self.gives_up.revisions}"
            )
        if self._adopting is None or self._adopting.done():
            self._adopting = asyncio.get_running_loop().create_future()
            self._adopting.add_done_callback(mark_retrieved)
        return self._adopting

    @property
    def asked(self) -> asyncio.Future[int] | None:
        """The operator's request that is still open, if any."""
        adopting = self._adopting
        return None if adopting is None or adopting.done() else adopting

    def deposed(self) -> None:
        """Fail the open request, and leave the decision to the next leader."""
        asked = self.asked
        if asked is not None:
            asked.set_exception(NotApplied("deposed"))
        self.clear()


def _in_words(given: GivenUp) -> str:
    if not given.revisions:
        return "adopting this store gives up nothing that was settled here; say so"
    first, last = given.after + 1, given.after + given.revisions
    lost = f"{given.revisions} revisions that were settled, {first} to {last}"
    kept = (
        f"what the store has up to {given.after} stays"
        if given.after
        else "the store's own take their place"
    )
    return f"adopting this store gives up {lost}: {kept}; say how many"
