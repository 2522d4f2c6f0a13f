"""Classify failures by what the caller may do next.

A guard that did not hold is an outcome, and never one of these errors.
"""

from __future__ import annotations

from typing import Final


class KvError(Exception):
    """The base of every error that crosses a port of the server; the client raises
    `AcordoError`s.
    """


class BadRequest(KvError):
    """A request that can never succeed as it is: change it.

    `code` is a stable snake_case name, `allowed` says what would be accepted.
    """

    def __init__(self, code: str, detail: str, *, allowed: str | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.allowed = code, detail, allowed


class NotSignedIn(BadRequest):
    """A request without credentials, or with some that are not valid. It changed nothing."""

    def __init__(self, detail: str) -> None:
        super().__init__("not_signed_in", detail, allowed="Authorization: Bearer <token>")


class NotAllowed(BadRequest):
    """A request that its principal may not make. It changed nothing, and says nothing of keys."""

    def __init__(self, detail: str) -> None:
        super().__init__("not_allowed", detail, allowed="what the roles of your token name")


class NewerCommand(BadRequest):
    """A command in the log that a later version made. This member can neither apply nor skip it, so
    it stops.

    Members that know the command go on. This one applies it, and what follows, once it is upgraded
    to their version.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            "log_newer",
            f"the log holds {what}: this member has stopped before it",
            allowed="the version of the other members: upgrade this one and start it again, and it "
            "goes on from there",
        )


class NotApplied(KvError):
    """An attempt that has no effect and never will (INV-4): retry freely.

    Each `reason` has one cause and one remedy: no_leader (an election is under way), no_quorum
    (voters are away), not_leader, deposed, not_taken_over (the leadership moves), starting (not
    ready yet), draining, overloaded, store_away (the database does not answer or commit: wait),
    store_refused (the store is not what was settled: an operator has to act), store_foreign (the
    store belongs to another cluster and cannot be adopted), own_store_undecided (the members'
    own stores differ without a majority: an operator has to act), behind, timeout.
    """

    def __init__(self, reason: str, detail: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail or reason)
        self.reason, self.detail, self.retry_after_s = reason, detail or reason, retry_after_s


OWN_STORE_WAITS: Final = {
    "own_store_catching_up": "this member's log has not reached what its own store holds yet",
    "own_store_set_aside": "this member's own store cannot be used: it fetches another's state",
    "own_store_diverged": "this member's contents differ from the others': it fetches them anew",
}
"""Refusals of one member that end by themselves, and what they mean. Others may serve meanwhile."""


def store_refused(refusal: str) -> NotApplied:
    """Return the NotApplied for a request that needs a refused store; its reason names the
    remedy.
    """
    if refusal in OWN_STORE_WAITS:
        return NotApplied("starting", OWN_STORE_WAITS[refusal], retry_after_s=1)
    known = refusal in {"store_foreign", "own_store_undecided"}
    return NotApplied(refusal if known else "store_refused", refusal, retry_after_s=5)


class OutcomeUnknown(KvError):
    """An attempt that may have taken effect, or still may: look the op_id up, or retry with the
    same op_id.
    """

    def __init__(self, detail: str, *, op_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail, self.op_id = detail, op_id


class BackendUnavailable(KvError):
    """A back end that did not answer. This call changed nothing there: degrade or retry."""

    def __init__(self, backend: str, detail: str) -> None:
        super().__init__(f"{backend}: {detail}")
        self.backend, self.detail = backend, detail


class StoreDamaged(BackendUnavailable):
    """Data in the store that is not what was written. It is never served: restore it, or write
    the key again.
    """

    def __init__(self, backend: str, key: bytes, revision: int, detail: str = "") -> None:
        super().__init__(
            backend, detail or f"the version of {key!r} at revision {revision} is damaged"
        )
        self.key, self.revision = key, revision


class Pruned(KvError):
    """A requested revision below the floor of what is kept (HTTP 410)."""

    def __init__(self, floor: int) -> None:
        super().__init__(f"revisions below {floor} are no longer kept")
        self.floor = floor


class Undone(Pruned):
    """A position that is void (HTTP 410): what was published after revision `after` is undone, and
    a position below `floor` cannot be continued from.

    An operator adopted a restored store, or (`floor` = `after`) the log of members' own stores has
    lost its end, and gives those revisions again (R12).
    """

    def __init__(self, after: int, floor: int) -> None:
        super().__init__(floor)
        self.after = after

    def __str__(self) -> str:
        told = (
            f"what was told of revisions after {self.after} is undone"
            if self.after
            else "what was told is undone"
        )
        if self.floor <= self.after:
            return f"a quorum has lost the end of its log: {told}"
        return f"an operator adopted another state of the store, at revision {self.floor}: {told}"


class InvariantViolated(KvError):
    """An observation that is impossible by the invariants: stop the process; the supervisor
    restarts it.
    """
