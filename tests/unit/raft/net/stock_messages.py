"""The messages of the library's own core, in its own shapes: what the codec is tried with."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import UNSET, Meta, UnsetType

from coordinator.raft.net.codec import Command, Count, Entries, Message


class AppendEntries(Message, frozen=True, tag="append_entries"):
    """Entries that follow (prevLogIdx, prevLogTerm), one piece of a large entry, or a piece of a
    dump (stock shape).
    """

    term: Count
    commit_index: Count
    prevLogIdx: Count | UnsetType | None = UNSET
    prevLogTerm: Count | UnsetType | None = UNSET
    entries: Entries | UnsetType = UNSET
    transmission: Annotated[str, Meta(max_length=16)] | UnsetType = UNSET
    data: Command | UnsetType = UNSET
    serialized: tuple[Command, bool, bool] | UnsetType | None = UNSET


class NextNodeIdx(Message, frozen=True, tag="next_node_idx"):
    """Where a follower's log stands."""

    next_node_idx: Count
    reset: bool
    success: bool
    term: Count | UnsetType = UNSET


class RequestVote(Message, frozen=True, tag="request_vote"):
    term: Count
    last_log_index: Count
    last_log_term: Count


class ResponseVote(Message, frozen=True, tag="response_vote"):
    term: Count


class ApplyCommand(Message, frozen=True, tag="apply_command"):
    """A command on its way from a follower to the leader."""

    command: Command
    request_id: Count | UnsetType = UNSET


class ApplyCommandResponse(Message, frozen=True, tag="apply_command_response"):
    request_id: Count
    error: Count | UnsetType = UNSET
    log_idx: Count | UnsetType = UNSET
    log_term: Count | UnsetType = UNSET


class TimeoutNow(Message, frozen=True, tag="timeout_now"):
    term: Count


STOCK: Final[tuple[type[Message], ...]] = (
    AppendEntries,
    NextNodeIdx,
    RequestVote,
    ResponseVote,
    ApplyCommand,
    ApplyCommandResponse,
    TimeoutNow,
)
"""What the library's own core sends."""
