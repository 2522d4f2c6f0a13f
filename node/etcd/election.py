"""/v3/lock/… and /v3/election/…: locks and elections, by keys that end with a lease.

Who asks for a lock puts a key under its name; the key that was created first holds it. A request
whose client is gone before it is answered deletes its key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from kv.errors import BadRequest, KvError, NotApplied
from kv.model import ASYNC_OP_ID_PREFIX, Compare, Delete, Intent, PutWith, Version
from node.etcd.answers import (
    CampaignResponse,
    HeaderResponse,
    LeaderKeyForm,
    LeaderResponse,
    LockResponse,
    key_value,
)
from node.etcd.call import Call
from node.etcd.leases import granted
from node.etcd.messages import (
    CampaignRequest,
    LeaderKey,
    LeaderRequest,
    LockRequest,
    ProclaimRequest,
    UnlockRequest,
)
from node.etcd.reading import position, span
from node.etcd.refusals import (
    NO_ELECTION_LEADER,
    NO_KEY,
    NO_LEADER_FIELD,
    NOT_ELECTION_LEADER,
    UNKNOWN,
    Refusal,
)
from node.etcd.spans import client_key
from node.etcd.streams import MessageStream
from node.watching.watches import WatchEnded
from node.writes.take_backs import Left

SESSION_TTL_S: Final = 60
"""The ttl of the lease of who brings none, as in etcd."""
RENEW_S: Final = 20.0

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


def _of_a_client(handler: Handler) -> Handler:
    """Return a handler whose refusals have the code that etcd's own client library gives them."""

    async def handle(call: Call) -> web.StreamResponse:
        try:
            return await handler(call)
        except Refusal as refusal:
            raise Refusal(UNKNOWN, refusal.message) from refusal
        except WatchEnded as exc:
            raise NotApplied("draining", exc.detail) from exc

    return handle


class _Candidate:
    """One key that waits for its turn under a name."""

    def __init__(self, call: Call, name: bytes, lease: int, *, own_lease: bool) -> None:
        self._call, self.lease, self._own_lease = call, lease, own_lease
        self.name = name
        self.key = client_key(b"%s/%x" % (name, lease))
        self.created = 0
        self._op_id, self._put_at, self._never = "", 0, False
        self._lost = asyncio.Event()
        call.x.when_lost(self._lost.set)

    async def wait(self, value: bytes) -> int:
        """Put the key, and return the revision at which it is the first under its name. Raises
        Refusal, NotApplied, OutcomeUnknown, ConnectionError.
        """
        try:
            revision = await self._enter(value)
            while True:
                before = await self._before(revision)
                if before is None:
                    if self._lost.is_set():
                        raise ConnectionResetError("the client went away")
                    return revision
                revision = await self._gone(before, revision)
        except BaseException:
            self._leave()
            raise

    async def _enter(self, value: bytes) -> int:
        """Put the key. One that is there already, of an earlier request under the same lease, is
        put again: what takes that request's key back spares it then.
        """
        put = (PutWith(self.key, value, lease=self.lease),)
        absent = Compare(self.key, b"", "create", "=", 0)
        self._op_id = self._call.new_op_id(prefix=ASYNC_OP_ID_PREFIX)
        try:
            revision, outcome = await self._call.write(Intent(self._op_id, 0, (absent,), put, put))
        except (NotApplied, BadRequest, Refusal):
            self._never = True  # also for who may not put it: nothing was handed over
            raise
        self._put_at = revision
        if outcome.branch == "then":
            self.created = revision
            return revision
        mine = await span(self._call, self.key, b"", revision)
        if not mine.versions:
            raise Refusal(UNKNOWN, "session is expired")
        self.created = mine.versions[0].create_revision
        return revision

    async def _before(self, revision: int) -> Version | None:
        """Return the key that was created last before this one; None: it is the first. Raises
        Refusal when this one is gone.
        """
        self._call.renew()
        found = await under(self._call, self.name, revision)
        if not any(each.key == self.key for each in found):
            raise Refusal(UNKNOWN, "session is expired")
        earlier = [each for each in found if each.create_revision < self.created]
        return max(earlier, key=lambda each: each.create_revision, default=None)

    async def _gone(self, before: Version, revision: int) -> int:
        """Wait until another key is deleted; return the revision. Raises ConnectionError."""
        services = self._call.services
        renew_at = services.clock.monotonic() + RENEW_S
        async with services.watches.open(before.key, revision, within=(before.key, b"")) as watcher:
            if self._lost.is_set():
                raise ConnectionResetError("the client went away")
            self._call.x.when_lost(watcher.leave)
            async for portion in watcher.portions(idle_s=services.settings.watch_heartbeat_s):
                for change in portion.changes:
                    if any(v.key == before.key and not v.present for v in change.versions):
                        return change.revision
                if self._own_lease and services.clock.monotonic() >= renew_at:
                    renew_at = services.clock.monotonic() + RENEW_S
                    self._call.renew()
                    await services.leases.time(
                        self.lease, renew=True, deadline=self._call.x.deadline
                    )
        raise AssertionError("a watch does not end by itself")

    def _leave(self) -> None:
        """Have the key taken back, unless it was put again since, or never was. A lease that this
        request was granted ends with it.
        """
        if self._never and not self._own_lease:
            return
        left = Left(self.key, self.lease, self._op_id, self._put_at, self._own_lease)
        self._call.services.take_backs.add(left)


async def under(call: Call, name: bytes, at: int | None = None) -> list[Version]:
    """Return the keys under a name, at a revision or now."""
    if at is None:
        await position(call, serializable=False)
    prefix = name + b"/"
    return (await span(call, prefix, name + b"0", at)).versions


async def _session(call: Call, lease: int) -> tuple[int, bool]:
    """Return the lease of a request, or a new one, and whether it is new."""
    if lease:
        return lease, False
    return (await granted(call, 0, SESSION_TTL_S))[0], True


@_of_a_client
async def lock(call: Call) -> web.StreamResponse:
    """Take a lock, once all who came before have given it back."""
    asked = await call.asked(LockRequest)
    lease, own = await _session(call, asked.lease)
    candidate = _Candidate(call, asked.name, lease, own_lease=own)
    revision = await candidate.wait(b"")
    return call.reply(LockResponse(call.header(revision), candidate.key))


@_of_a_client
async def unlock(call: Call) -> web.StreamResponse:
    """Give a lock back."""
    asked = await call.asked(UnlockRequest)
    if not asked.key:
        raise Refusal(*NO_KEY)
    intent = Intent(call.new_op_id(), 0, (), (Delete(client_key(asked.key)),))
    revision, _ = await call.write(intent)
    return call.reply(HeaderResponse(call.header(revision)), revision=revision)


@_of_a_client
async def campaign(call: Call) -> web.StreamResponse:
    """Become the leader, once all who came before have resigned."""
    asked = await call.asked(CampaignRequest)
    lease, own = await _session(call, asked.lease)
    candidate = _Candidate(call, asked.name, lease, own_lease=own)
    revision = await candidate.wait(asked.value)
    won = LeaderKeyForm(asked.name, candidate.key, str(candidate.created), str(lease))
    return call.reply(CampaignResponse(call.header(revision), won))


@_of_a_client
async def leader(call: Call) -> web.StreamResponse:
    """Tell who leads."""
    asked = await call.asked(LeaderRequest)
    found = _first(await under(call, asked.name))
    if found is None:
        raise Refusal(*NO_ELECTION_LEADER)
    return call.reply(_leads(call, found))


def _first(found: list[Version]) -> Version | None:
    return min(found, key=lambda each: each.create_revision, default=None)


def _leads(call: Call, version: Version) -> LeaderResponse:
    value = version.value
    return LeaderResponse(
        call.header(), key_value(version, value if isinstance(value, bytes) else None)
    )


def _leader_of(form: ProclaimRequest) -> LeaderKey:
    if form.leader is None:
        raise Refusal(*NO_LEADER_FIELD)
    return form.leader


@_of_a_client
async def proclaim(call: Call) -> web.StreamResponse:
    """Give the leader a new value."""
    asked = await call.asked(ProclaimRequest)
    who = _leader_of(asked)
    key = client_key(who.key)
    same = Compare(key, b"", "create", "=", who.rev)
    put = PutWith(key, asked.value, lease=who.lease)
    revision, outcome = await call.write(Intent(call.new_op_id(), 0, (same,), (put,), ()))
    if outcome.branch != "then":
        raise Refusal(*NOT_ELECTION_LEADER)
    return call.reply(HeaderResponse(call.header(revision)), revision=revision)


@_of_a_client
async def resign(call: Call) -> web.StreamResponse:
    """Give the leadership up, if it is still held."""
    who = _leader_of(await call.asked(ProclaimRequest))
    key = client_key(who.key)
    same = Compare(key, b"", "create", "=", who.rev)
    revision, _ = await call.write(Intent(call.new_op_id(), 0, (same,), (Delete(key),), ()))
    return call.reply(HeaderResponse(call.header(revision)), revision=revision)


@_of_a_client
async def observe(call: Call) -> web.StreamResponse:
    """Tell who leads, and what the leader proclaims, from now on."""
    asked = await call.asked(LeaderRequest)
    services = call.services
    services.check_read(asked.name + b"/", asked.name + b"0")
    stream = MessageStream(call)
    try:
        await stream.begin()
        told: tuple[bytes, int] | None = None
        position_ = services.consensus.settled.last
        async with services.watches.open(asked.name + b"/", position_) as watcher:
            call.x.when_lost(watcher.leave)
            told = await _observed(call, stream, asked.name, told)
            async for portion in watcher.portions(idle_s=services.settings.watch_heartbeat_s):
                if portion.changes:
                    told = await _observed(call, stream, asked.name, told)
    except (ConnectionError, TimeoutError):
        stream.response.force_close()
    except (KvError, WatchEnded) as exc:
        await stream.fail(exc)
    return stream.response


async def _observed(
    call: Call, stream: MessageStream, name: bytes, told: tuple[bytes, int] | None
) -> tuple[bytes, int] | None:
    """Tell who leads, unless that was told; return what was told last."""
    call.renew()
    found = _first(await under(call, name))
    if found is None or (found.key, found.revision) == told:
        return told
    await stream.send(_leads(call, found))
    return found.key, found.revision
