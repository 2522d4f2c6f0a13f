"""Define the errors of the client by what the caller may do next. None is a bare time-out, and none
has to be parsed from text.

Each error says what happened (`detail`), whether the write may have taken effect (`maybe_applied`)
and what to do next (`advice`). A missing key is not an error: `Client.get` returns None.
"""

from __future__ import annotations

from typing import ClassVar


class AcordoError(Exception):
    """The base of every error that the client raises on purpose.

    `detail` describes what happened, `code` names it for programs. `op_id` is the write's op_id;
    `status` and `node` come from the newest answer (None: there was none); `attempts` is the number
    of attempts made.
    """

    maybe_applied: ClassVar[bool] = False
    """Whether the write may have taken effect."""
    advice: str = ""
    """What to do next: fixed per class, unless the answering node gave more specific advice."""

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
    """The request needs a setting that the cluster does not have; `detail` names it."""

    advice = "the cluster's settings do not allow it; nothing was changed"


class Mismatch(BadRequest):
    """The op_id was used before with another body. This operation never takes effect."""

    advice = "use a new op_id for a new operation; nothing was changed"


class Pruned(AcordoError):
    """The requested revision is no longer kept. `floor` is the oldest revision that is; None: not
    known.
    """

    advice = "start again from the present state"

    def __init__(
        self, detail: str, *, floor: int | None, status: int | None = None, node: str | None = None
    ) -> None:
        super().__init__(detail, code="pruned", status=status, node=node)
        self.floor = floor


class Undone(Pruned):
    """What was reported after revision `after` is void: an operator adopted a restored store, or a
    quorum lost the end of its log (then `floor` is `after`, and a watch can go on from there).
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
    """A guard was evaluated and did not hold: the write has no effect and never will.

    `guard` is the guard's index and `key` its key. `current` is the revision that the key is at (0:
    absent, None: not known). `revision` is the one given to this attempt. `again`: this is the
    recorded outcome of an earlier attempt.
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
    """The condition of a write to one key did not hold. `current` is the key's revision, 0 when
    absent.
    """


class TransactionRefused(Refused):
    """The guard with index `guard` did not hold in a transaction without `otherwise`."""


class NotApplied(AcordoError):
    """No attempt had an effect, and none ever will.

    `reason` is a node's code (such as no_quorum, overloaded, expired) or the client's own.
    `retry_after_s`: how many seconds the node asked to wait before a retry.
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
    """No node could be reached: no byte of the request left this client."""

    advice = "check the URLs and the network; nothing was changed, retry freely"


class ReadFailed(AcordoError):
    """No node gave a complete answer to a read in time. Reads change nothing."""

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
    """The write may have taken effect, or may still. Look it up with `Client.operation`, or repeat
    it with the same `op_id`.
    """

    maybe_applied = True
    advice = "it may have been applied: look the op_id up, or repeat with the same op_id"


class OutOfOrder(AcordoError):
    """A node sent a watch a revision that should have come earlier. This is a broken promise of the
    server, and retrying does not help.
    """

    advice = "report it: a watch never repeats or goes back"
