"""The rules that all stores share, on their own."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.fence import check_group, empty_row, outranks, range_of
from kv.errors import BadRequest, InvariantViolated
from kv.model import GENESIS, Group, Head, LedgerRow, Put, RecordedOperation, Version
from tests.contract.groups import Step, group, put

HEAD = Head(5, 3, "n1", 20, b"\1" * 32)


@pytest.mark.parametrize(
    ("term", "committer", "forbidden"),
    [(2, "n1", True), (3, "n1", False), (3, "n2", True), (4, "n1", False), (4, "n2", False)],
)
def test_a_row_outranks_lower_terms_and_others_of_its_term(
    term: int, committer: str, forbidden: bool
) -> None:
    assert outranks(HEAD, term, committer) is forbidden


def test_genesis_outranks_nobody() -> None:
    assert not outranks(GENESIS, 0, "n1")


def test_the_empty_row_keeps_revision_and_digest() -> None:
    assert empty_row(HEAD, 4, "n2", 99, None) == LedgerRow(6, 4, "n2", 21, 20, HEAD.digest, 99)
    assert empty_row(HEAD, 4, "n2", 99, 30) == LedgerRow(6, 4, "n2", 21, 30, HEAD.digest, 99)
    with pytest.raises(BadRequest):
        empty_row(HEAD, 4, "n2", 99, 19)


@dataclass
class Break:
    """One way in which a group can be wrong."""

    what: str
    group: Group


GOOD = group(HEAD, [put("a", b"k", b"1"), Step("b", (Put(b"m", b"2"), Put(b"n", b"2")))])


def _row(**changes: object) -> Group:
    return msgspec.structs.replace(GOOD, row=msgspec.structs.replace(GOOD.row, **changes))


WRONG = [
    Break("place", _row(seq=7)),
    Break("first", _row(first=22)),
    Break("last", _row(last=23)),
    Break(
        "digest without intents",
        msgspec.structs.replace(group(HEAD, []), row=_row(last=20, body=()).row),
    ),
    Break(
        "a version too many",
        msgspec.structs.replace(GOOD, versions=(*GOOD.versions, Version(b"z", 21, b"1"))),
    ),
    Break("a version too few", msgspec.structs.replace(GOOD, versions=GOOD.versions[1:])),
    Break(
        "a version twice",
        msgspec.structs.replace(GOOD, versions=(*GOOD.versions, GOOD.versions[0])),
    ),
    Break(
        "an operation of another row",
        msgspec.structs.replace(
            GOOD, operations=(msgspec.structs.replace(GOOD.operations[0], revision=20),)
        ),
    ),
    Break(
        "another op_id",
        msgspec.structs.replace(
            GOOD, operations=(msgspec.structs.replace(GOOD.operations[0], op_id="z"),)
        ),
    ),
    Break(
        "another body",
        msgspec.structs.replace(
            GOOD, operations=(RecordedOperation("a", b"\0" * 16, 21, GOOD.operations[0].outcome),)
        ),
    ),
]


def test_a_right_group_passes() -> None:
    check_group(GOOD)
    check_group(group(HEAD, []))


@pytest.mark.parametrize("wrong", WRONG, ids=[each.what for each in WRONG])
def test_a_wrong_group_is_never_written(wrong: Break) -> None:
    with pytest.raises(InvariantViolated):
        check_group(wrong.group)


SOME = st.lists(st.sampled_from([0, 1, 97, 254, 255]), max_size=4).map(bytes)


@given(prefix=SOME, after=SOME, key=SOME.filter(len))
def test_the_range_is_exactly_the_keys_under_the_prefix_behind_the_last(
    prefix: bytes, after: bytes, key: bytes
) -> None:
    start, end = range_of(prefix, after)
    assert (start <= key < end) == (key.startswith(prefix) and key > after)


def test_the_longest_key_is_in_the_whole_range() -> None:
    start, end = range_of(b"", b"")
    assert start <= b"\xff" * 1024 < end
