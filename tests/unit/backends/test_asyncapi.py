"""What is published is what docs/asyncapi.yaml says, and the file notices what is not."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import msgspec
import pytest
import yaml  # type: ignore[import-untyped]  # ships no types
from hypothesis import given
from hypothesis import strategies as st

from backends.rabbitmq.async_writes import command
from backends.rabbitmq.broadcast import body, change_of, routing_key
from cluster.local.process import ROOT
from cluster.workers.rules import VALUE_BYTES_MAX, body_of, undone_body
from kv.errors import BadRequest
from kv.model import Reference, Version
from kv.names import channels
from kv.ports import Change

DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text())


def validator(name: str) -> Any:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return jsonschema_rs.validator_for(schema)


REFERENCES = st.builds(
    Reference, st.just("op"), st.binary(min_size=32, max_size=32), st.integers(1)
)
VALUES = st.one_of(st.none(), st.binary(max_size=20), REFERENCES)
VERSIONS = st.builds(
    Version,
    st.binary(min_size=1, max_size=20),
    st.just(7),
    VALUES,
    st.one_of(st.none(), st.integers(0, 2**50)),
)


@given(st.lists(VERSIONS, max_size=4))
def test_changes(versions: list[Version]) -> None:
    validator("Change").validate(json.loads(body(Change(7, "op", 1, tuple(versions)))))


WHOLE = body(
    Change(7, "op", 1, (Version(b"k", 7, Reference("op", b"\xab" * 32, 9)), Version(b"l", 7, b"v")))
)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "bad_message"),
        (b"\xff\xfe", "bad_message"),
        (WHOLE[:-2], "bad_message"),
        (WHOLE.replace(b'"op_id":"op","revision"', b'"op_id":"\xff","revision"'), "bad_message"),
        (WHOLE.replace(b'"type":"put"', b'"type":"merge"'), "bad_message"),
        (WHOLE.replace(b'"revision":7', b'"revision":"7"'), "bad_message"),
        (WHOLE.replace(b"abab", b"zzzz"), "bad_message"),
        (WHOLE.replace(b'"schema":1', b'"schema":2'), "unknown_schema"),
    ],
)
def test_messages_of_another_version_or_broken_ones_are_refused(raw: bytes, code: str) -> None:
    assert change_of(WHOLE).revision == 7 and raw != WHOLE
    with pytest.raises(BadRequest) as refused:
        change_of(raw)
    assert refused.value.code == code


def test_a_term() -> None:
    """Where each member has its own store a revision may come again, in a higher term."""
    change = Change(9, "op", 5, (Version(b"k", 9, None),), term=3)
    assert change_of(body(change)) == change
    assert b"term" not in body(msgspec.structs.replace(change, term=0))
    validator("Change").validate(json.loads(body(change)))
    validator("Delivery").validate(json.loads(undone_body(0, 0)))


def test_an_adoption() -> None:
    change = Change(9, "~adopt", 5, (), 4)
    assert change_of(body(change)) == change
    assert routing_key(change) == "change.undone"
    validator("Change").validate(json.loads(body(change)))
    validator("Delivery").validate(json.loads(undone_body(4, 9)))


def test_commands() -> None:
    sound = json.loads(command("async-1", b'{"writes": [{"delete": "a"}]}'))
    validator("Command").validate(sound)
    wrong: tuple[dict[str, Any], ...] = ({"schema": 2}, {"op_id": "~1"}, {"transaction": []})
    for broken in wrong:
        with pytest.raises(jsonschema_rs.ValidationError):
            validator("Command").validate(sound | broken)


@given(st.sampled_from(["put", "delete"]), st.binary(min_size=1, max_size=9), st.binary(max_size=9))
def test_deliveries(kind: str, key: bytes, value: bytes) -> None:
    validator("Delivery").validate(json.loads(body_of(kind, key, value, 3, None)))


def test_large_deliveries() -> None:
    validator("Delivery").validate(
        json.loads(body_of("put", b"k", bytes(VALUE_BYTES_MAX + 1), 3, "op"))
    )


def test_addresses_are_those_of_the_code() -> None:
    named = {"changes": "changes", "async": "commands", "dead": "dead"}
    written = {what: DOCUMENT["channels"][name] for what, name in named.items()}
    for cluster, stem in (("c1", "acordo.c1"), ("", "acordo")):
        made = {what: each["address"].replace("{cluster}", stem) for what, each in written.items()}
        assert made == channels(cluster)
    assert all("cluster" in each["parameters"] for each in written.values())


def test_every_reference_leads_somewhere() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if isinstance(target := node.get("$ref"), str):
                found: Any = DOCUMENT
                for part in target.removeprefix("#/").split("/"):
                    found = found[part]
            for each in node.values():
                walk(each)
        elif isinstance(node, list):
            for each in node:
                walk(each)

    walk(DOCUMENT)
