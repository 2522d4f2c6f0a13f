"""Name the parsers of what comes from outside: what each may raise, and what must hold besides.

A target takes any bytes. It returns, or raises; anything but what the parser's docstring names is a
fault. Formats with checksums are also given sealed content, which is right but for what it holds:
otherwise a fuzzer never gets past the checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import struct
import zlib
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

import msgspec

from acordo import AcordoError
from acordo._bulk.backup_file import BackupCheck
from acordo._wire.answers import parse_change, parse_inspected, raise_watch_error
from acordo._wire.forms import Damaged
from acordo._wire.sse import EventTooLong, Parser
from backends.rabbitmq.async_writes import parse as parse_async_write
from coordinator.machine.commands import Rebase, Settle, Submit, settle_in
from coordinator.machine.commands import decode as decode_command
from coordinator.machine.commands import encode as encode_command
from coordinator.machine.pending import Mark
from coordinator.machine.snapshot import MachineState, decode_state, encode_state
from coordinator.peers.notes import read_note
from coordinator.raft.core.messages import ALL
from coordinator.raft.core.rules.membership import decode_change, decode_configuration
from coordinator.raft.net.codec import UNKNOWN, Codec, WireError
from coordinator.raft.net.frames import Proved, Session
from coordinator.raft.net.hello import NONCE_BYTES, FrameError, Mode, encode_hello
from coordinator.raft.net.peer_identity import decode_identity
from coordinator.raft.storage.journal import Journal
from coordinator.raft.storage.records import (
    BadHeaderError,
    Kind,
    Record,
    SegmentHeader,
    decode_segment,
    decode_vote,
    encode_record,
    encode_segment,
    find_record,
    is_torn_header,
    read_records,
)
from coordinator.raft.storage.snapshot_format import NotASnapshotError, SnapshotHeader
from coordinator.raft.storage.snapshot_format import decode as decode_snapshot
from kv.backup import _HEAD, INCREMENTAL, WHOLE, BackupDecoder, _digest, _first_digest, begin
from kv.errors import BadRequest, NewerCommand
from kv.model import Cancel, Compare, Delete, Intent, Put
from node.etcd import messages as etcd
from node.etcd.intents import check_delete, check_put, check_range, check_transaction, transaction
from node.etcd.parsing import first_value, parsed
from node.etcd.refusals import Refusal
from node.exchange.headers import own_lifetime_s, own_op_id, own_timeout_s
from node.exchange.parameters import as_texts, query_params, read_options
from node.wire import access_forms, lease_forms, requests
from node.wire.conditions import matches_none, parse_etags
from node.wire.documents import decode as decode_document
from node.wire.documents import encode as encode_document
from node.wire.kept_positions import parse_position
from node.wire.page_tokens import place_of
from node.wire.text_fields import parse_count, parse_flag, parse_revision, parse_seconds
from tests.simulation.disk import SimDisk

OPERATIONS: Final = 1024
CLUSTER, MEMBER, PEER = "c", "n1", "n2"
NAME: Final = "journal"
NONCE: Final = b"n" * NONCE_BYTES


class Target(NamedTuple):
    """A parser: what feeds it, what it may raise, and some input that it takes."""

    feed: Callable[[bytes], None]
    raises: tuple[type[Exception], ...]
    seeds: Callable[[], Iterable[bytes]]


# --------------------------------------------------------------------------------------- Raft port


def pieces(data: bytes) -> Iterable[bytes]:
    """Yield the input in pieces whose sizes it says itself: its first byte is the step."""
    step = (data[0] if data else 0) + 1
    rest = data[1:]
    for at in range(0, len(rest), step):
        yield rest[at : at + step]


def raft_frames(data: bytes) -> None:
    """Feed a listener's session, with and without a secret, and decode the frames that come."""
    codec = Codec(*ALL)
    for mode, key in ((Mode.OPEN, b""), (Mode.SECRET, b"k" * 32)):
        session = Session("listener", CLUSTER, MEMBER, NONCE, mode=mode, key=key)
        try:
            for piece in pieces(data):
                _receive(session, codec, piece)
        except (FrameError, WireError):
            continue


def _receive(session: Session, codec: Codec, piece: bytes) -> None:
    while piece:
        buffer = session.get_buffer()
        taken = min(len(buffer), len(piece))
        assert taken, "a session that takes no more bytes says so"
        buffer[:taken], piece = piece[:taken], piece[taken:]
        events = list(_events(session.received(taken)))
        if any(isinstance(event, Proved) for event in events):
            events += _events(session.proceed())
        for event in events:
            if isinstance(event, bytes) and event:
                codec.decode(event)


def _events(events: Iterable[Any]) -> Iterable[Any]:
    """Return events with frames as bytes: a frame is valid until the next event is asked for."""
    return [bytes(event) if isinstance(event, memoryview) else event for event in events]


def raft_frames_seeds() -> Iterable[bytes]:
    """Return hellos, and frames after one."""
    for mode in (Mode.OPEN, Mode.SECRET):
        hello = encode_hello(mode, CLUSTER, PEER, b"m" * NONCE_BYTES, b"")
        frame = msgspec.msgpack.encode(["read_ping", 3, 4])
        yield b"\x07" + hello + struct.pack("!I", len(frame)) + frame + struct.pack("!I", 0)


def raft_messages(data: bytes) -> None:
    """Decode a message, and what members tell of themselves; what was decoded is encoded alike."""
    read_note(data)
    decode_identity(data)
    for decode in (decode_change, decode_configuration):
        with contextlib.suppress(ValueError):
            decode(data)
    codec = Codec(*ALL)
    for payload in (made_message(codec, data), data):
        try:
            message = codec.decode(payload)
        except WireError:
            continue
        if message["type"] != UNKNOWN:
            assert codec.decode(codec.encode(message)) == message


def made_message(codec: Codec, data: bytes) -> bytes:
    """Return a message of a known type whose fields are told by the input."""
    made: list[object] = [codec.types[data[0] % len(codec.types)]] if data else []
    for kind, number in zip(data[1::2], data[2::2], strict=False):
        match kind % 6:
            case 0:
                made.append(number)
            case 1:
                made.append(bool(number % 2))
            case 2:
                made.append(b"x" * number)
            case 3:
                made.append("n" * number)
            case 4:
                made.append([[b"x", number, 1]] * (number % 3))
            case 5:
                made.append(None)
    return msgspec.msgpack.encode(made)


def raft_messages_seeds() -> Iterable[bytes]:
    """Return one message of some kinds."""
    encode = msgspec.msgpack.encode
    yield encode(["append_entries", 3, 4, 5, 2, [[b"x", 6, 3], [b"", 7, 3]], True, False])
    yield encode(["next_node_idx", 3, 4, False, True, False])
    yield encode(["read_ping", 3, 4])
    yield encode(["of_the_future", 1, {"a": []}])
    yield b"\x91" * 3000


def log_commands(data: bytes) -> None:
    """Decode a command of the log."""
    settle_in(data)
    decode_command(data)


def log_commands_seeds() -> Iterable[bytes]:
    """Return commands of each kind, one of a later version, and one that is nested deep."""
    guard, put = Compare(b"a", b"", "mod", "=", 3), Put(b"k", b"v", None)
    yield encode_command(Submit((Intent("o", 9, (guard,), (put, Delete(b"b")), ()),)))
    yield encode_command(Submit((Cancel("o"),)))
    yield encode_command(Settle(3, 3, b"d" * 32, 9, ()))
    yield encode_command(Rebase(Mark(3, b"d" * 32), ()))
    yield b"\x03" + msgspec.msgpack.encode(["of the future", 1])
    yield b"\x01" + b"\x91" * 3000


# --------------------------------------------------------------------------------------- own files


def journal(data: bytes) -> None:
    """Read a segment as it is, and recover a journal that holds the input: as a whole file, as
    records with right checksums, and as a vote.
    """
    header = SegmentHeader(CLUSTER, MEMBER, 1, 0, sealed=True)
    is_torn_header(data, header)
    for decode in (decode_segment, decode_vote):
        with contextlib.suppress(BadHeaderError):
            decode(data)
    list(read_records(header.salt, data, 0))
    find_record(header.salt, data, 0)
    _recovered({f"{NAME}.{1:010}": data})
    _recovered({f"{NAME}.{1:010}": sealed_segment(header, data)})
    _recovered({f"{NAME}.{1:010}": encode_segment(header) + data, f"{NAME}.vote": data})


def sealed_segment(header: SegmentHeader, data: bytes) -> bytes:
    """Return a segment whose records are told by the input and have right checksums."""
    content = encode_segment(header)
    kinds = list(Kind)
    for at in range(0, len(data) - 3, 4):
        kind, index, term, size = data[at : at + 4]
        record = Record(kinds[kind % len(kinds)], index, term, b"x" * (size % 16))
        content += encode_record(header.salt, len(content), record)
    return content


def _recovered(files: dict[str, bytes]) -> None:
    disk = SimDisk(random.Random(1))
    Journal(disk=disk, cluster=CLUSTER, member=MEMBER, name=NAME)
    for name, content in files.items():
        if disk.exists(name):
            disk.remove_now(name)
        disk.write_whole(name, content)
    try:
        Journal(disk=disk, cluster=CLUSTER, member=MEMBER, name=NAME)
    except BadRequest:
        return


def journal_seeds() -> Iterable[bytes]:
    """Return segments, and what seals into records that follow one another."""
    header = SegmentHeader(CLUSTER, MEMBER, 1, 0, sealed=True)
    yield encode_segment(header)
    content = encode_segment(header)
    for index in (2, 3):
        content += encode_record(header.salt, len(content), Record(Kind.ENTRY, index, 1, b"x"))
    yield content
    yield bytes([0, 2, 1, 3, 0, 3, 1, 3, 4, 2, 0, 0, 1, 3, 0, 0, 0, 3, 2, 1])


def snapshot(data: bytes) -> None:
    """Decode a snapshot as it is, and with right checksums; then the state in it."""
    for content in (data, sealed_snapshot(data)):
        try:
            found = decode_snapshot(content)
        except NotASnapshotError:
            continue
        _state(found.body)
    _state(data)


def _state(body: bytes) -> None:
    try:
        decode_state(body)
    except ValueError:
        return


def sealed_snapshot(data: bytes) -> bytes:
    """Return the input with a prefix and a digest that fit; its first two bytes split it."""
    length = min(int.from_bytes(data[:2]), max(len(data) - 2, 0))
    head, body = data[2 : 2 + length], data[2 + length :]
    packed = struct.pack("<8sHxxII", b"ACORDOSN", 1, len(head), zlib.crc32(head))
    whole = packed + head + body
    return whole + hashlib.blake2b(whole, digest_size=32).digest()


def snapshot_seeds() -> Iterable[bytes]:
    """Return what seals into a snapshot of a small state, and that state."""
    body = encode_state(
        MachineState(
            revision=1, digest=b"d" * 32, settled=Mark(1, b"d" * 32), log_time_ms=9,
            namespace=0, floor=0, pending=[], window_old=(), window_young=(), last={b"k": 1},
        )
    )  # fmt: skip
    header = msgspec.msgpack.encode(SnapshotHeader(CLUSTER, 3, 1, b"", len(body)))
    yield len(header).to_bytes(2) + header + body
    yield body
    yield body[:1] + b"\x91" * 3000


def backup(data: bytes) -> None:
    """Read a backup, in pieces, with the node's decoder and the client's check: as it is, and with
    right digests. Where the client takes one, the node does.
    """
    for content in (data[1:], sealed_backup(data)):
        first = _backup_says(BackupDecoder(), content, data)
        second = _backup_says(BackupCheck(), content, data)
        assert first == "" or second != "", f"only the node refuses it: {first}"


def _backup_says(reader: Any, content: bytes, data: bytes) -> str:
    try:
        for piece in pieces(data[:1] + content):
            for _ in reader.feed(piece) or ():
                pass
        reader.end()
    except (BadRequest, AcordoError) as exc:
        return getattr(exc, "code", "") or str(exc)
    return ""


def sealed_backup(data: bytes) -> bytes:
    """Return chunks with right heads and digests whose payloads are parts of the input: each begins
    with its kind and its length.
    """
    first = begin(INCREMENTAL if data[:1] == b"\xff" else WHOLE)
    content, digest, number, at = first, _first_digest(first), 0, 1
    while at + 2 <= len(data) and number < OPERATIONS:
        kind, length = b"HRTE"[data[at] % 4 : data[at] % 4 + 1], data[at + 1]
        payload = data[at + 2 : at + 2 + length]
        head = _HEAD.pack(kind, number, len(payload))
        digest = _digest(digest, head, payload)
        content += head + payload + digest
        at, number = at + 2 + length, number + 1
    return content


def backup_seeds() -> Iterable[bytes]:
    """Return what seals into a header, records and a trailer."""
    encode = msgspec.msgpack.encode
    told = {
        "format": 1, "acordo": "0", "kind": "shared", "cluster_id": "c", "history": "h",
        "revision": 1, "term": 1, "seq": 1, "digest": b"", "log_time_ms": 1, "made_ms": 1,
        "node": "n",
    }  # fmt: skip
    header = encode(told)
    trailer = encode(dict.fromkeys(("floor", "rows", "versions", "gone", "operations", "keys"), 0))
    records = encode([["g", b"k", 1], ["b", 1, b"d"]])
    chunks = b"".join(
        bytes([kind, len(payload)]) + payload
        for kind, payload in ((0, header), (1, records), (2, trailer))
        if len(payload) < 256
    )
    yield b"\x40" + chunks
    goes_on = encode(told | {"format": 2, "since": 1, "since_seq": 1, "since_digest": b""})
    row = encode([["l", [2, 1, "", 2, 2, b"", 1, []]]])
    parts = ((0, goes_on), (1, row), (2, trailer))
    yield b"\xff" + b"".join(bytes([kind, len(part)]) + part for kind, part in parts)
    yield b"\x40ACORDOBK\x00\x01"


# ---------------------------------------------------------------------------------------- requests

FORMS: Final = (
    requests.TransactionForm, requests.BatchForm, requests.LegacyForm, requests.TransferForm,
    requests.AdoptForm, requests.MemberForm, requests.NothingForm, lease_forms.GrantForm,
    lease_forms.KeepAliveForm, access_forms.RoleForm, access_forms.TokenForm,
    access_forms.BindingForm,
)  # fmt: skip


def json_bodies(data: bytes) -> None:
    """Decode a body as each form; make intents of transactions; write back what was read."""
    for form in FORMS:
        try:
            found = decode_document(data, form)
            msgspec.json.decode(encode_document(found))
            if isinstance(found, requests.TransactionForm):
                requests.parts_of(found)
                requests.intent_of(found, "op")
        except BadRequest:
            continue
    parse_async_write(data)


def json_bodies_seeds() -> Iterable[bytes]:
    """Return bodies of several forms."""
    yield (
        b'{"guards":[{"key":"a","absent":true},{"key":{"base64":"YQ=="},"compare":"version",'
        b'"is":"<","to":3}],"writes":[{"put":"a","value":"1","ttl":2.5},{"delete":"b","end":"c"},'
        b'{"if":[],"then":[{"put":"d","keep_value":true,"lease":"1f"}],"else":[]}],'
        b'"otherwise":[{"delete":"a"}],"reads":["a"],"op_id":"o"}'
    )
    yield b'{"operations":[{"writes":[{"put":"\\ud800","value":""}]}]}'
    yield b'{"rules":[{"prefix":"a","may":["read"]}]}'
    yield b'{"schema":1,"op_id":"o","transaction":{"writes":[]}}'
    yield b"[" * 2000


ETCD_FORMS: Final = tuple(
    kind
    for name, kind in sorted(vars(etcd).items())
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and name.endswith("Request")
)


def etcd_bodies(data: bytes) -> None:
    """Read a body as each request of etcd's gateway, and judge what it asks for."""
    for form in ETCD_FORMS:
        try:
            found: Any = parsed(data, form)
            match found:
                case etcd.TxnRequest():
                    check_transaction(found, OPERATIONS)
                    transaction(found, "op")
                case etcd.RangeRequest():
                    check_range(found)
                case etcd.PutRequest():
                    check_put(found)
                case etcd.DeleteRangeRequest():
                    check_delete(found)
        except (Refusal, BadRequest):
            continue
    text = data.decode("utf-8", "replace").lstrip()
    while text:
        _, text = first_value(text)


def etcd_bodies_seeds() -> Iterable[bytes]:
    """Return requests of etcd's gateway."""
    yield (
        b'{"compare":[{"target":"CREATE","key":"YQ==","create_revision":"0","result":"EQUAL"}],'
        b'"success":[{"requestPut":{"key":"YQ==","value":"MQ==","lease":"7"}}],'
        b'"failure":[{"request_range":{"key":"AA==","range_end":"AA==","limit":1e1}},'
        b'{"request_txn":{"success":[{"request_delete_range":{"key":"YQ=="}}]}}]}'
    )
    yield b'{"create_request":{"key":"YQ==","start_revision":"5","filters":["NOPUT"]}}{"x":null}'
    yield b'{"key":"YQ==","sort_order":2,"sort_target":"MOD","keys_only":true}'
    yield b"[" * 3000


def request_texts(data: bytes) -> None:
    """Read what stands in a request's target and headers."""
    text = data.decode("latin-1")
    asked: Callable[[], object]
    for asked in (
        lambda: parse_revision(text, "r"),
        lambda: parse_count(text, "n", 100),
        lambda: parse_seconds(text, "s", 10.0),
        lambda: parse_flag(text, "f"),
        lambda: parse_position(text, "p"),
        lambda: parse_etags(text, "If-Match"),
        lambda: matches_none(text, 3),
        lambda: place_of(text, b"", keys_only=False),
        lambda: own_timeout_s({"Acordo-Timeout": text}),
        lambda: own_lifetime_s({"Acordo-Lifetime": text}),
        lambda: own_op_id({"Idempotency-Key": text}, None, None),
        lambda: own_op_id({}, text, text),
        lambda: read_options(
            as_texts(query_params(text, ("consistency", "min_revision", "max_age", "revision"))),
            text,
        ),
        lambda: lease_forms.checked_lease(text),
    ):
        try:
            asked()
        except BadRequest:
            continue


def request_texts_seeds() -> Iterable[bytes]:
    """Return parameters and headers."""
    yield b"consistency=stale&max_age=1.5&revision=3"
    yield b'"17", "18"'
    yield b'"op \\" id"'
    yield b"12.3"
    yield b"%C3%A9=%ff&a+b=1"


# ------------------------------------------------------------------------------ the client's side


def sse(data: bytes) -> None:
    """Parse a stream of events: as a whole it gives the same as in pieces. Read each event."""
    whole = Parser().feed(data[1:])
    parser = Parser()
    assert [event for piece in pieces(data) for event in parser.feed(piece)] == whole
    for event in whole:
        for read in (
            lambda event=event: parse_change(event.kind, event.data, last=True),
            lambda event=event: raise_watch_error(event.data),
            lambda event=event: parse_inspected(event.data),
        ):
            try:
                read()
            except (AcordoError, Damaged):
                continue


def sse_seeds() -> Iterable[bytes]:
    """Return streams of events."""
    yield b'\x05event: put\nid: 3.1\ndata: {"key":"a","value":"1","revision":3}\n\n'
    yield b'\x00: ping\r\n\r\nevent: error\r\ndata: {"code":"pruned"}\r\n\r\n'


TARGETS: Final = {
    "raft_frames": Target(raft_frames, (), raft_frames_seeds),
    "raft_messages": Target(raft_messages, (), raft_messages_seeds),
    "log_commands": Target(log_commands, (ValueError, NewerCommand), log_commands_seeds),
    "journal": Target(journal, (), journal_seeds),
    "snapshot": Target(snapshot, (), snapshot_seeds),
    "backup": Target(backup, (), backup_seeds),
    "json_bodies": Target(json_bodies, (BadRequest,), json_bodies_seeds),
    "etcd_bodies": Target(etcd_bodies, (Refusal,), etcd_bodies_seeds),
    "request_texts": Target(request_texts, (), request_texts_seeds),
    "sse": Target(sse, (EventTooLong,), sse_seeds),
}


def feed(name: str, data: bytes) -> None:
    """Feed a target; what it may raise is no fault."""
    target = TARGETS[name]
    try:
        target.feed(data)
    except target.raises:
        return
