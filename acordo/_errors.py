"""Sort what can go wrong by what the caller may do next. Never a bare time-out, never a sentence to
be parsed.

Each error says what happened (`detail`), whether the write may have taken effect (`maybe_applied`)
and what to do (`advice`). A missing key is not an error: `Client.get` returns None.
"""

from __future__ import annotations

from typing import ClassVar


class AcordoError(Exception):
    """Base of everything the client raises on purpose.

    `detail` says what happened, `code` names it for programs; `op_id` is the write's, `status` and
    `node` are those of the newest answer (None: there was none), `attempts` is how many were made.
    """

    maybe_applied: ClassVar[bool] = False
    """Whether the write may have taken effect."""
    advice: str = ""
    """What to do next: fixed per kind, unless the node that answered gave a better one."""

    def __init__(
        self,
        detail: str,
        *,
        code: str = "",
        op_id: str | None = None,
        status: int | None = None,
        node: str | None = None,
        attempts: int = 0,
        advice: str = "",
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code, self.op_id = code, op_id
        self.status, self.node, self.attempts = status, node, attempts
        if advice:
            self.advice = advice

    def __str__(self) -> str:
        return f"{self.detail} ({self.advice})" if self.advice else self.detail


class BadRequest(AcordoError):
    """The request can never work as it is. `allowed` says what would be accepted."""

    advice = "fix the request; nothing was changed"

    def __init__(
        self,
        detail: str,
        *,
        allowed: str | None = None,
        code: str = "",
        op_id: str | None = None,
        status: int | None = None,
        node: str | None = None,
        attempts: int = 0,
        advice: str = "",
    ) -> None:
        super().__init__(
            detail,
            code=code,
            op_id=op_id,
            status=status,
            node=node,
            attempts=attempts,
            advice=advice,
        )
        self.allowed = allowed


class Unsupported(BadRequest):
    """What was asked for needs a setting that the cluster is without; the detail names it."""

    advice = "the cluster's settings do not allow it; nothing was changed"


class Mismatch(BadRequest):
    """The op_id is known with another body: this operation never takes effect."""

    advice = "use a new op_id for a new operation; nothing was changed"


class Pruned(AcordoError):
    """The revision asked for is no longer kept; `floor` is the oldest that is."""

    advice = "start again from the present state"

    def __init__(
        self, detail: str, *, floor: int | None, status: int | None = None, node: str | None = None
    ) -> None:
        super().__init__(detail, code="pruned", status=status, node=node)
        self.floor = floor


class Undone(Pruned):
    """An operator adopted a restored store: nothing that was reported after
    revision `after` is certain any more.
    """

    advice = "forget what came after it, read anew, and go on from there"

    def __init__(
        self,
        detail: str,
        *,
        after: int,
        floor: int | None,
        status: int | None = None,
        node: str | None = None,
    ) -> None:
        super().__init__(detail, floor=floor, status=status, node=node)
        self.code, self.after = "undone", after


class Refused(AcordoError):
    """A guard was evaluated and did not hold: no effect, ever.

    `guard` is its index, `key` its key, `current` the revision that the key is at (0: absent, None:
    not known). `revision` is the one that this attempt was given; `again`: it is the recorded
    outcome of an earlier one.
    """

    advice = "read the key again and decide; nothing was changed"

    def __init__(
        self,
        detail: str,
        *,
        guard: int,
        key: bytes | None,
        current: int | None,
        revision: int,
        op_id: str,
        again: bool = False,
        status: int | None = None,
        node: str | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(
            detail, code="refused", op_id=op_id, status=status, node=node, attempts=attempts
        )
        self.guard, self.key, self.current = guard, key, current
        self.revision, self.again = revision, again


class PreconditionFailed(Refused):
    """The guard on one key did not hold. `current` is the key's revision, 0 when it is absent."""


class TransactionRefused(Refused):
    """Guard number `guard` of a transaction without `otherwise` did not hold."""


class NotApplied(AcordoError):
    """Every attempt ended without effect, and none will ever have one.

    `reason` is the node's (such as no_quorum, overloaded, expired), or the client's.
    `retry_after_s`: seconds for which the node asked to be left alone.
    """

    advice = "retry freely"

    def __init__(
        self,
        detail: str,
        *,
        reason: str,
        retry_after_s: float | None = None,
        op_id: str | None = None,
        status: int | None = None,
        node: str | None = None,
        attempts: int = 0,
        advice: str = "",
    ) -> None:
        super().__init__(
            detail,
            code=reason,
            op_id=op_id,
            status=status,
            node=node,
            attempts=attempts,
            advice=advice,
        )
        self.reason, self.retry_after_s = reason, retry_after_s


class Unreachable(NotApplied):
    """No node could be connected to: no byte of the request left this client."""

    advice = "check the URLs and the network; nothing was changed, retry freely"


class ReadFailed(AcordoError):
    """No node gave a whole answer to a read in time. Reads change nothing."""

    advice = "retry freely"

    def __init__(
        self,
        detail: str,
        *,
        reason: str,
        status: int | None = None,
        node: str | None = None,
        attempts: int = 0,
        advice: str = "",
    ) -> None:
        super().__init__(
            detail, code=reason, status=status, node=node, attempts=attempts, advice=advice
        )
        self.reason = reason


class OutcomeUnknown(AcordoError):
    """The write may have taken effect, or may yet. Look it up by `Client.operation`, or repeat it
    with the same `op_id`.
    """

    maybe_applied = True
    advice = "it may have been applied: look the op_id up, or repeat with the same op_id"


class OutOfOrder(AcordoError):
    """A node gave a watch a revision that it must have given before: a broken promise, nothing to
    retry.
    """

    advice = "report it: a watch never repeats or goes back"
