"""Name every message that members exchange: the allow-list of the wire.

Pure: types only. A message that is not listed here, or a value that does not fit its field, is
refused before the core sees it.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from coordinator.raft.net.codec import Command, Count, Entries, Message, Name

Chunk = Annotated[bytes, Meta(max_length=4 << 20)]
Text = Annotated[str, Meta(max_length=4096)]


class AppendEntries(Message, frozen=True, array_like=True, tag="append_entries"):
    """The entries that follow (prevLogIdx, prevLogTerm). Without entries it is a heartbeat, or with
    `answer` false only announces `commit_index`.

    `joined`: whether the receiver's seat says that it has joined (membership.py).
    """

    term: Count
    commit_index: Count
    prevLogIdx: Count
    prevLogTerm: Count
    entries: Entries
    joined: bool
    answer: bool


class NextNodeIdx(Message, frozen=True, array_like=True, tag="next_node_idx"):
    """A follower's answer to AppendEntries. `success`: everything below `next_node_idx` equals the
    leader's log and is on the follower's disk. `reset`: the leader must send again from there.
    """

    term: Count
    next_node_idx: Count
    reset: bool
    success: bool
    disk_lost: bool = False


class RequestVote(Message, frozen=True, array_like=True, tag="request_vote"):
    """A candidate's request (rules.VoteRequest). `joined`: whether the receiver's seat says so."""

    term: Count
    last_log_index: Count
    last_log_term: Count
    pre: bool
    forced: bool
    joined: bool


class ResponseVote(Message, frozen=True, array_like=True, tag="response_vote"):
    """A voter's answer. `term` is the term asked for, `current` the voter's own."""

    term: Count
    pre: bool
    granted: bool
    current: Count


class TimeoutNow(Message, frozen=True, array_like=True, tag="timeout_now"):
    """The leader of `term` asks the receiver to stand at once."""

    term: Count


class Resigned(Message, frozen=True, array_like=True, tag="resigned"):
    """The leader of `term` has stopped leading."""

    term: Count


class Removed(Message, frozen=True, array_like=True, tag="removed"):
    """The receiver is no longer a member."""

    term: Count


class Contacts(Message, frozen=True, array_like=True, tag="contacts"):
    """(id, address) of the members in the newest configuration that the sender knows committed."""

    members: Annotated[list[tuple[Name, Text]], Meta(max_length=64)]


class InstallSnapshot(Message, frozen=True, array_like=True, tag="install_snapshot"):
    """A chunk, from byte `offset` on, of the snapshot `id` that ends at (index, index_term).

    `dump_bytes`: where in the stream the copy of the sender's own store begins; 0: there is
    none.
    """

    term: Count
    commit_index: Count
    index: Count
    index_term: Count
    id: Annotated[bytes, Meta(max_length=64)]
    offset: Count
    total: Count
    serialized: Chunk
    joined: bool
    dump_bytes: Count = 0


class SnapshotWanted(Message, frozen=True, array_like=True, tag="snapshot_wanted"):
    """The offset at which the sender wants the next chunk of the snapshot `id`. Without an id, a
    request for a snapshot that ends at entry `offset` or later.
    """

    term: Count
    id: Annotated[bytes, Meta(max_length=64)]
    offset: Count


class ApplyCommand(Message, frozen=True, array_like=True, tag="apply_command"):
    """A command for the leader to order, or a membership change for it to judge."""

    command: Command
    request_id: Count


class ApplyCommandResponse(Message, frozen=True, array_like=True, tag="apply_command_response"):
    """Where the leader appended a forwarded command, or the reason why it did not (`error` 0: the
    membership is already as requested).
    """

    request_id: Count
    log_idx: Count = 0
    log_term: Count = 0
    error: Count | None = None
    reason: Text = ""
    later: bool = False


class ReadPing(Message, frozen=True, array_like=True, tag="read_ping"):
    """The question whether the receiver still follows `term`."""

    term: Count
    round: Count


class ReadPong(Message, frozen=True, array_like=True, tag="read_pong"):
    """The sender still follows `term`."""

    term: Count
    round: Count


class ReadRequest(Message, frozen=True, array_like=True, tag="read_request"):
    """A request to the leader to confirm a position for the sender's reads."""

    request: Count


class ReadResponse(Message, frozen=True, array_like=True, tag="read_response"):
    """The confirmed position, or the reason for refusing the request (kv.errors.NotApplied)."""

    request: Count
    index: Count
    term: Count
    problem: Name


class PeerNote(Message, frozen=True, array_like=True, tag="note"):
    """The sender's `Replica.note()`, and the sender's term when it made the note."""

    note: Annotated[bytes, Meta(max_length=256)]
    term: Count = 0


class TransferRequest(Message, frozen=True, array_like=True, tag="ask"):
    """A request to transfer the leadership to `to`; if empty, the leader chooses."""

    ask: Count
    to: Name
    timeout_s: Annotated[float, Meta(ge=0, le=3600)]


class TransferAnswer(Message, frozen=True, array_like=True, tag="answer"):
    """The id of the new leader in `text`, or a problem and its detail."""

    ask: Count
    problem: Name
    text: Text


ALL: Final[tuple[type[Message], ...]] = (
    AppendEntries,
    NextNodeIdx,
    RequestVote,
    ResponseVote,
    TimeoutNow,
    Resigned,
    Removed,
    Contacts,
    InstallSnapshot,
    SnapshotWanted,
    ApplyCommand,
    ApplyCommandResponse,
    ReadPing,
    ReadPong,
    ReadRequest,
    ReadResponse,
    PeerNote,
    TransferRequest,
    TransferAnswer,
)
