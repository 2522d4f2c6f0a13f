"""Services that do for one caller what it may, and nothing else.

Every handler works with these while access is controlled: each key, range, guard, lease, operation
and stream is judged here, so a route that forgets to judge opens nothing. What is not named here
cannot be reached. It is one module because what judges is looked through as one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Container, Sequence
from dataclasses import replace
from typing import Any, Final, cast

import msgspec

from kv.access import BROUGHT, brought, end_of, principal_of
from kv.errors import BadRequest, KvError, NotAllowed, NotApplied, OutcomeUnknown
from kv.leases import lease_for
from kv.model import (
    FROM_KEY,
    NODE_OP_ID_PREFIX,
    OP_ID_CHARS_MAX,
    Answer,
    Intent,
    Version,
)
from kv.ports import Change, LeaseTime, Listing, Read, StoreReader
from node.access.access import Access, Grant, Need
from node.access.judging import check, check_intent, overlaps, sparing
from node.reads.levels import Reading, ReadOptions
from node.reads.reads import Reads
from node.services import AsyncWrites, NodeServices
from node.watching.ring import Portion
from node.watching.watches import Watcher, Watches
from node.wire.documents import decode, encode
from node.wire.requests import TransactionForm, intent_of
from node.writes.activity import WriteActivity
from node.writes.leases import Leases
from node.writes.lookups import Found, StillUnknown
from node.writes.submit_queue import Result
from node.writes.take_backs import Left, TakeBacks

_KNOWN: Final = frozenset(
    {
        "settled", "ordered", "term_of", "holds_to", "now_ms", "operation_retention_ms", "status",
        "undone", "refusal", "namespace", "space",
    }
)  # fmt: skip
"""What every caller may ask consensus: nothing of it is of a key."""
_OPERATED: Final = frozenset(
    {"transfer", "add_member", "remove_member", "amend", "compact", "adopt"}
)
_CHANGES: Final = frozenset({"policy", "switch", "create_token", "put_role", "bind", "remove"})
_WEBHOOKS: Final = frozenset({"list", "get", "create", "remove"})
"""What whoever signed in may ask of webhooks: these show and change the caller's own."""
_READS: Final = frozenset({"own", "reach", "reach_kept", "confirm_store", "behind"})
_FOREIGN: Final = StillUnknown(
    "it was given before access was controlled, and only an admin is told of it",
    "outcome_forgotten",
)


class Only:
    """A service of which only some names can be reached."""

    __slots__ = ("_names", "_service")

    def __init__(self, service: object, names: Container[str]) -> None:
        self._service, self._names = service, names

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            raise NotAllowed(f"no right to use {name}")
        return getattr(self._service, name)


def gate(
    services: NodeServices,
    need: Need,
    authorization: str | None,
    names: tuple[str, ...],
    session: str | None = None,
) -> NodeServices:
    """Return the services that a caller may use, who meets a route's need. Raises NotSignedIn,
    NotAllowed, NotApplied.
    """
    return granted(services, services.access.gate(authorization, names, need, session))


def granted(services: NodeServices, grant: Grant) -> NodeServices:
    """Return the services of a node as one caller may use them."""
    kept = grant.services
    if kept is None:
        kept = grant.services = _granted(services, grant)
    return cast("NodeServices", kept)


def _granted(services: NodeServices, grant: Grant) -> NodeServices:
    nothing = Only(None, ())
    shared = None if services.shared is None else Only(services.shared, ("claim",))
    waiting = services.async_writes

    def whole() -> NodeServices:
        if not grant.rights.admin:
            raise NotAllowed("no right to all of the store")
        return services

    made: dict[str, object] = {
        "consensus": Only(services.consensus, _Names(grant, _KNOWN, _OPERATED)),
        "store": GrantedStore(services.store, grant),
        "shared": shared,
        "own": None if services.own is None else nothing,
        "cache": nothing,
        "broadcast": nothing,
        "reads": GrantedReads(services.reads, grant),
        "writes": GrantedWrites(services, grant),
        "lookups": GrantedLookups(services, grant),
        "leases": GrantedLeases(services.leases, services.access, grant),
        "take_backs": GrantedTakeBacks(services.take_backs, grant),
        "watches": GrantedWatches(services.watches, services.access, grant),
        "async_writes": None if waiting is None else GrantedAsyncWrites(waiting, grant),
        "changes": Only(services.changes, _Names(grant, frozenset(), _CHANGES)),
        "webhooks": Only(services.webhooks, _Names(grant, _WEBHOOKS, frozenset({"give", "sign"}))),
        "grant": grant,
        "check_read": lambda begin, end: check(grant.rights, "read", begin, end),
        "reach_whole": whole,
    }
    return replace(services, **made)  # type: ignore[arg-type]  # each stands for the one it wraps


class _Names:
    """The names of a service that a caller may use now."""

    def __init__(self, grant: Grant, anybody: frozenset[str], admins: frozenset[str]) -> None:
        self._grant, self._anybody, self._admins = grant, anybody, admins

    def __contains__(self, name: object) -> bool:
        return name in self._anybody or (name in self._admins and self._grant.rights.admin)


class GrantedStore:
    """Versions and ranges of the store, as one caller may read them."""

    def __init__(self, store: StoreReader, grant: Grant) -> None:
        self._store, self._grant = store, grant

    async def head(self, *, timeout_s: float) -> object:
        """Return the head, which tells of no key."""
        return await self._store.head(timeout_s=timeout_s)

    async def floor(self, *, timeout_s: float) -> int:
        """Return the lowest revision that can be read at."""
        return await self._store.floor(timeout_s=timeout_s)

    async def ledger(self, from_seq: int, limit: int, *, timeout_s: float) -> object:
        """Return rows of the ledger, which name all keys. Raises NotAllowed."""
        if not self._grant.rights.admin:
            raise NotAllowed("no right to read the ledger")
        return await self._store.ledger(from_seq, limit, timeout_s=timeout_s)

    async def row_ending(self, last: int, *, timeout_s: float) -> object:
        """Return a row of the ledger. Raises NotAllowed."""
        if not self._grant.rights.admin:
            raise NotAllowed("no right to read the ledger")
        return await self._store.row_ending(last, timeout_s=timeout_s)

    async def versions(
        self, at: Sequence[tuple[bytes, int]], *, timeout_s: float
    ) -> tuple[Version | None, ...]:
        """Return versions. Raises NotAllowed."""
        for key, _ in at:
            check(self._grant.rights, "read", key)
        return await self._store.versions(at, timeout_s=timeout_s)

    async def list(
        self, prefix: bytes, *, end: bytes | None = None, after: bytes = b"", **how: Any
    ) -> Listing:
        """List a range without its hidden keys. A page may end early where they stand. Raises
        NotAllowed.
        """
        begin, last = prefix, end
        if last is None:
            last = end_of(prefix) or FROM_KEY
        if last != FROM_KEY and last <= begin:  # it has no keys, and tells the revision alone
            return await self._store.list(prefix, end=end, after=after, **how)
        rights = self._grant.rights
        check(rights, "read", begin, last)
        hidden = rights.hidden
        if not overlaps(begin, last, hidden):
            return await self._store.list(prefix, end=end, after=after, **how)
        behind = end_of(hidden)
        assert behind is not None
        if begin < hidden and after < hidden:
            listing = await self._store.list(begin, end=hidden, after=after, **how)
            if listing.versions or listing.more:
                return msgspec.structs.replace(listing, more=True)
        return await self._store.list(max(begin, behind), end=last, after=after, **how)


class GrantedReads:
    """Reads of single keys, as one caller may do them. `reach` and its like tell of no key."""

    def __init__(self, reads: Reads, grant: Grant) -> None:
        self._reads, self._grant = reads, grant
        self.rounds = Only(reads.rounds, ("confirmed_by",))
        self.store = Only(reads.store, ("value_of", "check_refusal"))
        """`value_of` takes a version, which came from a judged read."""

    def __getattr__(self, name: str) -> Any:
        if name not in _READS:
            raise NotAllowed(f"no right to use {name}")
        return getattr(self._reads, name)

    async def get(self, key: bytes, asked: ReadOptions, *, deadline: float) -> Reading:
        """Read a key. It is judged again by what this node knows after the read, which includes all
        that was acknowledged before a linearizable one began. Raises NotAllowed.
        """
        check(self._grant.rights, "read", key)
        reading = await self._reads.get(key, asked, deadline=deadline)
        check(self._grant.rights, "read", key)
        return reading

    async def snapshot(
        self, keys: Sequence[bytes], *, at: int | None = None, deadline: float
    ) -> Read:
        """Read many keys, likewise. Raises NotAllowed."""
        self._check(keys)
        read = await self._reads.snapshot(keys, at=at, deadline=deadline)
        self._check(keys)
        return read

    def _check(self, keys: Sequence[bytes]) -> None:
        rights = self._grant.rights
        for key in keys:
            check(rights, "read", key)


class GrantedWrites:
    """Writes, as one caller may do them. What it writes is recorded with its principal."""

    def __init__(self, services: NodeServices, grant: Grant) -> None:
        self._writes, self._consensus, self._grant = services.writes, services.consensus, grant
        self._access = services.access

    @property
    def activity(self) -> WriteActivity:
        """What this node acknowledged."""
        return self._writes.activity

    def new_op_id(self) -> str:
        """Return a new op_id."""
        return self._writes.new_op_id()

    def leader_url(self) -> str | None:
        """Return where the leader serves clients."""
        return self._writes.leader_url()

    async def one(self, intent: Intent, *, deadline: float, lifetime_s: float = 0.0) -> Answer:
        """Run one intent. Raises NotAllowed, and as `Writes.one`."""
        result = (await self.many((intent,), deadline=deadline, lifetime_s=lifetime_s))[0]
        if isinstance(result, KvError):
            raise result
        return result

    async def many(
        self, intents: Sequence[Intent], *, deadline: float, lifetime_s: float = 0.0
    ) -> list[Result]:
        """Run intents. If one of them is not allowed none is handed over. Raises NotAllowed."""
        await self._access.wait_fresh(deadline)
        rights = self._grant.rights
        for intent in intents:
            check_intent(rights, intent)
            self._check_brought(intent, lifetime_s)
        ready = [
            msgspec.structs.replace(
                sparing(intent, rights.hidden), op_id=self.recorded(intent.op_id, lifetime_s)
            )
            for intent in intents
        ]
        results = await self._writes.many(ready, deadline=deadline, lifetime_s=lifetime_s)
        for intent, result in zip(intents, results, strict=True):
            if isinstance(result, OutcomeUnknown) and result.op_id is not None:
                result.op_id = intent.op_id
        return results

    def _check_brought(self, intent: Intent, lifetime_s: float) -> None:
        """Judge what a worker brings by what its principal may do now; it was judged when it was
        accepted, maybe long ago. What is recorded already changes nothing. Raises NotAllowed.
        """
        recorded = brought(intent.op_id) if lifetime_s > 0 and self._grant.rights.admin else None
        policy = self._access.policy
        if recorded is None or policy is None or self._consensus.recorded(recorded) is not None:
            return
        rights = policy.rights_of(principal_of(recorded), self._access.now_ms())
        if rights is None:
            raise NotAllowed("the principal that it was accepted from may do nothing any more")
        check_intent(rights, intent)

    def recorded(self, op_id: str, lifetime_s: float = 0.0) -> str:
        """Return an op_id as it is recorded. One that was given before access was controlled is the
        same operation still; one that a worker brings has its principal already.
        """
        rights = self._grant.rights
        if lifetime_s > 0 and rights.admin and (of := brought(op_id)) is not None:
            return of
        if self._consensus.recorded(op_id) is not None:
            return op_id
        return rights.tagged(op_id)


class GrantedLookups:
    """Look-ups of operations, each of its own principal. Another's are not there."""

    def __init__(self, services: NodeServices, grant: Grant) -> None:
        self._lookups, self._grant = services.lookups, grant

    async def find(self, op_id: str, *, deadline: float) -> Found:
        """Return what is known of an operation of the caller."""
        return await self._asked(self._lookups.find, op_id, deadline)

    async def settle(self, op_id: str, *, deadline: float) -> Found:
        """Return how an operation of the caller ended, or cancel it."""
        return await self._asked(self._lookups.settle, op_id, deadline)

    async def _asked(
        self, ask: Callable[..., Awaitable[Found]], op_id: str, deadline: float
    ) -> Found:
        rights = self._grant.rights
        tagged = rights.tagged(op_id)
        if tagged == op_id:
            return await ask(op_id, deadline=deadline)
        known = await self._lookups.find(tagged, deadline=deadline)
        if known == "not_ordered" and not op_id.startswith(NODE_OP_ID_PREFIX):
            earlier = await self._lookups.find(op_id, deadline=deadline)
            if earlier != "not_ordered":
                return earlier if rights.admin else _FOREIGN
        return await ask(tagged, deadline=deadline)


class GrantedLeases:
    """Leases of one caller. Whose a lease is, its id says."""

    def __init__(self, leases: Leases, access: Access, grant: Grant) -> None:
        self._leases, self._access, self._grant = leases, access, grant

    def new_id(self, op_id: str) -> int:
        """Return the id of the lease that an operation grants."""
        return self._grant.rights.lease(lease_for(op_id))

    async def grant(
        self, lease: int, ttl_ms: int, op_id: str, *, deadline: float, lifetime_s: float = 0.0
    ) -> Answer:
        """Grant a lease. Raises NotAllowed for an id that the caller chose, and for who may write
        no key: there are so many leases and no more.
        """
        await self._access.wait_fresh(deadline)
        if not self._grant.rights.writes:
            raise NotAllowed("no right to write any key, which a lease is for")
        self._check(lease, "the ids of leases are chosen by the node, unless an admin does")
        op_id = self._grant.rights.tagged(op_id)
        return await self._leases.grant(
            lease, ttl_ms, op_id, deadline=deadline, lifetime_s=lifetime_s
        )

    async def revoke(
        self, lease: int, op_id: str, *, deadline: float, lifetime_s: float = 0.0
    ) -> Answer:
        """End a lease. Raises NotAllowed."""
        await self._access.wait_fresh(deadline)
        self._check(lease, "the lease is another's")
        op_id = self._grant.rights.tagged(op_id)
        return await self._leases.revoke(lease, op_id, deadline=deadline, lifetime_s=lifetime_s)

    async def time(self, lease: int, *, renew: bool, deadline: float) -> LeaseTime | None:
        """Return how long a lease lives; None: there is none, or it is another's."""
        if not self._grant.rights.owns(lease):
            return None
        return await self._leases.time(lease, renew=renew, deadline=deadline)

    async def renewed(
        self, leases: Sequence[int], *, deadline: float
    ) -> list[LeaseTime | NotApplied | None]:
        """Let leases live on; None where there is none, or it is another's."""
        rights = self._grant.rights
        own = [lease for lease in leases if rights.owns(lease)]
        found = iter(await self._leases.renewed(own, deadline=deadline) if own else ())
        return [next(found) if rights.owns(lease) else None for lease in leases]

    async def keys(self, lease: int, *, deadline: float) -> tuple[bytes, ...]:
        """Return the keys of a lease that the caller may read."""
        if not self._grant.rights.owns(lease):
            return ()
        found = await self._leases.keys(lease, deadline=deadline)
        rights = self._grant.rights
        return tuple(
            key for key in found if not key.startswith(rights.hidden) and rights.may("read", key)
        )

    async def page(
        self, after: int, limit: int, *, deadline: float
    ) -> tuple[list[tuple[int, int]], bool]:
        """Return leases by id. Raises NotAllowed."""
        if not self._grant.rights.admin:
            raise NotAllowed("no right to list leases")
        return await self._leases.page(after, limit, deadline=deadline)

    def _check(self, lease: int, why: str) -> None:
        if not self._grant.rights.owns(lease):
            raise NotAllowed(why)


class GrantedTakeBacks:
    """The keys to take back that one caller's own requests put."""

    def __init__(self, take_backs: TakeBacks, grant: Grant) -> None:
        self._take_backs, self._grant = take_backs, grant

    def add(self, left: Left) -> None:
        """Take back a key that was put by an operation of the caller, also if it may do nothing any
        more.
        """
        op_id = self._grant.last.tagged(left.op_id)
        self._take_backs.add(left._replace(op_id=op_id))


class GrantedWatches:
    """Watches of what one caller may read, for as long as it may."""

    def __init__(self, watches: Watches, access: Access, grant: Grant) -> None:
        self._watches, self._access, self._grant = watches, access, grant
        self.turns, self.unsent = watches.turns, watches.unsent

    @property
    def frames(self) -> object:
        """The encoded events that the caller may be told."""
        if not self._access.guards:
            return self._watches.frames
        return self._access.frames[self._grant.rights.admin]

    @property
    def cut_total(self) -> int:
        """How many watches were cut."""
        return self._watches.cut_total

    @cut_total.setter
    def cut_total(self, value: int) -> None:
        self._watches.cut_total = value

    def open(
        self, prefix: bytes, after: int | None, *, within: tuple[bytes, bytes] | None = None
    ) -> Watcher:
        """Open a watch on a prefix, or on the range in it that is told. Raises NotAllowed."""
        begin, end = within or (prefix, end_of(prefix) or FROM_KEY)
        check(self._grant.rights, "read", begin, end)
        watcher = self._watches.open(prefix, after)

        def told(portion: Portion) -> Portion:
            if not self._access.guards:
                return portion
            rights = self._grant.rights
            check(rights, "read", begin, end)
            if not any(_shows(change, rights.hidden) for change in portion.changes):
                return portion
            changes = (_without(change, rights.hidden) for change in portion.changes)
            return Portion(tuple(each for each in changes if each is not None), portion.position)

        watcher.told = told
        watcher.before = self._access.until_known
        return watcher


def _shows(change: Change, hidden: bytes) -> bool:
    return any(version.key.startswith(hidden) for version in change.versions)


def _without(change: Change, hidden: bytes) -> Change | None:
    kept = tuple(version for version in change.versions if not version.key.startswith(hidden))
    return msgspec.structs.replace(change, versions=kept) if kept else None


class GrantedAsyncWrites:
    """Asynchronous writes of one caller, judged when they are accepted."""

    def __init__(self, writes: AsyncWrites, grant: Grant) -> None:
        self._writes, self._grant = writes, grant

    async def accept(self, op_id: str, transaction: bytes, *, timeout_s: float) -> None:
        """Hand a write to the broker, with its principal. Raises NotAllowed."""
        rights = self._grant.rights
        form = decode(transaction, TransactionForm)
        check_intent(rights, intent_of(form, op_id))
        if rights.principal is not None:
            op_id = f"{op_id}{BROUGHT}{rights.principal}"
            if len(op_id) > OP_ID_CHARS_MAX:
                most = OP_ID_CHARS_MAX - len(BROUGHT) - len(rights.principal)
                raise BadRequest("bad_op_id", "the op_id is too long", allowed=f"up to {most}")
            transaction = encode(msgspec.json.decode(transaction) | {"op_id": op_id})
        await self._writes.accept(op_id, transaction, timeout_s=timeout_s)
