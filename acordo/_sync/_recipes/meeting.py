# Made by `make sync` from acordo/_recipes/meeting.py; do not edit.
"""Meet others: a barrier that opens when all are there, and the registration of who is there."""

from __future__ import annotations

import contextlib
import time
from typing import Final, Self

from acordo._errors import AcordoError, Pruned
from acordo._intents import Bytes, absent, as_bytes, key_bytes, put
from acordo._sync._client import SyncClient
from acordo._sync._recipes.background import Background, Flag
from acordo._sync._recipes.counting import exactly_once
from acordo._sync._recipes.session import TTL_S, Session

WAIT_S: Final = 30.0
RETRY_S: Final = 0.2


class Barrier:
    """A barrier that opens for good once `parties` wait at it together."""

    def __init__(
        self, client: SyncClient, name: Bytes, *, parties: int, ttl_s: float = TTL_S
    ) -> None:
        self._client, self._parties, self._ttl_s = client, parties, ttl_s
        self._open, self._waiting = key_bytes(name), key_bytes(name) + b"/"

    def wait(self, *, timeout_s: float | None = None) -> bool:
        """Wait until all are there, at most so many seconds; return whether they were. Who dies
        while it waits does not count any more. Raises what `Client.put` raises, Lost.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        with Session(self._client, ttl_s=self._ttl_s) as session:
            key = self._waiting + session.lease.encode()
            position = str((self._client.put(key, b"", lease=session.lease)).revision)
            while True:
                session.check()
                if self._client.get(self._open) is not None:
                    return True
                if self._count() >= self._parties:
                    opening = put(self._open, b"open")
                    done = exactly_once(self._client, [absent(self._open)], [opening])
                    if done is not None:
                        return True
                    continue  # somebody else opened it, or nobody did: look again
                left = WAIT_S if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                # the key that opens it begins as those of the waiting do
                wait_s = min(left, WAIT_S, self._ttl_s)
                try:
                    found = self._client.poll(self._open, after=position, wait_s=wait_s)
                except Pruned:  # what was told is void, or too old: look again, from now on
                    found = self._client.poll(self._open)
                position = found.position

    def _count(self) -> int:
        """Return how many wait; a barrier whose name begins with ours and a slash has others."""
        count = 0
        for key, _ in self._client.keys(self._waiting):
            count += b"/" not in key[len(self._waiting) :]
        return count


class Registration:
    """A key that is there while a block runs, and goes with whoever put it.

    If its lease is lost, because the cluster could not be reached for a ttl, the key is put again
    as soon as it can; `interruptions` counts that.
    """

    def __init__(
        self, client: SyncClient, key: Bytes, value: Bytes, *, ttl_s: float = TTL_S
    ) -> None:
        self._client, self._ttl_s = client, ttl_s
        self._key, self._value = key_bytes(key), as_bytes(value, "value")
        self._session: Session | None = None
        self._background: Background | None = None
        self.interruptions = 0
        """How often the key may have been away."""

    def __enter__(self) -> Self:
        self._session = self._register()
        stopping = Flag()

        def run() -> None:
            self._keep(stopping)

        self._background = Background(run, stopping)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._background is not None:
            self._background.stop()
        if self._session is not None:
            self._session.end()

    def _register(self) -> Session:
        session = Session(self._client, ttl_s=self._ttl_s)
        session.begin()
        try:
            self._client.put(self._key, self._value, lease=session.lease)
        except BaseException:
            session.end()
            raise
        return session

    def _keep(self, stopping: Flag) -> None:
        while not stopping.is_set():
            session = self._session
            assert session is not None
            if not session.lost.wait(RETRY_S) and not session.is_lost:
                continue
            self.interruptions += 1
            session.end()
            while not stopping.is_set():
                with contextlib.suppress(AcordoError):
                    session = self._register()
                    if stopping.is_set():  # whoever left the block has not waited for us
                        session.end()
                        return
                    self._session = session
                    break
                stopping.wait(RETRY_S)
