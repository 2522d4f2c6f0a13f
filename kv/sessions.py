"""Define sessions: what a browser keeps instead of the token that it signed in with. Pure.

A session is a record of access of its own, so every node knows it, and it ends with its token.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from kv.access import ACCESS_PREFIX, Policy, Token, hash_of, is_over

SESSIONS: Final = ACCESS_PREFIX + b"sessions/"
SESSIONS_OF_ONE_MAX: Final = 16
"""Sessions of one token; beyond, the oldest end."""
LIVES_MS: Final = 8 * 3600 * 1000
"""A session ends after that, or with its token."""
_TEXT: Final = re.compile(r"([0-9a-f]{12})\.([A-Za-z0-9_-]{43})")


class Session(msgspec.Struct, frozen=True):
    """A session as it is kept. `token`: the id of the token that it was begun with; `hash`: of
    256 random bits, as that of a token.
    """

    id: str
    token: str
    hash: str
    created_ms: int
    expires_ms: int


def sessions_of(records: Mapping[bytes, bytes]) -> dict[str, Session]:
    """Return the sessions among records of access, by id. One that cannot be read is none."""
    return {each.id: each for each in _read(records)}


def _read(records: Mapping[bytes, bytes]) -> Iterable[Session]:
    for key, raw in records.items():
        if key.startswith(SESSIONS):
            try:
                yield msgspec.json.decode(raw, type=Session)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                continue


def text_of(id: str, secret: str) -> str:
    """Return what a browser keeps of a session."""
    return f"{id}.{secret}"


def found(
    text: str, sessions: Mapping[str, Session], policy: Policy, now_ms: int
) -> tuple[Session, Token] | None:
    """Return the session that a browser sent, with its token; None: it is none, or is over."""
    parts = _TEXT.fullmatch(text)
    session = sessions.get(parts[1]) if parts else None
    if session is None or parts is None or now_ms >= session.expires_ms:
        return None
    token = policy.tokens.get(session.token)
    if token is None or is_over(token, now_ms):
        return None
    return (session, token) if hmac.compare_digest(session.hash, hash_of(parts[2])) else None
