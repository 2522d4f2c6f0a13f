"""Play cases of the corpus against a server: requests, in order, with what is told by streams.

A case is a list of steps; each gets one answer. What an answer says of the server's own state
(ids of the cluster, revisions) is made comparable by `comparable`.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

Step: TypeAlias = dict[str, Any]
"""`path` and `body` of a request (`method` POST), and of what it answers: `save`, names with dotted
places, which later bodies use as `<name>` or `<name+1>`. `open`: the answer is a stream, kept under
that name; `read`: `count` messages of that stream; `close`: the stream is closed. `fill`: names
that stand for so many bytes of v in base64.
"""

ANSWER_S: Final = 3.0
SILENT_S: Final = 0.7
"""How long a stream that must not tell more is listened to."""
DELETE_ALL: Final = {"path": "/v3/kv/deleterange", "body": '{"key":"AA==","range_end":"AA=="}'}


class Stream:
    """An answer that goes on: JSON objects, one after another."""

    def __init__(self, url: str, path: str, body: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_S)
        self._connection.request("POST", path, body, {"Content-Type": "application/json"})
        self._socket = self._connection.sock
        self._response: http.client.HTTPResponse | None = None
        self.status: int | str = "silent"
        self._rest = b""
        self._ready: list[Any] = []
        with contextlib.suppress(TimeoutError):
            self._response = self._connection.getresponse()
            self.status = self._response.status

    def read(self, count: int) -> list[Any]:
        """Return messages until `count` of them, or events in them, are there."""
        found: list[Any] = []
        with contextlib.suppress(TimeoutError):
            while sum(_weight(message) for message in found) < count:
                if not self._ready:
                    self._ready += self._next()
                found += self._ready[:1]  # what came along with it belongs to the next step
                del self._ready[:1]
        return found

    def quiet(self) -> list[Any]:
        """Return what is told within SILENT_S."""
        self._socket.settimeout(SILENT_S)
        found, self._ready = self._ready, []
        with contextlib.suppress(TimeoutError):
            while True:
                found += self._next()
        self._socket.settimeout(ANSWER_S)
        return found

    def _next(self) -> list[Any]:
        part = b"" if self._response is None else self._response.read1(65536)
        if not part:
            raise TimeoutError
        *lines, self._rest = (self._rest + part).split(b"\n")
        return [json.loads(line) for line in lines if line.strip()]

    def close(self) -> None:
        """Leave."""
        if self._response is not None:
            self._response.close()
        self._connection.close()


def _weight(message: Any) -> int:
    return len(message.get("result", {}).get("events", ())) or 1


def play(url: str, steps: list[Step]) -> list[Any]:
    """Run the steps of a case on an empty store; return an answer for each."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_S)
    streams: dict[str, Stream] = {}
    saved: dict[str, str] = {}
    answers: list[Any] = []
    try:
        _ask(connection, DELETE_ALL, saved)
        for step in steps:
            if "open" in step:
                stream = Stream(url, step["path"], filled(step["body"], saved))
                streams[step["open"]] = stream
                answers.append({"status": stream.status})
            elif "read" in step:
                stream = streams[step["read"]]
                told = stream.read(step["count"]) if step["count"] else stream.quiet()
                answers.append({"told": told})
                _save(step, told[-1] if told else {}, saved)
            elif "close" in step:
                streams.pop(step["close"]).close()
                answers.append({})
            else:
                answers.append(_ask(connection, step, saved))
    finally:
        for stream in streams.values():
            stream.close()
        connection.close()
    return comparable(answers, saved)


def _ask(connection: http.client.HTTPConnection, step: Step, saved: dict[str, str]) -> Any:
    method = step.get("method", "POST")
    filling = {
        name: base64.b64encode(b"v" * count).decode()
        for name, count in step.get("fill", {}).items()
    }
    body = filled(step.get("body", ""), {**saved, **filling})
    kept = connection.sock is not None
    try:
        connection.request(method, step["path"], body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read().decode("utf-8", "replace")
    except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError):
        connection.close()
        if kept:  # a balancer that takes a new list of nodes closes connections that are idle
            return _ask(connection, step, saved)
        return {"status": "closed"}
    except TimeoutError:
        connection.close()
        return {"status": "silent"}
    try:
        answer = json.loads(text)
    except ValueError:
        answer = text.strip()
    _save(step, answer, saved)
    return {"status": response.status, "answer": answer}


def filled(body: str, saved: Mapping[str, str]) -> str:
    """Return a body with `<name>` and `<name+1>` replaced by what was saved."""

    def value(found: re.Match[str]) -> str:
        base = saved[found[1]]
        return str(int(base) + int(found[2])) if found[2] else base

    return re.sub(r"<([a-z]\w*)([+-]\d+)?>", value, body)


def _save(step: Step, answer: Any, saved: dict[str, str]) -> None:
    for name, place in step.get("save", {}).items():
        found = answer
        for part in place.split("."):
            found = found[int(part)] if isinstance(found, list) else found.get(part, {})
        saved[name] = str(found)


# ------------------------------------------------------------------------------------- comparable

OWN: Final = {"cluster_id", "member_id", "raft_term"}
"""Members of a header that are a server's own: only that they are there is compared."""
REVISIONS: Final = {"mod_revision", "create_revision", "rev"}


def comparable(answers: list[Any], saved: Mapping[str, str]) -> list[Any]:
    """Return answers with what is a server's own replaced: ids by a star, revisions of keys by
    their rank in the case, what was saved by its name.
    """
    found: set[int] = set()
    _revisions(answers, found)
    ranks = {str(revision): f"r{rank}" for rank, revision in enumerate(sorted(found), 1)}
    names = {value: f"<{name}>" for name, value in saved.items() if len(value) > 6}
    return [_plain(answer, ranks, names) for answer in answers]


def _revisions(value: Any, found: set[int]) -> None:
    if isinstance(value, dict):
        for name, each in value.items():
            if name in REVISIONS:
                found.add(int(each))
            _revisions(each, found)
    elif isinstance(value, list):
        for each in value:
            _revisions(each, found)


def _plain(value: Any, ranks: Mapping[str, str], names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_plain(each, ranks, names) for each in value]
    if not isinstance(value, dict):
        return names.get(value, value) if isinstance(value, str) else value
    if "told" in value:
        return _told([_plain(each, ranks, names) for each in value["told"]])
    plain: dict[str, Any] = {}
    for name, each in value.items():
        if name in OWN or name in {"revision", "compact_revision"}:
            plain[name] = "*"
        elif name in REVISIONS:
            plain[name] = ranks[str(each)]
        elif name in {"keys", "leases"}:
            # etcd tells them in no order.
            plain[name] = sorted(_plain(each, ranks, names), key=json.dumps)
        elif name == "TTL" and "grantedTTL" in value:
            plain[name] = "*" if int(each) > 0 else each
        else:
            plain[name] = _plain(each, ranks, names)
    return plain


def _told(messages: list[Any]) -> Any:
    """Return what a stream told: events of one watch in their order, however they were portioned,
    and everything else.
    """
    events: dict[str, list[Any]] = {}
    others = []
    for message in messages:
        result = message.get("result", message)
        if "events" in result:
            events.setdefault(result.get("watch_id", "0"), []).extend(result["events"])
        else:
            others.append(message)
    return {"events": events, "messages": others}
