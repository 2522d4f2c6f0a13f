"""Judge whether a member's contents are those of the majority, by what the members tell of the
content digests of agreed rows (R3).

Pure. A content digest covers every row before it: members that agree at a row agree up to there,
and once they differ they differ for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, TypeAlias

ContentVerdict: TypeAlias = Literal["alike", "diverged", "undecided"]
"""alike: nobody differs, or a majority is like this member. diverged: a majority has other
contents. undecided: members differ, and none of them is known to have a majority.
"""


class Telling(NamedTuple):
    """What a member told of one row: the first bytes of its content digest there."""

    member: str
    seq: int
    digest: bytes
    voter: bool
    witness: bool
    """Whether it counts: a member that fetched its state is no witness for it beside its source."""


def differing(own: Mapping[int, bytes], tellings: Iterable[Telling]) -> int | None:
    """Return the first row at which another member is known to differ from this one; None if none
    is. `own` maps rows to this member's digests.
    """
    rows = [told.seq for told in tellings if own.get(told.seq, told.digest) != told.digest]
    return min(rows, default=None)


def outlived(own: Mapping[int, bytes], kept: Sequence[Telling]) -> list[Telling]:
    """Return what one member told before it fetched its state: it differed then, and agrees at a
    later row, so it agrees at every row before that one. A difference that is over would hide a
    later one of this member's own.
    """
    alike = _alike_up_to(own, kept)
    return [
        each for each in kept if each.seq < alike and own.get(each.seq, each.digest) != each.digest
    ]


def _alike_up_to(own: Mapping[int, bytes], kept: Iterable[Telling]) -> int:
    return max((each.seq for each in kept if own.get(each.seq) == each.digest), default=0)


def judge(
    own: Mapping[int, bytes], own_counts: bool, tellings: Iterable[Telling], voters: int
) -> ContentVerdict:
    """Return the verdict on this member's contents.

    `own_counts`: this member is a voter and a witness. `voters`: the number of voters in force.
    Only those that witness count towards a majority, which is one of all voters.
    """
    told = [each for each in tellings if each.seq in own]
    row = differing(own, told)
    if row is None:
        return "alike"
    for_own = {each.member for each in told if _counts(each) and _agrees_at(row, own, each)}
    # Members tell of rows at their own pace: a majority may agree at a later row than the first.
    others: dict[tuple[int, bytes], set[str]] = {}
    for each in told:
        if each.digest != own[each.seq] and _counts(each):
            others.setdefault((each.seq, each.digest), set()).add(each.member)
    if _is_majority(len(for_own) + own_counts, voters):
        return "alike"
    if any(_is_majority(len(members), voters) for members in others.values()):
        return "diverged"
    return "undecided"


def _counts(told: Telling) -> bool:
    return told.voter and told.witness


def _agrees_at(row: int, own: Mapping[int, bytes], told: Telling) -> bool:
    """Return whether a member that told this agrees with this member at `row`."""
    return told.seq >= row and own[told.seq] == told.digest


def _is_majority(count: int, voters: int) -> bool:
    """Return whether so many witnesses outvote all others (R3)."""
    return count > voters // 2


def supported(
    own: Mapping[int, bytes], own_counts: bool, tellings: Iterable[Telling], voters: int
) -> bool:
    """Return whether a majority is known to be like this member. Only that ends `undecided`: that
    nobody has told anything lately does not.
    """
    agreeing = {
        each.member for each in tellings if _counts(each) and own.get(each.seq) == each.digest
    }
    return _is_majority(len(agreeing) + own_counts, voters)


def unanimous(
    own: Mapping[int, bytes], newest: Mapping[str, Telling], others: Iterable[str]
) -> bool:
    """Return whether every other voter is like this member by what it told last. Then nothing is to
    be decided, whoever witnesses it: a majority of witnesses may never come together again.
    """
    return all(
        (told := newest.get(member)) is not None and own.get(told.seq) == told.digest
        for member in others
    )


def confirmed(own: Mapping[int, bytes], tellings: Iterable[Telling], others: int) -> bool:
    """Return whether a fetched state is confirmed: two other witnesses agree with it, so that one
    of them is not its source; or all of them, if there are fewer.
    """
    agreeing = {
        each.member for each in tellings if _counts(each) and own.get(each.seq) == each.digest
    }
    return 0 < min(2, others) <= len(agreeing) and others > 1
