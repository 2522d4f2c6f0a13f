"""Whatever bytes come, a decoder answers with the error that it documents: text that is no UTF-8
above all.

msgspec raises UnicodeDecodeError for it, which is none of its own errors.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.machine import commands
from coordinator.machine.snapshot import decode_state
from coordinator.peers import notes
from coordinator.raft.core.messages import ALL
from coordinator.raft.core.rules import membership
from coordinator.raft.net import codec as wire
from coordinator.raft.net import peer_identity
from coordinator.raft.storage import records, snapshot_format
from kv.errors import NewerCommand

ROOT = Path(__file__).parents[2]
PACKAGES = ("acordo", "backends", "bench", "chaos", "cluster", "coordinator", "kv", "node")
RAISED_BY_MSGSPEC = {"MsgspecError", "DecodeError"}
COVERS_TEXT = {"UnicodeDecodeError", "UnicodeError", "ValueError", "Exception"}
NO_TEXT = b"\xa3\x00\x00\x80"
"""A msgpack string of three bytes that are no UTF-8."""


def names_of(node: ast.expr | None) -> set[str]:
    """Return the last parts of the names of the exceptions that an `except` or a `suppress`
    names.
    """
    match node:
        case ast.Tuple(elts=elements):
            return set().union(*map(names_of, elements))
        case ast.BinOp(left=left, right=right):
            return names_of(left) | names_of(right)
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return {name}
        case _:
            return set()


def caught(tree: ast.AST) -> Iterator[tuple[int, set[str]]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            yield node.lineno, set().union(*(names_of(handler.type) for handler in node.handlers))
        elif isinstance(node, ast.Call) and names_of(node.func) & {"suppress", "isinstance"}:
            yield node.lineno, set().union(*map(names_of, node.args))


@pytest.mark.parametrize("package", PACKAGES)
def test_who_catches_what_msgspec_raises_also_catches_text_that_is_none(package: str) -> None:
    careless = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for line, names in caught(ast.parse(path.read_text()))
        if names & RAISED_BY_MSGSPEC and not names & COVERS_TEXT
    ]
    assert not careless


def test_the_search_above_finds_one() -> None:
    careless = (
        "try:\n    x()\nexcept msgspec.MsgspecError:\n    pass\n"
        "with suppress(msgspec.DecodeError): pass"
    )
    assert [names & RAISED_BY_MSGSPEC for _, names in caught(ast.parse(careless))] == [
        {"MsgspecError"},
        {"DecodeError"},
    ]


def vote(body: bytes) -> Any:
    return records.decode_vote(records._with_prefix(records._VOTE_MAGIC, body))


def segment(body: bytes) -> Any:
    return records.decode_segment(records._with_prefix(records._SEGMENT_MAGIC, body))


def framed_snapshot(packed: bytes) -> Any:
    head = snapshot_format._PREFIX.pack(
        snapshot_format._MAGIC,
        snapshot_format.FORMAT,
        len(packed),
        snapshot_format.zlib.crc32(packed),  # type: ignore[attr-defined]
    )
    checksum = hashlib.blake2b(head + packed, digest_size=32).digest()
    return snapshot_format.decode(head + packed + checksum)


state = (b"\x01", b"\x02", b"\x03", b"\x04", b"\x05")

Raises = type[Exception] | tuple[type[Exception], ...] | None
DECODERS: list[tuple[Callable[[bytes], Any], Raises, tuple[bytes, ...]]] = [
    (
        commands.decode,
        (ValueError, NewerCommand),
        (b"\x01\xdd\x00\x00\x00\x01" + NO_TEXT, b"\x01\x92\xa1s\x91" + NO_TEXT),
    ),
    (decode_state, ValueError, tuple(version + b"\x95" + NO_TEXT for version in state)),
    (notes.read_note, None, (b"\x98\x01\x01\x01\xc4\x00" + NO_TEXT + b"\xa0\x00\x00",)),
    (peer_identity.decode_identity, None, (b"\x93\x92\xc4\x00\xc4\x00\xc4\x00" + NO_TEXT,)),
    (membership.decode_change, ValueError, (b"\x82\xa4type\xa1r\xa2id" + NO_TEXT, NO_TEXT)),
    (membership.decode_configuration, ValueError, (b"\x92\x91\x92" + NO_TEXT + NO_TEXT + b"\x90",)),
    (
        wire.Codec(*ALL).decode,
        wire.WireError,
        (b"\x92" + NO_TEXT + b"\x01", b"\x94\xa3ask\x01" + NO_TEXT + b"\x01"),
    ),
    (vote, records.BadHeaderError, (b"\x94" + NO_TEXT + b"\xa1m\x01\xc0",)),
    (segment, records.BadHeaderError, (b"\x95" + NO_TEXT + b"\xa1m\x01\x01\xc3",)),
    (
        framed_snapshot,
        snapshot_format.NotASnapshotError,
        (b"\x95" + NO_TEXT + b"\x01\x01\xc4\x00\x00",),
    ),
]


@pytest.mark.parametrize(("decode", "raises", "examples"), DECODERS)
def test_text_that_is_none_is_told_as_any_other_damage(
    decode: Callable[[bytes], Any], raises: Raises, examples: tuple[bytes, ...]
) -> None:
    for example in examples:
        if raises is None:
            decode(example)
            continue
        with pytest.raises(raises) as caught_error:
            decode(example)
        assert not isinstance(caught_error.value, (UnicodeDecodeError, msgspec.MsgspecError)), (
            example
        )


@pytest.mark.parametrize(("decode", "raises", "examples"), DECODERS)
@given(noise=st.binary(max_size=60), text=st.booleans())
@settings(deadline=None)
def test_noise_never_raises_anything_else(
    decode: Callable[[bytes], Any],
    raises: Raises,
    examples: tuple[bytes, ...],
    noise: bytes,
    text: bool,
) -> None:
    for content in (noise, examples[0][: len(noise)] + noise, examples[0] + noise):
        raised = outcome(decode, content + (NO_TEXT if text else b""))
        assert raised is None or (raises is not None and issubclass(raised, raises)), content
        assert raised is None or not issubclass(
            raised, (UnicodeDecodeError, msgspec.MsgspecError)
        ), content


def outcome(decode: Callable[[bytes], Any], content: bytes) -> type[Exception] | None:
    try:
        decode(content)
    except Exception as exc:  # noqa: BLE001 whatever it is, it is judged above
        return type(exc)
    return None
