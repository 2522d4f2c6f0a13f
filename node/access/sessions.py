"""Begin and end sessions of the web page. A session does what its token may, and no longer."""

from __future__ import annotations

import secrets
from typing import NamedTuple

from kv.access import Rights, hash_of
from kv.errors import BadRequest
from kv.model import Delete
from kv.sessions import LIVES_MS, SESSIONS, SESSIONS_OF_ONE_MAX, Session, text_of
from node.access.access import Access, Grant
from node.access.changes import Changes


class Begun(NamedTuple):
    """A session that was begun: what the browser keeps of it, and for how long."""

    text: str
    rights: Rights
    expires_ms: int
    lives_s: int


class Sessions:
    """The sessions that one node begins and ends."""

    def __init__(self, access: Access, changes: Changes) -> None:
        self._access, self._changes = access, changes

    async def begin(self, grant: Grant | None, *, deadline: float) -> Begun:
        """Begin a session of the caller's token. Raises BadRequest("no_token") if it brought none,
        NotApplied, OutcomeUnknown.
        """
        policy = self._changes.policy
        token = None if grant is None or grant.token is None else policy.tokens.get(grant.token)
        if grant is None or token is None or grant.session is not None:
            raise BadRequest(
                "no_token",
                "a session is begun with a token, while access is controlled",
                allowed="Authorization: Bearer acordo_…",
            )
        now_ms = self._access.now_ms()
        expires_ms = min(now_ms + LIVES_MS, token.expires_ms or now_ms + LIVES_MS)
        id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        session = Session(id, token.id, hash_of(secret), now_ms, expires_ms)
        rights = grant.rights
        await self._changes.change(
            rights, _key(id), session, deadline, also=self._over(token.id, now_ms)
        )
        return Begun(text_of(id, secret), rights, expires_ms, (expires_ms - now_ms) // 1000)

    def _over(self, token: str, now_ms: int) -> tuple[Delete, ...]:
        """Return the deletes of what is over: sessions that have ended, and of this token the
        oldest beyond its share.
        """
        policy, every = self._changes.policy, self._access.sessions.values()
        ended = [s for s in every if now_ms >= s.expires_ms or s.token not in policy.tokens]
        own = sorted((s for s in every if s.token == token), key=lambda each: each.created_ms)
        ended += own[: max(0, len(own) - SESSIONS_OF_ONE_MAX + 1)]
        return tuple(Delete(key) for key in sorted({_key(s.id) for s in ended})[:64])

    async def end(self, grant: Grant | None, *, deadline: float) -> None:
        """End the session that the caller sent. Raises BadRequest("no_token") if it sent none,
        NotApplied, OutcomeUnknown.
        """
        if grant is None or grant.session is None:
            raise BadRequest("no_token", "no session was sent", allowed="the cookie of a session")
        await self._changes.change(grant.rights, _key(grant.session), None, deadline)


def _key(id: str) -> bytes:
    return SESSIONS + id.encode()
