"""Know the policy as it stands where this node is, and let requests in by it.

While it is not known nobody is let in: a member that began anew reads it from its store first.
Grants and the policy are one module: a grant is what the policy says of one caller at a moment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from enum import Enum
from hmac import compare_digest
from typing import Final

import structlog

from kv.access import (
    ACCESS_PREFIX,
    ANONYMOUS,
    AUDIT,
    NOTHING,
    TOKENS_MAX,
    UNCONTROLLED,
    Policy,
    Rights,
    hash_of,
)
from kv.errors import KvError, NotAllowed, NotApplied, NotSignedIn
from kv.model import Version
from kv.ports import Clock, Consensus, Settled, StoreReader
from kv.sessions import Session, found, sessions_of
from node.http.steps import in_task
from node.settings import ServerSettings
from node.watching.frames import Frames

RETRY_S: Final = 0.5
"""How long after a failed read of the policy it is read again."""
REREAD_S: Final = 30.0
"""How often a known policy is read again. What was heard is wrong if the store that it came from
was: a file that is cut back or fetched anew (R3, R12), a host of a shared store that lagged.
"""
KNOWN_S: Final = 2.0
"""How long a request waits for the policy to be known."""
PAGE: Final = 1000
FRESH_S: Final = 2.0
"""How old the rights may be that a write is judged by: a node that has not heard from a quorum for
that long asks it first. So a revocation is in force everywhere within this time.
"""
UNDECIDED: Final = "own_store_undecided"
"""Why a store is refused that lacks nothing: nobody confirms it until an operator has removed a
member, for which he has to be let in.
"""
RESCUE: Final = "rescue"
"""The principal of the token that stands in a node's own file."""

log = structlog.get_logger("acordo.access")


class Need(Enum):
    """What a route asks of who calls it."""

    NOTHING = "nothing"
    """It tells nothing of keys and changes nothing."""
    SIGNED_IN = "signed in"
    """Credentials that are known, whatever their rights."""
    KEYS = "keys"
    """Its services judge each key, range, lease and operation."""
    METRICS = "metrics"
    ADMIN = "admin"


class Grant:
    """The rights of one caller, as they are at each moment: a request that lasts loses them when
    its token is revoked or expires.
    """

    def __init__(
        self,
        access: Access,
        *,
        token: str | None = None,
        names: tuple[str, ...] = (),
        rescue: bool = False,
        session: str | None = None,
    ) -> None:
        self._access, self._names, self._rescue = access, names, rescue
        self.token, self.session = token, session
        """The ids of the token that was brought, and of the session by which it was, if any."""
        self._policy: Policy | None = None
        self._rights = NOTHING
        self._expires_ms: int | None = None
        self.services: object = None
        """The node's services as this caller may use them, once they were asked for."""

    @property
    def rights(self) -> Rights:
        """The rights now. Raises NotSignedIn, NotApplied."""
        policy = self._access.policy
        if policy is not self._policy:
            if policy is None:
                raise NotApplied("starting", "who may do what is not known here yet")
            self._rights = self._found(policy)
            self._policy = policy
        if self._expires_ms is not None:
            self._access.check_time()
            if self._access.now_ms() >= self._expires_ms:
                raise NotSignedIn("the token has expired")
        return self._rights

    @property
    def last(self) -> Rights:
        """The rights as they were when they were last asked for."""
        return self._rights

    def _found(self, policy: Policy) -> Rights:
        self._expires_ms = None
        if not policy.on:
            return UNCONTROLLED
        if self._rescue:
            return policy.rescued(RESCUE)
        if self.token is not None:
            token = policy.tokens.get(self.token)
            if token is None:
                raise NotSignedIn("the token is unknown or was revoked")
            self._expires_ms = token.expires_ms
            if self.session is not None:
                session = self._access.sessions.get(self.session)
                if session is None:
                    raise NotSignedIn("the session has ended")
                self._expires_ms = min(session.expires_ms, token.expires_ms or session.expires_ms)
            return policy.rights(token.principal, token.roles)
        for name in self._names:
            if name in policy.certificates:
                return policy.rights(name, policy.certificates[name].roles)
        if policy.anonymous is None:
            raise NotSignedIn("this needs a token or a client's certificate")
        return policy.rights(ANONYMOUS, (ANONYMOUS,))

    def require(self, need: Need) -> None:
        """Raise NotSignedIn or NotAllowed unless a route may be used at all."""
        if need is Need.NOTHING:
            return
        rights = self.rights
        if need is Need.SIGNED_IN and rights.principal == ANONYMOUS:
            raise NotSignedIn("this needs a token or a client's certificate")
        if (need is Need.ADMIN and not rights.admin) or (
            need is Need.METRICS and not rights.metrics
        ):
            raise NotAllowed(f"this needs the right {need.value}")


class Access:
    """The policy as one node knows it, and the grants of those who call it."""

    def __init__(
        self,
        consensus: Consensus,
        store: StoreReader,
        clock: Clock,
        settings: ServerSettings,
        *,
        shared: bool,
    ) -> None:
        """`shared`: all members have the store."""
        self._consensus, self._store, self._clock = consensus, store, clock
        self._settings = settings
        self.policy: Policy | None = None
        """None: not known, so nobody is let in."""
        self.guards = True
        """Whether requests go through the gate. While no record of access stands there is nothing
        to hide or to judge.
        """
        self.current = shared
        """Whether the store had, at some time, all that was acknowledged before. Until then that
        nothing of access stands here says little: a new member begins with an empty store.
        """
        self._fresh_at: float | None = None
        """Loop time at which all that had been acknowledged by then was heard of; None: never."""
        self._knows_time = False
        """Whether the log time was known here once: it goes on by itself then."""
        self._records: dict[bytes, Version] = {}
        self._heard: dict[bytes, Version] = {}
        """What settled since the policy was last begun to be read, or was in doubt."""
        self._grants: dict[object, Grant] = {}
        self._doubts = 0
        self._doubted, self._known = asyncio.Event(), asyncio.Event()
        self.sessions: Mapping[str, Session] = {}
        """The sessions of browsers, as they stand here."""
        self.frames = (Frames(settings.watch_frames_bytes), Frames(settings.watch_frames_bytes))
        """Encoded events for watchers who do not see the system's keys, and for admins."""
        self.denied_total = 0
        self._unlisten = consensus.listen(self._settled)

    def close(self) -> None:
        """Stop listening."""
        self._unlisten()

    def records(self) -> dict[bytes, bytes]:
        """Return the records that stand, as they are stored."""
        return {
            key: version.value
            for key, version in self._records.items()
            if isinstance(version.value, bytes)
        }

    def revision_of(self, key: bytes) -> int:
        """Return the revision of a record; 0: there is none."""
        version = self._records.get(key)
        return version.revision if version is not None and version.present else 0

    def monotonic(self) -> float:
        """Return loop time."""
        return self._clock.monotonic()

    def now_ms(self) -> int:
        """Return the log time, by which tokens expire."""
        return self._consensus.now_ms()

    def check_time(self) -> None:
        """Raise NotApplied while the log time is not known here: a token that has expired would be
        taken for a valid one.
        """
        if not self._knows_time:
            self._knows_time = self._consensus.status().stamped
            if not self._knows_time:
                raise NotApplied("starting", "what time it is is not known here yet")

    # --------------------------------------------------------------------------------- what stands

    async def run(self) -> None:
        """Read the policy whenever it is in doubt, and now and then."""
        while True:
            self._doubted.clear()
            if self.policy is None and not await self.load():
                await asyncio.sleep(RETRY_S)
                continue
            if self.policy is not None:
                try:
                    async with asyncio.timeout(REREAD_S):
                        await self._doubted.wait()
                except TimeoutError:
                    await self.load()

    async def wait_known(self, timeout_s: float) -> None:
        """Return once the policy is known, or after a time."""
        if self.policy is not None:
            return
        await in_task()
        try:
            async with asyncio.timeout(min(timeout_s / 2, KNOWN_S)):
                await self._known.wait()
        except TimeoutError:
            return

    async def until_known(self) -> None:
        """Return once the policy is known, or after KNOWN_S. Streams have no deadline."""
        await self.wait_known(2 * KNOWN_S)

    async def wait_current(self, timeout_s: float) -> None:
        """Return once this node has heard of all that was acknowledged before: for what would
        change something while nothing of access stands here. Raises NotApplied.
        """
        if self.current or self._consensus.refusal == UNDECIDED:
            return
        await in_task()
        try:
            async with asyncio.timeout(timeout_s):
                await self._consensus.read_index(timeout_s=timeout_s)
                await self._consensus.wait_settled(self._consensus.ordered, timeout_s=timeout_s)
        except TimeoutError as exc:
            raise NotApplied("starting", "who may do what is not known here yet") from exc
        self.current = True

    async def wait_fresh(self, deadline: float) -> None:
        """Return once the rights are known as they stood FRESH_S ago or later, for what is about
        to be written, until `deadline` (loop time). Raises NotApplied.
        """
        policy, now = self.policy, self._clock.monotonic()
        if (policy is not None and not policy.on) or self._is_fresh(now):
            return
        await in_task()
        left_s = max(deadline - now, 0.001)
        try:
            async with asyncio.timeout(left_s):
                await self._consensus.read_index(timeout_s=left_s)
                await self._consensus.wait_settled(self._consensus.ordered, timeout_s=left_s)
        except TimeoutError as exc:
            raise NotApplied("behind", "who may do what now could not be learned here") from exc
        self._fresh_at = now if self._fresh_at is None else max(now, self._fresh_at)

    def _is_fresh(self, now: float) -> bool:
        return self._fresh_at is not None and now - self._fresh_at <= FRESH_S

    async def load(self) -> bool:
        """Read the policy from the store; return whether it is known now, as it stands there. What
        is known is not given up for what a store says that is behind, or refused.
        """
        doubts, settled = self._doubts, self._consensus.settled
        self._heard = dict(self._records) if self.policy is None else {}
        found: dict[bytes, Version] = {}
        after, more = b"", True
        try:
            while more:
                async with asyncio.timeout(self._settings.store_timeout_s):
                    listing = await self._store.list(
                        ACCESS_PREFIX,
                        after=after,
                        limit=PAGE,
                        settled=settled.last,
                        timeout_s=self._settings.store_timeout_s,
                    )
                found |= {v.key: v for v in listing.versions if _decides(v.key)}
                more = listing.more and bool(listing.versions)
                after = listing.versions[-1].key if listing.versions else b""
        except (KvError, TimeoutError) as exc:
            log.warning("who may do what cannot be read", reason=str(exc))
            return False
        lacks = listing.head.last < settled.last or self._consensus.refusal is not None
        if doubts != self._doubts or (self.policy is not None and lacks):
            return False
        for key, version in self._heard.items():
            if key not in found or found[key].revision < version.revision:
                found[key] = version
        self._records, before = found, self.records()
        if self.policy is None or self.records() != before:
            self._build()
        return True

    def _settled(self, event: Settled) -> None:
        if event.undone_after is not None or (
            event.versions is None
            and (
                len(event.records) != event.last - event.previous
                or any(_decides(key) for record in event.records for key in record.keys)
            )
        ):
            for frames in self.frames if event.undone_after is not None else ():
                frames.forget()
            self._doubt()
            return
        changed = False
        for version in event.versions or ():
            if _decides(version.key):
                known = self._records.get(version.key)
                if known is None or known.revision < version.revision:
                    self._records[version.key] = self._heard[version.key] = version
                    changed = True
        if changed and self.policy is not None:
            self._build()

    def _doubt(self) -> None:
        self._known.clear()
        self._doubts += 1
        self._records = {}
        self.policy, self.guards = None, True
        self._doubted.set()

    def _build(self) -> None:
        records = self.records()
        self.policy, self.sessions = Policy(records), sessions_of(records)
        self.guards = self.policy.stands
        self._grants = {}
        self._known.set()

    # ------------------------------------------------------------------------------------- the gate

    def gate(
        self,
        authorization: str | None,
        names: tuple[str, ...],
        need: Need,
        session: str | None = None,
    ) -> Grant:
        """Return the grant of a caller, who meets a route's need. `authorization`: the header of
        that name; `names`: those of the caller's certificate; `session`: from its cookie. Raises
        NotSignedIn, NotAllowed, NotApplied.
        """
        try:
            grant = self._grant(authorization, names, need, session)
            grant.require(need)
        except (NotSignedIn, NotAllowed):
            self.denied_total += 1
            raise
        return grant

    def _grant(
        self,
        authorization: str | None,
        names: tuple[str, ...],
        need: Need,
        session: str | None,
    ) -> Grant:
        policy = self.policy
        if need is Need.NOTHING:
            return Grant(self)
        if policy is None:
            raise NotApplied("starting", "who may do what is not known here yet")
        if authorization is None and session is not None and policy.on:
            self.check_time()
            of = found(session, self.sessions, policy, self.now_ms())
            if of is not None:
                id, token = of[0].id, of[1].id
                return self._kept((id, 1), lambda: Grant(self, token=token, session=id))
        if authorization is None or not policy.on:
            known = names if any(name in policy.certificates for name in names) else ()
            return self._kept(known, lambda: Grant(self, names=known))
        return self._signed_in(policy, authorization)

    def _signed_in(self, policy: Policy, authorization: str) -> Grant:
        scheme, _, rest = authorization.partition(" ")
        text = rest.strip() if scheme.lower() == "bearer" else authorization
        if self._is_rescue(text):
            log.warning("the rescue token was used")
            return self._kept(RESCUE, lambda: Grant(self, rescue=True))
        token = policy.token(text, self.now_ms())
        if token is None:
            raise NotSignedIn("the token is not valid")
        return self._kept((token.id, 0), lambda: Grant(self, token=token.id))

    def _is_rescue(self, text: str) -> bool:
        expected = self._settings.rescue_token_hash
        return bool(expected) and compare_digest(hash_of(text), expected)

    def _kept(self, key: object, make: Callable[[], Grant]) -> Grant:
        found = self._grants.get(key)
        if found is None:
            if len(self._grants) > TOKENS_MAX:
                self._grants.clear()
            found = self._grants[key] = make()
        return found


def _decides(key: bytes) -> bool:
    """Return whether a key is a record of access by which something is decided."""
    return key.startswith(ACCESS_PREFIX) and not key.startswith(AUDIT)
