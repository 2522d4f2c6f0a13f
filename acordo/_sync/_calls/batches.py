# Made by `make sync` from acordo/_calls/batches.py; do not edit.
"""Run every operation of a batch to its own outcome. The result of one operation never ends
another.

A batch is one request with many op_ids. Operations without a definite outcome are sent again with
the same op_ids, until all have one or time is out.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from acordo._calls import retry_policy
from acordo._calls.operation_errors import error_of
from acordo._calls.retry_policy import enough_s
from acordo._errors import AcordoError, NotApplied, OutcomeUnknown
from acordo._intents import Intent
from acordo._messages import Reply, Request
from acordo._outcomes import EXPIRED, Certainty, Judgement, conclude
from acordo._results import Item
from acordo._sync._calls.caller import Caller
from acordo._wire import answers, requests

_AGAIN: Final = frozenset({"said_not_applied", "nothing_sent", "redirected"})
"""Rules of `classify` after which an operation without effect is sent again."""


def send_batch(
    caller: Caller,
    intents: Sequence[Intent],
    ours: Sequence[bool],
    *,
    new_op_id: Callable[[], str],
    timeout_s: float,
) -> tuple[Item, ...]:
    """Return the outcome of each operation, in their order. Never raises for an operation's
    outcome.

    Every intent has an op_id. An operation that expired is sent again under a new op_id if the
    client chose the first one (`ours`).
    """
    deadline = time.monotonic() + timeout_s
    items = list(_send_until_definite(caller, intents, timeout_s=timeout_s))
    while True:
        late = [n for n, item in enumerate(items) if item.outcome == EXPIRED and ours[n]]
        left = deadline - time.monotonic()
        if not late or not caller.retries or left <= enough_s(timeout_s):
            return tuple(items)
        renewed = [msgspec.structs.replace(intents[n], op_id=new_op_id()) for n in late]
        ended = _send_until_definite(caller, renewed, timeout_s=left)
        for n, item in zip(late, ended, strict=True):
            items[n] = item


class _Sent:
    """One operation of a batch, and the judgements of its attempts."""

    def __init__(self, intent: Intent) -> None:
        self.intent = intent
        self.history: list[Judgement] = []
        self.item = Item(op_id=intent.op_id or "", outcome="not_applied")
        """The outcome of the newest attempt."""

    def note(self, item: Item | None, judged: Judgement, request: Request, reply: Reply) -> None:
        """Record the result of an attempt: its own item, or None if the whole request failed."""
        self.history.append(_judge_item(item) if item else judged)
        self.item = item or _item_of(self.intent, error_of(request, reply, self.history))

    @property
    def is_open(self) -> bool:
        """Whether the operation has to be sent again."""
        newest = self.history[-1]
        if newest.certainty is Certainty.UNKNOWN:
            return True
        refused_for_now = newest.rule == "rejected" and self.item.outcome == "not_applied"
        return newest.rule in _AGAIN or refused_for_now

    def ended(self) -> Item:
        """Return the final item. It is unknown if one attempt was unknown and no later answer was
        about the operation itself.
        """
        if conclude(self.history).certainty is Certainty.UNKNOWN and self.item.outcome != "unknown":
            return msgspec.structs.replace(self.item, outcome="unknown")
        return self.item


def _send_until_definite(
    caller: Caller, intents: Sequence[Intent], *, timeout_s: float
) -> tuple[Item, ...]:
    sent = [_Sent(intent) for intent in intents]
    waiting = sent
    deadline, attempts = time.monotonic() + timeout_s, 0
    while True:
        attempts += 1
        asked = [each.intent for each in waiting]
        request = requests.batch_request(asked)
        parse = functools.partial(answers.parse_batch, intents=asked)
        reply, items, judged = caller.attempt(request, parse, deadline, first=attempts == 1)
        for place, each in enumerate(waiting):
            each.note(items[place] if items else None, judged, request, reply)
        waiting = [each for each in waiting if each.is_open]
        if not waiting:
            break
        begin_by = deadline - enough_s(timeout_s)
        decision = caller.decide(request, reply, _worst(waiting), attempts, begin_by)
        if isinstance(decision, retry_policy.Finish):
            break
        time.sleep(decision.after_s)
    return tuple(each.ended() for each in sent)


def _worst(waiting: Sequence[_Sent]) -> Judgement:
    newest = [each.history[-1] for each in waiting]
    return next((j for j in newest if j.certainty is Certainty.UNKNOWN), newest[0])


def _judge_item(item: Item) -> Judgement:
    match item.outcome:
        case "applied":
            return Judgement(Certainty.OK, "success", settles=True)
        case "refused":
            return Judgement(Certainty.OK, "guard_refused", refused=True, settles=True)
        case "mismatch":
            return Judgement(Certainty.FAIL, "mismatch", settles=True)
        case "expired":
            return Judgement(Certainty.FAIL, "expired", settles=True)
        case "bad_request":
            return Judgement(Certainty.FAIL, "rejected")
        case "not_applied":
            return Judgement(Certainty.FAIL, "said_not_applied")
        case "unknown":
            return Judgement(Certainty.UNKNOWN, "said_unknown")


def _item_of(intent: Intent, error: AcordoError) -> Item:
    op_id, detail = intent.op_id or "", str(error)
    match error:
        case OutcomeUnknown():
            return Item(op_id=op_id, outcome="unknown", detail=detail)
        case NotApplied():
            return Item(op_id=op_id, outcome="not_applied", detail=detail)
        case _:
            return Item(op_id=op_id, outcome="bad_request", detail=detail)
