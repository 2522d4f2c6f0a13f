"""Say what clients saw, what was broken meanwhile, and turn it into JSON lines and back.

It never reads a clock or opens a file, and never guesses: a record that cannot be trusted is
refused with its line and the reason.

A file either is *plain* (one operation per line, the format of the public corpora; order of lines
free) or begins with a header line. A file with a header numbers its records and ends with a count,
so that a cut, a gap, a swap or a newer version is noticed before anything is judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, Literal, TypeAlias

import msgspec

VERSION: Final = 1
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""A longer line is refused: no operation of ours comes near it."""
TIME_NS_MAX: Final = 2**62

RegisterOp: TypeAlias = Literal["put", "get", "cas", "delete", "append"]
OutcomeName: TypeAlias = Literal["ok", "fail", "info"]
Client: TypeAlias = int | str

READS: Final = frozenset({"get", "read"})
"""Operations that change nothing: of unknown outcome they say nothing."""


class HistoryError(ValueError):
    """The history cannot be judged: `line` is 1-based (0: the file as a whole)."""

    def __init__(self, detail: str, *, line: int = 0, source: str = "") -> None:
        where = source + (f":{line}" if line else "")
        super().__init__(f"{where}: {detail}" if where else detail)
        self.detail, self.line, self.source = detail, line, source


class Operation(msgspec.Struct, frozen=True, omit_defaults=True):
    """One logical operation of one client, over all its attempts: first byte sent to last byte
    read.

    `ok` took effect (or observed) inside the interval; `fail` certainly had no effect and observed
    nothing; `info` is unknown: it may take effect at any time after its start, or never. A refused
    guard is `ok` with result false.
    """

    client: int | str
    op: str
    outcome: OutcomeName
    start_ns: int
    end_ns: int | None = None
    key: str | None = None
    value: Any = None
    expected: Any = None
    result: Any = msgspec.UNSET
    workload: str | None = None
    level: str | None = None
    """Read level asked for; None means linearizable."""
    served: str | None = None
    """Read level that the answer claims."""
    node: str | None = None
    revision: int | None = None
    """Write: the revision it got. Read: the position it was served at."""
    version: int | None = None
    """Read: the revision of the row that was returned (0: absent)."""
    age_ms: float | None = None
    max_age_ms: float | None = None
    token: int | None = None
    """Fencing token of a lock operation."""
    term: int | None = None
    leader: str | None = None
    op_id: str | None = None
    attempts: int = 1
    error: str | None = None
    resolved: bool = False
    """Its outcome was unknown and looked up later."""

    @property
    def returned_ns(self) -> float:
        """Return when it ended; infinity while unknown."""
        return float("inf") if self.outcome == "info" or self.end_ns is None else self.end_ns


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a nemesis did: `start` intends, `bit` has proof of effect, `healed`, `skipped` for want
    of permission.
    """

    nemesis: str
    phase: Literal["start", "bit", "healed", "skipped"]
    t_ns: int
    targets: tuple[str, ...] = ()
    detail: str | None = None


class Lookup(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `/v1/operations/{op_id}` answered after healing."""

    lookup: str
    answer: Literal["applied", "refused", "expired", "unknown"]
    t_ns: int
    revision: int | None = None
    node: str | None = None
    branch: str | None = None


class Watched(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that one watcher (or subscriber of the broker) was told.

    `open`: a stream began, resuming after `revision` (None: from now on). `event`: a change.
    `bookmark`: everything up to `revision` was delivered. `gone`: a clear 410. `closed`: the stream
    ended. `end`: the watcher stopped on purpose.
    """

    watcher: str
    kind: Literal["open", "event", "bookmark", "gone", "closed", "end"]
    t_ns: int
    revision: int | None = None
    key: str | None = None
    value: Any = None
    deleted: bool = False
    prefix: str | None = None
    node: str | None = None
    channel: Literal["watch", "broker"] = "watch"


class Seen(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one node said of itself and of its leader."""

    seen: str
    t_ns: int
    term: int | None = None
    role: str | None = None
    leader: str | None = None
    applied: int | None = None
    settled: int | None = None
    digest: str | None = None


Record: TypeAlias = Operation | Fault | Lookup | Watched | Seen


class Header(msgspec.Struct, frozen=True, omit_defaults=True):
    """First line of a recorded history."""

    acordo_history: int
    seed: int | None = None
    settings: dict[str, Any] = {}


class _End(msgspec.Struct, frozen=True):
    end: bool
    records: int


@dataclass(frozen=True)
class History:
    """Everything that one run recorded, in the order of the file."""

    operations: list[Operation] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    header: Header | None = None

    def of(self, workload: str) -> list[Operation]:
        """Return the operations of one workload."""
        return [o for o in self.operations if o.workload == workload]


_KINDS: Final[tuple[tuple[str, type[Any]], ...]] = (
    ("op", Operation),
    ("nemesis", Fault),
    ("lookup", Lookup),
    ("watcher", Watched),
    ("seen", Seen),
)
_encode: Final = msgspec.json.Encoder().encode


# ------------------------------------------------------------------------------------------ writing


def header_line(*, seed: int | None = None, settings: Mapping[str, Any] | None = None) -> bytes:
    """Return the first line of a recorded history."""
    return _encode(Header(VERSION, seed, dict(settings or {}))) + b"\n"


def record_line(number: int, record: Record) -> bytes:
    """Return one line; `number` counts records from 0 in the order they are written."""
    return b'{"n":%d,' % number + _encode(record)[1:] + b"\n"


def end_line(records: int) -> bytes:
    """Return the last line. A file with a header and without this line was cut."""
    return _encode(_End(True, records)) + b"\n"


def plain_line(operation: Operation) -> bytes:
    """Return one operation as a line of a plain file."""
    return _encode(operation) + b"\n"


def dump(
    records: Iterable[Record], *, seed: int | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[bytes]:
    """Yield the lines of a whole recorded history."""
    yield header_line(seed=seed, settings=settings)
    count = 0
    for record in records:
        yield record_line(count, record)
        count += 1
    yield end_line(count)


# ------------------------------------------------------------------------------------------ reading


def parse(lines: Iterable[bytes], *, source: str = "") -> History:
    """Read and check the lines of one history.

    Raises:
        HistoryError: cut, reordered, of a newer version, or impossible.
    """
    history = History()
    header: Header | None = None
    end: _End | None = None
    count = 0
    number = 0
    last_complete = True
    for number, line in enumerate(lines, 1):
        text = line.strip()
        last_complete = line.endswith(b"\n")
        if not text:
            continue
        if end is not None:
            raise HistoryError("something follows the end record", line=number, source=source)
        raw = _json(text, number, source, complete=last_complete)
        if "acordo_history" in raw:
            if number != 1:
                raise HistoryError(
                    "a header in the middle: two histories in one file", line=number, source=source
                )
            header = _header(raw, source)
        elif header is not None and "end" in raw:
            end = _convert(raw, _End, number, source)
        else:
            if header is not None:
                _number(raw, count, number, source)
            _put(history, _record(raw, number, source, strict=header is not None), number, source)
            count += 1
    if header is not None:
        if end is None:
            raise HistoryError(
                f"cut off after {count} records: the end record is missing",
                line=number,
                source=source,
            )
        if end.records != count:
            raise HistoryError(
                f"{end.records} records were written, {count} are here", source=source
            )
        _check_clients(history.operations, source)
    return History(
        history.operations, history.faults, history.lookups, history.watched, history.seen, header
    )


def _json(text: bytes, number: int, source: str, *, complete: bool) -> dict[str, Any]:
    if len(text) > LINE_BYTES_MAX:
        raise HistoryError(f"line longer than {LINE_BYTES_MAX} bytes", line=number, source=source)
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        why = "cut off in the middle of a record" if not complete else f"no JSON ({exc})"
        raise HistoryError(why, line=number, source=source) from exc
    if not isinstance(raw, dict):
        raise HistoryError("not a JSON object", line=number, source=source)
    return raw


def _header(raw: dict[str, Any], source: str) -> Header:
    version = raw["acordo_history"]
    if isinstance(version, int) and version > VERSION:
        raise HistoryError(
            f"written by a newer version (format {version}; this program reads up to {VERSION})",
            line=1,
            source=source,
        )
    if version != VERSION or isinstance(version, bool):
        raise HistoryError(f"unknown format version {version!r}", line=1, source=source)
    header: Header = _convert(raw, Header, 1, source)
    return header


def _number(raw: dict[str, Any], due: int, number: int, source: str) -> None:
    n = raw.pop("n", None)
    if n is None:
        raise HistoryError("a record without its number", line=number, source=source)
    if n != due:
        raise HistoryError(
            f"record {n} where {due} was due: lines were reordered or are missing",
            line=number,
            source=source,
        )


def _record(raw: dict[str, Any], number: int, source: str, *, strict: bool) -> Record:
    for mark, kind in _KINDS:
        if mark in raw:
            if strict and (unknown := sorted(raw.keys() - set(kind.__struct_fields__))):
                raise HistoryError(f"unknown field {unknown[0]!r}", line=number, source=source)
            record: Record = _convert(raw, kind, number, source)
            return record
    raise HistoryError("neither an operation nor an event", line=number, source=source)


def _convert(raw: dict[str, Any], kind: type[Any], number: int, source: str) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as exc:
        raise HistoryError(str(exc), line=number, source=source) from exc


def _put(history: History, record: Record, number: int, source: str) -> None:
    match record:
        case Operation():
            _check_operation(record, number, source)
            history.operations.append(record)
        case Fault():
            history.faults.append(record)
        case Lookup():
            history.lookups.append(record)
        case Watched():
            history.watched.append(record)
        case Seen():
            history.seen.append(record)


def _check_operation(o: Operation, number: int, source: str) -> None:
    why = ""
    if not 0 <= o.start_ns <= TIME_NS_MAX or (o.end_ns or 0) > TIME_NS_MAX:
        why = "time out of range"
    elif o.outcome != "info" and o.end_ns is None:
        why = f"outcome {o.outcome} without end_ns"
    elif o.outcome != "info" and o.end_ns is not None and o.end_ns < o.start_ns:
        why = f"ends at {o.end_ns}, before it starts at {o.start_ns}"
    elif o.op in {"put", "get", "cas", "delete", "append"}:
        why = _check_register(o)
    if why:
        raise HistoryError(why, line=number, source=source)


def _check_register(o: Operation) -> str:
    if o.key is None:
        return f"{o.op} without key"
    if o.op == "get" and o.outcome == "ok" and o.result is msgspec.UNSET:
        return "get that is ok without result"
    if o.op == "append" and not isinstance(o.value, str):
        return "append of something other than a string"
    if o.op in {"cas", "delete"} and not (
        o.result is msgspec.UNSET or o.result is None or isinstance(o.result, bool)
    ):
        return f"{o.op} with a result that is neither true nor false"
    return ""


def _check_clients(operations: Sequence[Operation], source: str) -> None:
    """Refuse a client that returns after an unknown outcome, or does two things at once."""
    by_client: dict[Client, list[Operation]] = {}
    for o in operations:
        by_client.setdefault(o.client, []).append(o)
    for client, mine in by_client.items():
        mine.sort(key=lambda o: (o.start_ns, o.returned_ns))
        for before, after in pairwise(mine):
            if before.outcome == "info" and before.op not in READS:
                raise HistoryError(
                    f"client {client!r} goes on at {after.start_ns} after an unknown outcome at {before.start_ns}:"
                    " it must continue under a new name",
                    source=source,
                )
            if before.outcome != "info" and before.returned_ns > after.start_ns:
                raise HistoryError(
                    f"client {client!r} starts at {after.start_ns} while its operation of {before.start_ns} still runs",
                    source=source,
                )


# ------------------------------------------------------------------------------- faults and leaders


@dataclass(frozen=True)
class Window:
    """One fault from its start to its healing (None: not within the record)."""

    nemesis: str
    targets: tuple[str, ...]
    start_ns: int
    bit_ns: int | None = None
    healed_ns: int | None = None
    detail: str | None = None


@dataclass(frozen=True)
class Reign:
    """Who led from when on, as far as anybody said."""

    since_ns: int
    term: int | None
    leader: str | None


def windows(faults: Iterable[Fault]) -> list[Window]:
    """Pair each start with what followed it for the same nemesis and targets, in order of start."""
    open_: dict[tuple[str, tuple[str, ...]], Window] = {}
    done: list[Window] = []
    for f in sorted(faults, key=lambda f: f.t_ns):
        name = (f.nemesis, f.targets)
        if f.phase == "start":
            if name in open_:
                done.append(open_[name])
            open_[name] = Window(f.nemesis, f.targets, f.t_ns, detail=f.detail)
        elif name in open_ and f.phase == "bit":
            window = open_[name]
            if window.bit_ns is None:
                open_[name] = replace(window, bit_ns=f.t_ns, detail=f.detail or window.detail)
        elif name in open_ and f.phase == "healed":
            done.append(replace(open_.pop(name), healed_ns=f.t_ns))
    return sorted([*done, *open_.values()], key=lambda w: w.start_ns)


def reigns(history: History) -> list[Reign]:
    """Return each change of leader or term, from status records and from what operations
    were told.
    """
    told = [(s.t_ns, s.term, s.leader) for s in history.seen if s.leader is not None]
    told += [
        (int(o.end_ns or o.start_ns), o.term, o.leader)
        for o in history.operations
        if o.leader is not None
    ]
    made: list[Reign] = []
    for t_ns, term, leader in sorted(told, key=lambda t: t[0]):
        last = made[-1] if made else None
        if last is not None and term is not None and last.term is not None and term < last.term:
            continue  # somebody who had not heard of the new term yet
        if last is None or (term, leader) != (last.term, last.leader):
            made.append(Reign(t_ns, term, leader))
    return made


# ---------------------------------------------------------------------------------- late resolution


def resolve(operations: Iterable[Operation], lookups: Iterable[Lookup]) -> list[Operation]:
    """Settle unknown operations by what their op_id was found to be after healing.

    *applied* → ok, returning when the look-up ended. *refused* → ok with result false. *expired* →
    fail. Judge both this and the unresolved history: this one trusts the server, that one does not.
    """
    first: dict[str, Lookup] = {}
    for found in lookups:
        if found.answer != "unknown":
            first.setdefault(found.lookup, found)
    return [_resolved(o, first.get(o.op_id or "")) for o in operations]


def _resolved(o: Operation, found: Lookup | None) -> Operation:
    if found is None or o.outcome != "info":
        return o
    if found.answer == "expired":
        return msgspec.structs.replace(
            o, outcome="fail", end_ns=max(found.t_ns, o.start_ns), resolved=True
        )
    guard_held = found.answer == "applied" and found.branch != "otherwise"
    result = guard_held if o.op == "cas" else o.result
    if found.answer == "refused" and o.op != "cas":
        return msgspec.structs.replace(
            o, outcome="fail", end_ns=max(found.t_ns, o.start_ns), resolved=True
        )
    return msgspec.structs.replace(
        o,
        outcome="ok",
        result=result,
        end_ns=max(found.t_ns, o.start_ns),
        revision=found.revision if o.revision is None else o.revision,
        token=found.revision if o.op == "acquire" else o.token,
        resolved=True,
    )
