"""Say in words what members send each other, and what their logs hold.

Requests have random numbers: here they are counted in the order in which they are met.
"""

from __future__ import annotations

from typing import Any, Final

from coordinator.raft.core import pysyncobj_library as library
from coordinator.raft.core.pysyncobj_library import STAMP_BYTES
from coordinator.raft.core.rules.membership import Configuration, decode_configuration

REASONS: Final = {
    library.SUCCESS: "done",
    library.QUEUE_FULL: "refused: the queue is full",
    library.MISSING_LEADER: "refused: no leader",
    library.DISCARDED: "refused: another entry took its place",
    library.NOT_LEADER: "refused: the leader was not reached",
    library.REQUEST_DENIED: "refused: denied",
    library.UNKNOWN_OUTCOME: "unknown",
}
LONG: Final = 24


def _words(command: bytes) -> str:
    """Return a command as text; a long one by its beginning and length."""
    text = command.decode()
    return text if len(text) <= LONG else f"{text[:3]}… ({len(text)} bytes)"


def configuration(held: Configuration) -> str:
    """Say who votes, who observes, who is gone."""
    voters = " ".join(seat.id + "*" * seat.joined for seat in held.seats if seat.voter)
    observers = " ".join(seat.id + "*" * seat.joined for seat in held.seats if not seat.voter)
    parts = [voters, f"observers {observers}" * bool(observers)]
    parts.append(f"removed {' '.join(held.retired)}" * bool(held.retired))
    return "members " + ", ".join(part for part in parts if part)


def entry(command: bytes, index: int, term: int) -> str:
    """Say what stands in a place of the log."""
    kind = command[:1]
    if kind == library.REGULAR:
        what = _words(command[1 + STAMP_BYTES :])
    elif kind == library.MEMBERSHIP:
        what = configuration(decode_configuration(command[1:]))
    else:
        what = command[1:].decode() or "no-op"
    return f"{index}@{term} {what}"


class Words:
    """The messages of one story as text."""

    def __init__(self) -> None:
        self._requests: dict[int, int] = {}

    def _request(self, number: int) -> int:
        return self._requests.setdefault(number, len(self._requests) + 1)

    def message(self, message: dict[str, Any]) -> str:
        """Say what a message says."""
        kind = message["type"]
        say = getattr(self, f"_{kind}", None)
        return str(kind if say is None else say(message))

    def _request_vote(self, m: dict[str, Any]) -> str:
        asks = "pre-vote" if m["pre"] else "vote"
        forced = ", told to stand" if m["forced"] else ""
        log = f"{m['last_log_index']}@{m['last_log_term']}"
        return f"asks {asks} for term {m['term']}, log ends {log}{forced}"

    def _response_vote(self, m: dict[str, Any]) -> str:
        vote = "pre-vote" if m["pre"] else "vote"
        if m["granted"]:
            return f"gives {vote} for term {m['term']}"
        return f"refuses {vote} for term {m['term']}, is in {m['current']}"

    def _append_entries(self, m: dict[str, Any]) -> str:
        after = f"{m['prevLogIdx']}@{m['prevLogTerm']}"
        entries = "; ".join(entry(*each) for each in m["entries"])
        silent = "" if m["answer"] else ", no answer wanted"
        what = f"append after {after}: {entries}" if entries else f"heartbeat after {after}"
        return f"{what} (term {m['term']}, commit {m['commit_index']}{silent})"

    def _next_node_idx(self, m: dict[str, Any]) -> str:
        if m["disk_lost"]:
            return f"has lost its disk (term {m['term']})"
        if m["reset"]:
            return f"send from {m['next_node_idx']} (term {m['term']})"
        if m["success"]:
            return f"has up to {m['next_node_idx'] - 1} (term {m['term']})"
        return f"takes nothing (term {m['term']})"

    def _install_snapshot(self, m: dict[str, Any]) -> str:
        end = m["offset"] + len(m["serialized"])
        base = f"{m['index']}@{m['index_term']}"
        last = ", the last" if end == m["total"] else ""
        return f"snapshot up to {base}, bytes {m['offset']}–{end}{last} (term {m['term']})"

    def _snapshot_wanted(self, m: dict[str, Any]) -> str:
        if not m["id"]:
            return f"wants a snapshot up to {m['offset']} or later (term {m['term']})"
        return f"wants the snapshot from byte {m['offset']} (term {m['term']})"

    def _apply_command(self, m: dict[str, Any]) -> str:
        command = m["command"]
        kind = "" if command[:1] == library.REGULAR else "membership change "
        what = _words(command[1:]) if not kind else ""
        return f"forwards #{self._request(m['request_id'])} {kind}{what}".rstrip()

    def _apply_command_response(self, m: dict[str, Any]) -> str:
        number = self._request(m["request_id"])
        if m["error"] is not None:
            reason = f" ({m['reason']})" if m["reason"] else ""
            return f"#{number} {REASONS[m['error']]}{reason}"
        return f"#{number} is at {m['log_idx']}@{m['log_term']}"

    def _timeout_now(self, m: dict[str, Any]) -> str:
        return f"stand now (term {m['term']})"

    def _resigned(self, m: dict[str, Any]) -> str:
        return f"leads no more (term {m['term']})"

    def _removed(self, m: dict[str, Any]) -> str:
        return f"you were removed (term {m['term']})"
