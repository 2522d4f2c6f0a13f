"""Let leases live, and end them, as the leader: their deadlines are in its memory alone.

A keep-alive is answered only after a quorum round that began after it came. An end carries its
leader's term, and has no effect in an entry of another term. A new leader gives every lease its
whole ttl. So no lease ends before its ttl has passed since the newest keep-alive that was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Final, Protocol

import msgspec
import structlog

from coordinator.commit.leadership import LeadersPart
from coordinator.leases.asking import decode_question, encode_answer
from coordinator.leases.deadlines import Deadlines, Granted
from coordinator.machine.machine import Machine
from coordinator.settings import CoordinatorSettings
from kv.errors import BackendUnavailable, BadRequest, NotApplied
from kv.leases import LEASES_PREFIX, lease_key, lease_of, ttl_of
from kv.model import (
    NODE_OP_ID_PREFIX,
    Answer,
    Applied,
    AtRevision,
    Cancel,
    EndLease,
    Intent,
    Refused,
    Version,
)
from kv.ports import Clock, LeaseTime, Settled, StoreReader

_log = structlog.get_logger("acordo.leases")

PAGE: Final = 500
"""Leases read from the store at a time."""
ENDED_MAX: Final = 32
"""Leases that end by one command: one of them may have 10,000 keys."""
REST_S_MAX: Final = 0.1
"""After a command that ends leases none is ordered for as long as it took, at most so long: when
many end at once, half of the time is left for what clients write.
"""
END_KEYS_MAX: Final = 2_000
"""Keys that end by one command, unless a single lease has more."""
PAUSE_S_MAX: Final = 1.0


class LeasingMember(Protocol):
    """The member whose leases are kept, as far as the keeper needs it."""

    @property
    def machine(self) -> Machine:
        """Its machine."""
        ...

    @property
    def leading(self) -> LeadersPart:
        """Its leader's part. No lease is kept before it has taken over."""
        ...

    def now_ms(self) -> int:
        """Return the log time now."""
        ...

    def submit(self, intents: Sequence[Intent | Cancel]) -> list[asyncio.Future[Answer]]:
        """Hand intents to the log, as for a client."""
        ...

    async def read_index(self, *, timeout_s: float) -> None:
        """Return once all that was acknowledged before the call is applied here."""
        ...


class Tenure:
    """What a leader remembers of leases in one term."""

    def __init__(self, term: int) -> None:
        self.term = term
        self.deadlines = Deadlines()
        self.known = False
        """Whether all leases of the store are in `deadlines`."""
        self.doubts = 0
        """How often something settled of which is not known whether it concerns leases."""
        self.heard: dict[int, Granted | None] = {}
        """What became of leases while the store was read; None: they ended."""


class LeaseKeeper:
    """The leader's part of leases. Call `run` once; the member's callbacks call the rest."""

    def __init__(
        self,
        member: LeasingMember,
        store: StoreReader,
        clock: Clock,
        *,
        name: str,
        settings: CoordinatorSettings,
    ) -> None:
        self._member, self._store, self._clock = member, store, clock
        self._settings = settings
        self._op_ids = (f"{NODE_OP_ID_PREFIX}{name}.l{n}" for n in count(1))
        self._tenure: Tenure | None = None
        self._shift = asyncio.Event()
        self.ended = self.renewed = 0
        """Leases that this member ended because their time was over, and keep-alives answered."""

    @property
    def leases(self) -> int:
        """The number of leases that are there, as this leader knows; 0 on other members."""
        return 0 if self._tenure is None else len(self._tenure.deadlines)

    # ---------------------------------------------------------------------------- called by the log

    def led(self, term: int) -> None:
        """Start: this member leads `term`. It knows no deadline yet."""
        self._tenure = Tenure(term)
        self._shift.set()

    def deposed(self) -> None:
        """Stop: another member keeps the leases, from what it hears itself."""
        self._tenure = None
        self._shift.set()

    def hear(self, event: Settled) -> None:
        """Take what was granted and what has ended."""
        tenure = self._tenure
        if tenure is None:
            return
        if event.versions is None:
            if _concerns_leases(event):
                tenure.known = False  # it is read from the store again
                tenure.doubts += 1
                self._shift.set()
            return
        for version in event.versions:
            if version.key.startswith(LEASES_PREFIX):
                self._take(tenure, version)

    def _take(self, tenure: Tenure, version: Version) -> None:
        lease, granted = lease_of(version.key), _granted(version)
        if not tenure.known:
            tenure.heard[lease] = granted
        if granted is None:
            tenure.deadlines.ends(lease, version.revision)
        else:
            tenure.deadlines.grant(lease, granted, self._clock.monotonic())
            self._shift.set()

    # ------------------------------------------------------------------------------------ answering

    async def answer(self, question: bytes) -> bytes:
        """Answer a LeaseQuestion, as `coordinator.log.Replica.answer`. Raises NotApplied."""
        try:
            asked = decode_question(question)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise BadRequest("bad_question", str(exc)) from exc
        tenure = self._serving()
        received_s = self._clock.monotonic()
        for lease in asked.renew:
            tenure.deadlines.renew(lease, received_s)
        await self._confirm()
        if self._tenure is not tenure or not tenure.known:
            raise NotApplied("deposed", "this member leads no more, or begins anew")
        await self._make_sure(tenure, (*asked.renew, *asked.look), received_s)
        now_s = self._clock.monotonic()
        self.renewed += len(asked.renew)
        times = [tenure.deadlines.time(lease, now_s) for lease in (*asked.renew, *asked.look)]
        return encode_answer([_pair(time) for time in times])

    def _serving(self) -> Tenure:
        tenure = self._tenure
        if tenure is None:
            raise NotApplied("not_leader", "this member does not lead")
        if not tenure.known:
            raise NotApplied("not_taken_over", "this leader does not know the leases yet")
        return tenure

    async def _confirm(self) -> None:
        """Return once a quorum has confirmed, after the call, that this member leads: whoever leads
        later begins to lead after the keep-alive came, and gives every lease its whole ttl.
        """
        await self._member.read_index(timeout_s=self._settings.store_timeout_s)

    async def _make_sure(self, tenure: Tenure, leases: Sequence[int], received_s: float) -> None:
        """Read what is not certain from the store: leases that an intent may have granted or ended
        whose commit is not settled here. There are none where members have own stores.
        """
        machine = self._member.machine
        settled = machine.settled.revision
        if settled == machine.revision:
            return
        keys = list(
            dict.fromkeys(
                lease_key(lease) for lease in leases if machine.touched(lease_key(lease)) > settled
            )
        )
        if not keys:
            return
        try:
            read = await self._store.read(keys, timeout_s=self._settings.store_timeout_s)
        except BackendUnavailable as exc:
            raise NotApplied("store_away", str(exc)) from exc
        if self._tenure is not tenure:
            raise NotApplied("deposed", "this member leads no more")
        for key, version in zip(keys, read.versions, strict=True):
            granted = None if version is None else _granted(version)
            if granted is None:
                tenure.deadlines.ends(lease_of(key), read.head.last)
            else:
                tenure.deadlines.grant(lease_of(key), granted, received_s)

    # --------------------------------------------------------------------------------------- ending

    async def run(self) -> None:
        """Keep the leases whenever this member leads, forever."""
        while True:
            tenure = self._tenure
            if tenure is None:
                await self._pause(None)
            elif self._member.leading.term != tenure.term or not self._member.leading.taken_over:
                await self._pause(self._settings.sweep_retry_s)
            elif not tenure.known:
                await self._learn(tenure)
            else:
                await self._end_due(tenure)

    async def _learn(self, tenure: Tenure) -> None:
        """Read which leases there are. Each that this leader did not know lives its whole ttl from
        now on: when it was renewed last, only its former leader knew.
        """
        doubts, tenure.heard = tenure.doubts, {}
        found: dict[int, Granted | None] = {}
        after, more = b"", True
        try:
            while more:
                page = await self._store.list(
                    LEASES_PREFIX,
                    after=after,
                    limit=PAGE,
                    timeout_s=self._settings.store_timeout_s,
                )
                for version in page.versions:
                    after = version.key
                    found[lease_of(version.key)] = _granted(version)
                more = page.more
        except (BackendUnavailable, TimeoutError) as exc:
            _log.info("leases wait for the store", error=str(exc) or type(exc).__name__)
            await self._pause(self._settings.backoff_s_max)  # it may be away for long
            return
        if self._tenure is not tenure or tenure.doubts != doubts:
            return
        found |= tenure.heard
        there = {lease: granted for lease, granted in found.items() if granted is not None}
        tenure.deadlines.keep_only(there, self._clock.monotonic())
        tenure.known = True
        _log.info("keeps the leases", term=tenure.term, leases=len(tenure.deadlines))

    async def _end_due(self, tenure: Tenure) -> None:
        now_s = self._clock.monotonic()
        due = tenure.deadlines.due(now_s, ENDED_MAX)
        if not due:
            next_s = tenure.deadlines.next_s()
            pause_s = PAUSE_S_MAX if next_s is None else min(PAUSE_S_MAX, next_s - now_s)
            await self._pause(max(pause_s, 0.001))
            return
        for batch in await self._batches(due):
            if self._tenure is tenure:
                began_s = self._clock.monotonic()
                await self._end(tenure, {lease: due[lease] for lease in batch})
                await asyncio.sleep(min(self._clock.monotonic() - began_s, REST_S_MAX))

    async def _batches(self, due: Iterable[int]) -> list[list[int]]:
        """Split leases so that not too many keys end by one command."""
        leases = list(due)
        counts: Mapping[int, int]
        try:
            counts = await self._store.attached_counts(
                leases, limit=END_KEYS_MAX, timeout_s=self._settings.store_timeout_s
            )
        except (BackendUnavailable, TimeoutError):
            counts = dict.fromkeys(leases, END_KEYS_MAX)
        batches: list[list[int]] = [[]]
        total = 0
        for lease in leases:
            keys = 1 + counts.get(lease, 0)
            if batches[-1] and total + keys > END_KEYS_MAX:
                batches.append([])
                total = 0
            batches[-1].append(lease)
            total += keys
        return batches

    async def _end(self, tenure: Tenure, due: Mapping[int, int]) -> None:
        """Order the ends of leases. Those that are not known to have ended are tried again.

        An end is guarded by the revision of the grant whose time is over: else it could end a lease
        that was granted with the same id meanwhile.
        """
        settings = self._settings
        deadline_ms = self._member.now_ms() + int(settings.sweep_deadline_s * 1000)
        intents = [
            Intent(
                next(self._op_ids),
                deadline_ms,
                (AtRevision(lease_key(lease), (revision,)),),
                (EndLease(lease, tenure.term),),
            )
            for lease, revision in due.items()
        ]
        futures = self._member.submit(intents)
        _, waiting = await asyncio.wait(futures, timeout=settings.sweep_deadline_s)
        for future in waiting:
            future.cancel()
        again_s = self._clock.monotonic() + settings.sweep_retry_s
        for (lease, revision), future in zip(due.items(), futures, strict=True):
            if _has_ended(future):
                self.ended += 1
                tenure.deadlines.ends(lease, revision)
            else:
                tenure.deadlines.try_again(lease, again_s)

    async def _pause(self, seconds: float | None) -> None:
        self._shift.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._shift.wait()


def _has_ended(future: asyncio.Future[Answer]) -> bool:
    if not future.done() or future.cancelled() or future.exception() is not None:
        return False
    return isinstance(future.result().outcome, Applied | Refused)


def _concerns_leases(event: Settled) -> bool:
    """Return whether what settled without its versions may have granted or ended leases."""
    if event.undone_after is not None or len(event.records) != event.last - event.previous:
        return True
    return any(key.startswith(LEASES_PREFIX) for record in event.records for key in record.keys)


def _granted(version: Version) -> Granted | None:
    """Return what a version of a lease's key says; None: the lease ended."""
    ttl_ms = ttl_of(version.value) if isinstance(version.value, bytes) else 0
    return Granted(ttl_ms, version.revision) if ttl_ms and lease_of(version.key) else None


def _pair(time: LeaseTime | None) -> tuple[int, int] | None:
    return None if time is None else (time.ttl_ms, time.left_ms)
