"""Sort failures by what the caller may do next.

A failed guard is an outcome, never one of these.
"""

from __future__ import annotations


class KvError(Exception):
    """Base of every error that crosses a port of the server; the client raises `AcordoError`s."""


class BadRequest(KvError):
    """The request can never work as it is: fix it.

    `code` is a stable snake_case name, `allowed` says what would be accepted.
    """

    def __init__(self, code: str, detail: str, *, allowed: str | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.allowed = code, detail, allowed


class NewerCommand(BadRequest):
    """The log holds what a later version has ordered. It is neither applied nor passed over here:
    this member stops.

    Members that know it go on; this one applies it, and what follows, once it is of that version
    too.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            "log_newer",
            f"the log holds {what}: this member has stopped before it",
            allowed="the version of the other members: upgrade this one and start it again, and it "
            "goes on from there",
        )


class NotApplied(KvError):
    """The attempt has no effect and never will (INV-4): retry freely.

    `reason` has one cause and one remedy: no_leader (being elected), no_quorum (voters are away),
    not_leader, deposed, not_taken_over (leadership moves), starting (not ready yet), draining,
    overloaded, store_away (the database does not answer or commit: wait), store_refused (it is not
    what was settled: an operator), store_foreign (it is another cluster's: it cannot be adopted),
    behind, timeout.
    """

    def __init__(self, reason: str, detail: str = "", *, retry_after_s: float = 1.0) -> None:
        super().__init__(detail or reason)
        self.reason, self.detail, self.retry_after_s = reason, detail or reason, retry_after_s


def store_refused(refusal: str) -> NotApplied:
    """Return the refusal of what needs the store, by the code that its remedy has."""
    return NotApplied(
        "store_foreign" if refusal == "store_foreign" else "store_refused", refusal, retry_after_s=5
    )


class OutcomeUnknown(KvError):
    """It may have taken effect, or may yet: look the op_id up, or retry with the same op_id."""

    def __init__(self, detail: str, *, op_id: str | None = None) -> None:
        super().__init__(detail)
        self.detail, self.op_id = detail, op_id


class BackendUnavailable(KvError):
    """A back end did not answer, and nothing was changed there by this call: degrade or retry."""

    def __init__(self, backend: str, detail: str) -> None:
        super().__init__(f"{backend}: {detail}")
        self.backend, self.detail = backend, detail


class StoreDamaged(BackendUnavailable):
    """What the store holds is not what was written, and is never served: restore it, or write the
    key anew.
    """

    def __init__(self, backend: str, key: bytes, revision: int, detail: str = "") -> None:
        super().__init__(
            backend, detail or f"the version of {key!r} at revision {revision} is damaged"
        )
        self.key, self.revision = key, revision


class Pruned(KvError):
    """The revision asked for lies below the floor of what is kept (HTTP 410)."""

    def __init__(self, floor: int) -> None:
        super().__init__(f"revisions below {floor} are no longer kept")
        self.floor = floor


class Undone(Pruned):
    """An operator adopted a restored store: what was told after revision `after` is undone, and a
    position below `floor` can be gone on from no more (HTTP 410).
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
        return f"an operator adopted another state of the store, at revision {self.floor}: {told}"


class InvariantViolated(KvError):
    """What can never be has been seen: stop the process; the supervisor restarts it."""
