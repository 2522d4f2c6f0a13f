"""Name every message that members exchange: the allow-list of the wire.

Pure: types only. What is not here, or does not fit its field, is refused before the core sees it.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from coordinator.raft.net.codec import Command, Count, Entries, Message, Name

Chunk = Annotated[bytes, Meta(max_length=4 << 20)]
Text = Annotated[str, Meta(max_length=4096)]


class AppendEntries(Message, frozen=True, array_like=True, tag="append_entries"):
    """Entries that follow (prevLogIdx, prevLogTerm); none: a heartbeat, or with `answer` false news
    of `commit_index`.

    `joined`: so says the receiver's seat (membership.py).
    """

    term: Count
    commit_index: Count
    prevLogIdx: Count
    prevLogTerm: Count
    entries: Entries
    joined: bool
    answer: bool


class NextNodeIdx(Message, frozen=True, array_like=True, tag="next_node_idx"):
    """`success`: on disk here and equal to the leader's log below `next_node_idx`. `reset`: send
    from there.
    """

    term: Count
    next_node_idx: Count
    reset: bool
    success: bool
    disk_lost: bool = False


class RequestVote(Message, frozen=True, array_like=True, tag="request_vote"):
    """rules.VoteRequest, and whether the receiver's seat says that it has joined."""

    term: Count
    last_log_index: Count
    last_log_term: Count
    pre: bool
    forced: bool
    joined: bool


class ResponseVote(Message, frozen=True, array_like=True, tag="response_vote"):
    """`term`: the one asked for; `current`: the voter's own."""

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
    """The receiver is no member any more."""

    term: Count


class Contacts(Message, frozen=True, array_like=True, tag="contacts"):
    """Where the members are, as far as the sender knows it to be committed: (id, address)."""

    members: Annotated[list[tuple[Name, Text]], Meta(max_length=64)]


class InstallSnapshot(Message, frozen=True, array_like=True, tag="install_snapshot"):
    """Bytes `offset` .. of the snapshot `id` that ends at entry (index, index_term)."""

    term: Count
    commit_index: Count
    index: Count
    index_term: Count
    id: Annotated[bytes, Meta(max_length=64)]
    offset: Count
    total: Count
    serialized: Chunk
    joined: bool


class SnapshotWanted(Message, frozen=True, array_like=True, tag="snapshot_wanted"):
    """What of the snapshot `id` is wanted next."""

    term: Count
    id: Annotated[bytes, Meta(max_length=64)]
    offset: Count


class ApplyCommand(Message, frozen=True, array_like=True, tag="apply_command"):
    """A command for the leader to order, or a membership change for it to judge."""

    command: Command
    request_id: Count


class ApplyCommandResponse(Message, frozen=True, array_like=True, tag="apply_command_response"):
    """Where it was appended, or why not (`error` 0: it is so already)."""

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
    """It does."""

    term: Count
    round: Count


class ReadRequest(Message, frozen=True, array_like=True, tag="read_request"):
    """Confirm a position for the sender's reads."""

    request: Count


class ReadResponse(Message, frozen=True, array_like=True, tag="read_response"):
    """The position, or the reason why not (kv.errors.NotApplied)."""

    request: Count
    index: Count
    term: Count
    problem: Name


class PeerNote(Message, frozen=True, array_like=True, tag="note"):
    """`Replica.note()` of the sender, and the term in which it was when it made it."""

    note: Annotated[bytes, Meta(max_length=256)]
    term: Count = 0


class TransferRequest(Message, frozen=True, array_like=True, tag="ask"):
    """Transfer the leadership (`to` empty: to whom you choose)."""

    ask: Count
    to: Name
    timeout_s: Annotated[float, Meta(ge=0, le=3600)]


class TransferAnswer(Message, frozen=True, array_like=True, tag="answer"):
    """Who leads now, or the problem and its detail."""

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
