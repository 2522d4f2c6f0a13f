"""Judge a position that a client names: is it reached here, on its way here, or from the future?
Pure.

A position is anything that stands for "up to here": `min_revision`, `after`, `Last-Event-ID`, a
page token, the `from` of the ledger. One that nobody can have been given is refused by name: waited
for, it would look like "no change".
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from kv.errors import BadRequest

Standing: TypeAlias = Literal["reached", "ahead", "future"]


def standing(asked: int, reached: int, newest: int | None) -> Standing:
    """Say how a position stands to what this node can serve (`reached`).

    `newest`: the newest revision that anybody can have heard of when the request came, as a
    quorum or a snapshot of the store confirmed after that; None while nobody confirms one, and then
    nothing can be called future.
    """
    if asked <= reached:
        return "reached"
    if newest is not None and asked > newest:
        return "future"
    return "ahead"


def check_given(asked: int, newest: int, name: str) -> None:
    """Raise BadRequest("future_revision") for a position above the newest one given."""
    if standing(asked, newest, newest) == "future":
        raise BadRequest(
            "future_revision", f"{name} {asked} has not been given", allowed=f"up to {newest}"
        )
