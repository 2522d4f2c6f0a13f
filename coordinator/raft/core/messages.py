"""Name every message that members exchange: the allow-list of the wire.

Pure: types only. A message that is not listed here, or a value that does not fit its field, is
refused before the core sees it.
"""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from coordinator.raft.net.codec import Command, Count, Entries, Message, Name

STATE_APART: Final = ("state_wanted", "state_chunk", "state_answer")
"""Messages that need not keep their order with others: a transport carries them on a connection of
their own, so that nothing else waits behind a chunk.
"""

STATE_ASKS: Final = ("state_wanted",)
"""Those of them that the member sends that needs the state: it dials that connection."""

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
    """A chunk, from byte `offset` on, of the snapshot `id` that ends at (index, index_term)."""

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
    """The offset at which the sender wants the next chunk of the snapshot `id`. Without an id, a
    request for a snapshot that ends at entry `offset` or later.
    """

    term: Count
    id: Annotated[bytes, Meta(max_length=64)]
    offset: Count


class StateOffer(Message, frozen=True, array_like=True, tag="state_offer"):
    """The leader's log begins at (index, index_term), after the receiver's end: the receiver has to
    fetch a state that ends there or later.
    """

    term: Count
    index: Count
    index_term: Count
    joined: bool


class StateUnderway(Message, frozen=True, array_like=True, tag="state_underway"):
    """The sender is fetching a state of `total` bytes that ends at (index, index_term), and needs
    the leader's log from there on. `index` 0: it does not know one yet.
    """

    term: Count
    index: Count
    index_term: Count
    total: Count


class StateVetted(Message, frozen=True, array_like=True, tag="state_vetted"):
    """The leader's answer: whether its log goes on from (index, index_term)."""

    term: Count
    index: Count
    index_term: Count
    fits: bool


class StateWanted(Message, frozen=True, array_like=True, tag="state_wanted"):
    """A request to a member for its state, ending at entry `least` or later. With an id, for what
    follows byte `offset` of the state with that id.
    """

    id: Annotated[bytes, Meta(max_length=64)]
    offset: Count
    least: Count


class StateChunk(Message, frozen=True, array_like=True, tag="state_chunk"):
    """A chunk of a state: a snapshot that ends at (index, index_term), and a copy of the sender's
    own store, which begins at `dump_bytes`.
    """

    index: Count
    index_term: Count
    id: Annotated[bytes, Meta(max_length=64)]
    offset: Count
    total: Count
    content: Chunk
    dump_bytes: Count


class StateAnswer(Message, frozen=True, array_like=True, tag="state_answer"):
    """No chunk yet: a state that ends at (index, index_term) is being prepared (index 0: one that
    is yet to be made), or `problem` says why this member gives none, or not the one with `id` any
    more.
    """

    id: Annotated[bytes, Meta(max_length=64)]
    index: Count
    index_term: Count
    problem: Text


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


class Question(Message, frozen=True, array_like=True, tag="question"):
    """A question about what only the leader's memory holds (`Replica.answer`)."""

    id: Count
    question: Annotated[bytes, Meta(max_length=1 << 20)]


class Reply(Message, frozen=True, array_like=True, tag="reply"):
    """The leader's answer, or the reason for refusing the question (kv.errors.NotApplied)."""

    id: Count
    answer: Annotated[bytes, Meta(max_length=1 << 20)]
    problem: Name


class PeerNote(Message, frozen=True, array_like=True, tag="note"):
    """The sender's `Replica.note()`, the sender's term when it made the note, and how much it has
    to do for others (giving.py).
    """

    note: Annotated[bytes, Meta(max_length=256)]
    term: Count = 0
    load: Count = 0


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
    StateOffer,
    StateUnderway,
    StateVetted,
    StateWanted,
    StateChunk,
    StateAnswer,
    ApplyCommand,
    ApplyCommandResponse,
    ReadPing,
    ReadPong,
    ReadRequest,
    ReadResponse,
    Question,
    Reply,
    PeerNote,
    TransferRequest,
    TransferAnswer,
)
