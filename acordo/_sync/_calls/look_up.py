# Made by `make sync` from acordo/_calls/look_up.py; do not edit.
"""Look up how an operation ended, until the outcome is definite. Never decides it."""

from __future__ import annotations

import time
from typing import Final

from acordo._calls.retry_policy import FINAL
from acordo._errors import OutcomeUnknown, ReadFailed
from acordo._results import Operation
from acordo._sync._calls.caller import Caller
from acordo._wire import answers, requests

PAUSE_S: Final = 0.05
PAUSE_MAX_S: Final = 1.0


def look_up(caller: Caller, op_id: str, *, settle: bool, timeout_s: float) -> Operation:
    """Return what is known of an op_id, waiting while it is pending, at most `timeout_s` seconds.

    Raises OutcomeUnknown while the outcome cannot be determined, ReadFailed, Unreachable.
    """
    deadline = time.monotonic() + timeout_s
    request, pause = requests.operation_request(op_id, settle=settle), PAUSE_S
    while True:
        left = max(deadline - time.monotonic(), 0.001)
        try:
            found, _ = caller.call(
                request, lambda reply: answers.parse_operation(reply, op_id), timeout_s=left
            )
        except ReadFailed as exc:
            if exc.reason not in FINAL | {"outcome_unknown"}:
                raise
            raise OutcomeUnknown(
                exc.detail,
                code=exc.code,
                op_id=op_id,
                status=exc.status,
                node=exc.node,
                attempts=exc.attempts,
                advice=exc.advice if exc.reason in FINAL else "",
            ) from exc
        if found.outcome != "pending" or time.monotonic() + pause >= deadline:
            return found
        time.sleep(pause)
        pause = min(pause * 2, PAUSE_MAX_S)
