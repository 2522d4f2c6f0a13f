# Made by `make sync` from acordo/_watch.py; do not edit.
"""Follow the changes under a prefix across reconnections: in order, none twice, none left out.

The server sets an `id` only on the last change of a revision. Changes are held here until it
arrives, so a connection that is cut in the middle of a revision resumes before that revision, and
none of it has been yielded. Never guesses a position.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from acordo import _results as results
from acordo._calls.attempts import StreamCut
from acordo._errors import (
    AcordoError,
    BadRequest,
    OutOfOrder,
    Pruned,
    ReadFailed,
    Undone,
    Unreachable,
)
from acordo._messages import Reply
from acordo._outcomes import Observation
from acordo._sync._calls.caller import Caller
from acordo._sync._calls.transport import Stream
from acordo._wire import answers, requests
from acordo._wire.forms import Damaged
from acordo._wire.sse import EventTooLong, Parser, ServerEvent

IDLE_S: Final = 8.0
"""A stream that is silent for this long is considered dead: nodes send a heartbeat every 2 s."""
GIVE_UP_S: Final = 60.0
"""A watch that reaches no node for this long raises; start a new one at the last position."""
PAUSE_FIRST_S: Final = 0.05
PAUSE_MAX_S: Final = 2.0
CHANGES_MAX: Final = 20_000
"""Most changes of one revision, and more: the deletes of ranges of one transaction remove 10,000
keys, and so does the end of a lease.
"""


class Watch:
    """One watch, across reconnections.

    `position`: everything under the prefix up to this revision has been yielded.
    """

    def __init__(
        self,
        caller: Caller,
        prefix: bytes,
        *,
        after: int | str,
        bookmarks: bool,
        idle_s: float = IDLE_S,
        give_up_s: float = GIVE_UP_S,
    ) -> None:
        self._caller, self._prefix, self._bookmarks = caller, prefix, bookmarks
        self._idle_s, self._give_up_s = idle_s, give_up_s
        self._waiting: list[results.Change] = []
        self._rng = random.Random()
        self._resume = str(after)
        """The position in the form in which a node gave it."""
        self.position = after if isinstance(after, int) else _revision_of(after)

    def events(self) -> Iterator[results.Event]:
        """Iterate forever. Raises Pruned, BadRequest, OutOfOrder, and Unreachable or ReadFailed
        when no node was reached for `give_up_s` seconds.
        """
        alive, pause = time.monotonic(), PAUSE_FIRST_S
        why = Reply(url="", observed=Observation(mutation=False, sent=False))
        while True:
            at = self._caller.nodes.choose()
            with self._caller.stream(
                at, requests.watch_request(self._prefix, self._resume), self._idle_s
            ) as got:
                if isinstance(got, Reply):
                    why = got
                    _raise_if_final(got)
                else:
                    for event in self._stream(got):
                        alive, pause = time.monotonic(), PAUSE_FIRST_S
                        if event is not None:
                            yield event
            self._waiting.clear()
            self._caller.nodes.avoid(at)
            if time.monotonic() - alive > self._give_up_s:
                raise _given_up(why, self.position)
            time.sleep(pause * (0.5 + self._rng.random() / 2))
            pause = min(pause * 2, PAUSE_MAX_S)

    def _stream(self, stream: Stream) -> Iterator[results.Event | None]:
        """Iterate over events until the stream ends; yield None for every received chunk as a sign
        of life.
        """
        parser = Parser()
        try:
            for chunk in stream.chunks():
                yield None
                for event in parser.feed(chunk):
                    for change in self._take(event):
                        yield change
        except (StreamCut, EventTooLong, Damaged):
            return

    def _take(self, event: ServerEvent) -> list[results.Event]:
        """Return the events that may be yielded now that `event` has arrived.

        Raises Pruned, OutOfOrder, Damaged.
        """
        if event.kind == "error":
            answers.raise_watch_error(event.data)
            raise Damaged("the node ended the stream")
        ready: list[results.Event] = []
        if event.kind in ("put", "delete"):
            if len(self._waiting) >= CHANGES_MAX:
                raise Damaged("a revision without an end")
            change = answers.parse_change(event.kind, event.data, last=event.id is not None)
            if change.revision <= self.position or (
                self._waiting and change.revision != self._waiting[0].revision
            ):
                raise OutOfOrder(
                    f"revision {change.revision} after {self.position}", code="out_of_order"
                )
            self._waiting.append(change)
        if event.id is None:
            return ready
        revision = answers.parse_event_id(event.id)
        if revision < self.position:
            raise OutOfOrder(f"position {revision} after {self.position}", code="out_of_order")
        if self._waiting:
            self._waiting[-1] = msgspec.structs.replace(self._waiting[-1], position=event.id)
        ready.extend(self._waiting)
        self._waiting.clear()
        if self._bookmarks and not ready:
            ready.append(results.Bookmark(revision=revision, position=event.id))
        self.position, self._resume = revision, event.id
        return ready


def _revision_of(position: str) -> int:
    """Return the revision of a position that a node gave. Raises BadRequest."""
    try:
        return answers.parse_event_id(position)
    except Damaged as exc:
        raise BadRequest(
            f"{position[:40]!r} is no position",
            code="bad_revision",
            allowed="a revision, or the position of an event",
        ) from exc


def _raise_if_final(reply: Reply) -> None:
    status, problem = reply.observed.status, reply.problem
    detail = (problem.detail or problem.title) if problem else f"{reply.url} answered {status}"
    if status == 410:
        floor = problem.floor if problem else None
        if problem is not None and problem.code == "undone":
            raise Undone(
                detail, after=problem.undone_after or 0, floor=floor, status=status, node=reply.node
            )
        raise Pruned(detail, floor=floor, status=status, node=reply.node)
    if status is not None and 400 <= status < 500 and status not in (408, 429) and reply.node:
        code, advice = (problem.code, problem.advice) if problem else ("", "")
        raise BadRequest(detail, code=code, status=status, node=reply.node, advice=advice)


def _given_up(why: Reply, position: int) -> AcordoError:
    detail = f"the watch found no node for a while; go on after revision {position}"
    if not why.observed.sent:
        return Unreachable(f"{detail}; last: {why.error}", reason="unreachable")
    return ReadFailed(
        f"{detail}; last: {why.error or why.observed.status}",
        reason="watch_cut",
        status=why.observed.status,
    )


def watch_events(
    caller: Caller, prefix: bytes, *, after: int | str | None, bookmarks: bool, timeout_s: float
) -> Iterator[results.Event]:
    """Iterate over the changes after a position; None: after everything acknowledged before this
    call.
    """
    if after is None:
        page, _ = caller.call(
            requests.list_request(prefix, limit=1), answers.parse_page, timeout_s=timeout_s
        )
        after = page.revision
    for event in Watch(caller, prefix, after=after, bookmarks=bookmarks).events():
        yield event
