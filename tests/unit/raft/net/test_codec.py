"""The allow-list: what goes in comes out, and nothing else does."""

from __future__ import annotations

import pickle
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.raft.core.messages import ALL
from coordinator.raft.net.codec import UNKNOWN, Codec, Count, Message, WireError
from tests.simulation.skew import APPENDED, HINT, next_version
from tests.unit.raft.net.stock_messages import STOCK

codec = Codec(*STOCK)
counts = st.integers(0, 2**63 - 1)
commands = st.binary(max_size=200)
entries = st.lists(st.tuples(commands, counts, counts), max_size=20)
optional = st.none() | counts

MESSAGES = st.one_of(
    st.fixed_dictionaries(
        {
            "type": st.just("append_entries"),
            "term": counts,
            "commit_index": counts,
            "entries": entries,
        }
        | {"prevLogIdx": optional, "prevLogTerm": optional}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("append_entries"),
            "term": counts,
            "commit_index": counts,
            "data": commands,
        }
        | {
            "prevLogIdx": optional,
            "prevLogTerm": optional,
            "transmission": st.sampled_from(["start", "finish"]),
        }
    ),
    st.fixed_dictionaries(
        {"type": st.just("append_entries"), "term": counts, "commit_index": counts}
        | {"serialized": st.none() | st.tuples(commands, st.booleans(), st.booleans())}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("next_node_idx"),
            "next_node_idx": counts,
            "reset": st.booleans(),
            "success": st.booleans(),
        },
        optional={"term": counts},
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("request_vote"),
            "term": counts,
            "last_log_index": counts,
            "last_log_term": counts,
        }
    ),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["response_vote", "timeout_now"]), "term": counts}
    ),
    st.fixed_dictionaries(
        {"type": st.just("apply_command"), "command": commands}, optional={"request_id": counts}
    ),
    st.fixed_dictionaries(
        {"type": st.just("apply_command_response"), "request_id": counts},
        optional={"error": counts, "log_idx": counts, "log_term": counts},
    ),
)


@given(message=MESSAGES)
@settings(deadline=None)
def test_every_message_of_the_core_comes_back_as_it_was(message: dict[str, Any]) -> None:
    payload = codec.encode(message)
    back = codec.decode(memoryview(payload))
    assert back == message
    assert all(isinstance(entry, tuple) for entry in back.get("entries", []))


@given(message=MESSAGES, data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_bytes_raise_one_error_or_are_a_message(
    message: dict[str, Any], data: st.DataObject
) -> None:
    payload = bytearray(codec.encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        back = codec.decode(bytes(payload[: data.draw(st.integers(0, len(payload)))]))
    except WireError:
        return
    assert back["type"] in {*codec.types, UNKNOWN}


@given(payload=st.binary(max_size=300))
@settings(deadline=None)
def test_noise_raises_one_error(payload: bytes) -> None:
    try:
        assert codec.decode(payload) == {"type": UNKNOWN}
    except WireError:
        return


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_a_pickle_is_noise() -> None:
    """HAZ-14: the stock transport runs what an unknown peer pickled."""
    with pytest.raises(WireError):
        codec.decode(pickle.dumps(Bomb()))
    with pytest.raises(WireError):
        codec.encode({"type": "apply_command", "command": Bomb()})


@pytest.mark.parametrize(
    "message",
    [
        {"type": "shutdown"},
        {},
        {"type": None},
        {"type": "response_vote"},
        {"type": "response_vote", "term": 1, "more": 2},
        {"type": "apply_command", "command": {1: object()}},
    ],
)
def test_only_what_is_listed_is_sent(message: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        codec.encode(message)


@pytest.mark.parametrize(
    "message",
    [
        {"type": "shutdown"},
        {"type": "response_vote"},
        {"type": "response_vote", "term": -1},
        {"type": "response_vote", "term": 2**63},
        {"type": "response_vote", "term": "1"},
        {"type": "response_vote", "term": [[[[1]]]]},
        {"type": "append_entries", "term": 1, "commit_index": 1, "entries": [[b"x", 1]]},
        {"type": "append_entries", "term": 1, "commit_index": 1, "entries": [[b"x", 1, -1]]},
        {"type": "append_entries", "term": 1, "commit_index": 1, "entries": [["x", 1, 1]]},
        {"type": "append_entries", "term": 1, "commit_index": 1, "transmission": "x" * 100},
        ["response_vote", 1],
        "response_vote",
        None,
    ],
)
def test_only_what_is_listed_is_taken(message: object) -> None:
    with pytest.raises(WireError):
        codec.decode(msgspec.msgpack.encode(message))


def test_deep_and_wide_nesting_cost_nothing() -> None:
    for bomb in (
        b"\x91" * 100_000,
        b"\x81\xa4type" * 50_000,
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff\xa4type",
    ):
        with pytest.raises(WireError):
            codec.decode(bomb)


class Extended(Message, frozen=True, tag="response_vote"):
    term: Count
    granted: bool = True


class Added(Message, frozen=True, tag="read_ping"):
    round: Count


def test_a_list_can_be_extended_and_its_types_replaced() -> None:
    larger = Codec(*STOCK, Extended, Added)
    assert larger.decode(larger.encode({"type": "read_ping", "round": 3})) == {
        "type": "read_ping",
        "round": 3,
    }
    older = larger.decode(codec.encode({"type": "response_vote", "term": 1}))
    assert older == {"type": "response_vote", "term": 1, "granted": True}
    with pytest.raises(WireError):
        codec.decode(larger.encode({"type": "read_ping", "round": 3}))


@pytest.mark.parametrize(
    "message",
    [
        {"type": "read_ping", "term": 3, "round": 4},
        {"type": "request_vote", "term": 1, "last_log_index": 2, "last_log_term": 1, "pre": True,
         "forced": False, "joined": True},
        {"type": "append_entries", "term": 1, "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0,
         "entries": [(b"x", 2, 1)], "joined": True, "answer": True},
        {"type": "note", "note": b"n"},
        {"type": "apply_command_response", "request_id": 1, "error": 2, "reason": "behind",
         "later": True},
    ],
)  # fmt: skip
def test_members_of_two_versions_understand_each_other(message: dict[str, Any]) -> None:
    """A field that was appended is ignored by the older one, and its default stands in at the newer
    one.
    """
    old, new = Codec(*ALL), next_version()
    assert old.decode(new.encode(message)) == old.decode(old.encode(message))
    assert new.decode(old.encode(message)) == {**old.decode(old.encode(message)), APPENDED: 7}


def test_a_message_of_a_later_version_is_passed_over_whatever_is_in_it() -> None:
    old, new = Codec(*ALL), next_version()
    assert old.decode(new.encode({"type": HINT})) == {"type": UNKNOWN}
    assert old.decode(msgspec.msgpack.encode(["hint", {"a": [[[1]]]}, None])) == {"type": UNKNOWN}
    for none_of_ours in (
        ["read_ping"],
        ["read_ping", "x", 1],
        ["Hint", 1],
        [1, 2],
        [],
        ["a" * 65],
        {"type": "hint"},
    ):
        with pytest.raises(WireError):
            old.decode(msgspec.msgpack.encode(none_of_ours))


def test_a_message_can_be_larger_than_a_batch() -> None:
    rng = random.Random(1)
    message = {"type": "apply_command", "command": rng.randbytes(8 << 20)}
    assert codec.decode(codec.encode(message)) == message
    with pytest.raises(WireError):
        codec.decode(
            msgspec.msgpack.encode({"type": "apply_command", "command": bytes((32 << 20) + 1)})
        )
