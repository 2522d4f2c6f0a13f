"""Convert the records of a run to JSON lines and back.

It uses no clock, opens no file, and never guesses: a record that cannot be trusted is refused with
its line and the reason. A file is either *plain* (one operation per line in any order, the format
of the public corpora) or begins with a header line. A file with a header numbers its records and
ends with their count, so that a cut, a gap, a swap or a newer version is noticed before anything is
judged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import msgspec

from chaos.records.history import (
    READS,
    Client,
    ClientOperation,
    Fault,
    Header,
    History,
    HistoryError,
    Lookup,
    NodeStatus,
    Record,
    Watched,
)

VERSION: Final = 1
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""Longest line that is accepted. Our own operations are far shorter."""
TIME_NS_MAX: Final = 2**62
_KINDS: Final[tuple[tuple[str, type[Any]], ...]] = (
    ("op", ClientOperation),
    ("nemesis", Fault),
    ("lookup", Lookup),
    ("watcher", Watched),
    ("seen", NodeStatus),
)
_encode: Final = msgspec.json.Encoder().encode


class _End(msgspec.Struct, frozen=True):
    """The last line of a recorded history."""

    end: bool
    records: int


def header_line(*, seed: int | None = None, settings: Mapping[str, Any] | None = None) -> bytes:
    """Return the first line of a recorded history."""
    return _encode(Header(VERSION, seed, dict(settings or {}))) + b"\n"


def record_line(number: int, record: Record) -> bytes:
    """Return the line of one record; `number` counts records from 0 in writing order."""
    return b'{"n":%d,' % number + _encode(record)[1:] + b"\n"


def end_line(records: int) -> bytes:
    """Return the last line. A file with a header but without this line was cut off."""
    return _encode(_End(True, records)) + b"\n"


def plain_line(operation: ClientOperation) -> bytes:
    """Return one operation as a line of a plain file."""
    return _encode(operation) + b"\n"


def all_lines(
    records: Iterable[Record], *, seed: int | None = None, settings: Mapping[str, Any] | None = None
) -> Iterator[bytes]:
    """Yield the lines of a whole recorded history."""
    yield header_line(seed=seed, settings=settings)
    count = 0
    for record in records:
        yield record_line(count, record)
        count += 1
    yield end_line(count)


def parse(lines: Iterable[bytes], *, source: str = "") -> History:
    """Read and check the lines of one history.

    Raises HistoryError if it is cut, reordered, of a newer version, or impossible.
    """
    reader = _Reader(source)
    for number, line in enumerate(lines, 1):
        reader.number = number
        if line.strip():
            reader.take(line)
    return reader.close()


class _Reader:
    """The state of reading one file line by line."""

    def __init__(self, source: str) -> None:
        self.number = 0
        """Number of the current line, from 1."""
        self._source = source
        self._history = History()
        self._header: Header | None = None
        self._end: _End | None = None
        self._count = 0

    def _wrong(self, why: str) -> HistoryError:
        return HistoryError(why, line=self.number, source=self._source)

    def take(self, line: bytes) -> None:
        """Read one line that is not empty."""
        if self._end is not None:
            raise self._wrong("something follows the end record")
        number, source, header = self.number, self._source, self._header
        raw = _json(line.strip(), number, source, complete=line.endswith(b"\n"))
        if "acordo_history" in raw:
            if number != 1:
                raise self._wrong("a header in the middle: two histories in one file")
            self._header = _header(raw, source)
        elif header is not None and "end" in raw:
            self._end = _convert(raw, _End, number, source)
        else:
            if header is not None:
                _number(raw, self._count, number, source)
            record = _record(raw, number, source, strict=header is not None)
            _put(self._history, record, number, source)
            self._count += 1

    def close(self) -> History:
        """Check the file as a whole and return its history."""
        if self._header is not None:
            if self._end is None:
                raise self._wrong(f"cut off after {self._count} records: the end record is missing")
            if self._end.records != self._count:
                raise HistoryError(
                    f"{self._end.records} records were written, {self._count} are here",
                    source=self._source,
                )
            _check_clients(self._history.operations, self._source)
        return replace(self._history, header=self._header)


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
        case ClientOperation():
            _check_operation(record, number, source)
            history.operations.append(record)
        case Fault():
            history.faults.append(record)
        case Lookup():
            history.lookups.append(record)
        case Watched():
            history.watched.append(record)
        case NodeStatus():
            history.statuses.append(record)


def _check_operation(o: ClientOperation, number: int, source: str) -> None:
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


def _check_register(o: ClientOperation) -> str:
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


def _check_clients(operations: Sequence[ClientOperation], source: str) -> None:
    """Refuse a client that is used again after an unknown outcome, or that has two operations at
    once.
    """
    by_client: dict[Client, list[ClientOperation]] = {}
    for o in operations:
        by_client.setdefault(o.client, []).append(o)
    for client, mine in by_client.items():
        mine.sort(key=lambda o: (o.start_ns, o.returned_ns))
        for before, after in pairwise(mine):
            if before.outcome == "info" and before.op not in READS:
                raise HistoryError(
                    f"client {client!r} goes on at {after.start_ns} "
                    f"after an unknown outcome at {before.start_ns}:"
                    " it must continue under a new name",
                    source=source,
                )
            if before.outcome != "info" and before.returned_ns > after.start_ns:
                raise HistoryError(
                    f"client {client!r} starts at {after.start_ns} while its operation of "
                    f"{before.start_ns} still runs",
                    source=source,
                )
