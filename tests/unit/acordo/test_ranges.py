"""Guards that compare, and deletes of ranges, in the JSON form and back."""

from __future__ import annotations

import msgspec
import pytest

from acordo import (
    BadRequest,
    compare,
    delete,
    delete_prefix,
    delete_range,
    exists,
    intent_of_json,
    nested,
    put,
    touch,
)
from acordo._intents import DeleteRange, Guard, Intent, Write
from acordo._wire.forms import intent_json


@pytest.mark.parametrize(
    "guard",
    [
        compare("k", "version", ">", 3),
        compare("k", "create_revision", "=", 0, end=b"\0"),
        compare(b"\xff", "value", "<", b"\x00\xff", end=b"\xff\xff"),
        compare("k", "value", "!=", "text"),
        compare("k", "lease", "=", 0),
        compare("k", "lease", "=", "00000000000000ab"),
    ],
)
def test_a_guard_that_compares_comes_back(guard: Guard) -> None:
    body = msgspec.json.encode(intent_json(Intent(guards=(guard,))))
    assert intent_of_json(body).guards == (guard,)


@pytest.mark.parametrize(
    ("write", "bounds"),
    [
        (delete_range("a", "c"), (b"a", b"c")),
        (delete_prefix("a/"), (b"a/", b"a0")),
        (delete_prefix(b"a\xff"), (b"a\xff", b"b")),
        (delete_prefix(b"\xff\xff"), (b"\xff\xff", b"\0")),
    ],
)
def test_a_delete_of_a_range_comes_back(write: Write, bounds: tuple[bytes, bytes]) -> None:
    assert isinstance(write, DeleteRange)
    assert (write.key, write.end) == bounds
    body = msgspec.json.encode(intent_json(Intent(writes=(write,), otherwise=(write,))))
    found = intent_of_json(body)
    assert (found.writes, found.otherwise) == ((write,), (write,))


@pytest.mark.parametrize(
    "write",
    [
        put("k", "v", keep_lease=True),
        touch("k", lease="ab"),
        touch("k", keep_lease=True, ttl_s=5),
        nested([exists("k")], [put("a", "1"), nested([], [], [delete("b")])]),
    ],
)
def test_writes_that_keep_something_and_nested_ones_come_back(write: Write) -> None:
    body = msgspec.json.encode(intent_json(Intent(writes=(write,))))
    assert intent_of_json(body).writes == (write,)


def test_what_cannot_be_compared_is_refused() -> None:
    for wrong in (("version", "text"), ("value", 3), ("lease", 3)):
        with pytest.raises(BadRequest) as refused:
            compare("k", wrong[0], "=", wrong[1])
        assert refused.value.code == "bad_guard"
    with pytest.raises(BadRequest):
        put("k", "v", lease="1", keep_lease=True)
    with pytest.raises(BadRequest):
        delete_prefix("")
