"""Judge a position that a client names: has this node reached it, is it on its way, or is it in the
future? Pure.

A position is any value that means "up to here": `min_revision`, `after`, `Last-Event-ID`, a page
token, the `from` of the ledger. A position that nobody can have been given is refused with an error
that names it: waiting for it would look like "no change".
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from kv.errors import BadRequest, Undone
from node.wire.kept_positions import KeptPosition

Standing: TypeAlias = Literal["reached", "ahead", "future"]


def standing(asked: int, reached: int, newest: int | None) -> Standing:
    """Return how a position relates to what this node can serve (`reached`).

    `newest`: the newest revision that anyone can have seen when the request arrived, confirmed
    after that by a quorum or a store snapshot. It is None while nothing confirms one; then no
    position can be called future.
    """
    if asked <= reached:
        return "reached"
    if newest is not None and asked > newest:
        return "future"
    return "ahead"


def check_given(asked: int, newest: int, name: str) -> None:
    """Raise BadRequest("future_revision") for a position above `newest`; `name` names the parameter
    in the error.
    """
    if standing(asked, newest, newest) == "future":
        raise BadRequest(
            "future_revision", f"{name} {asked} has not been given", allowed=f"up to {newest}"
        )


def check_in_force(kept: KeptPosition, upto: int) -> None:
    """Raise Undone for a position of a suffix that the log has lost (R12). `upto`: the newest
    revision to which it is in force (`kv.ports.Consensus.holds_to`).
    """
    if upto < kept.revision:
        raise Undone(upto, upto)
