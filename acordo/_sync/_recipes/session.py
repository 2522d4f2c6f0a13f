# Made by `make sync` from acordo/_recipes/session.py; do not edit.
"""Keep a lease alive while a block runs, and tell at once when it may have ended."""

from __future__ import annotations

import contextlib
import time
from typing import Final, Self

from acordo._errors import AcordoError
from acordo._recipes.errors import Lost, NotHeld
from acordo._sync._client import SyncClient
from acordo._sync._recipes.background import Background, Flag

TTL_S: Final = 10.0
RENEWALS: Final = 3
"""Renewals within one ttl: two may fail."""
TRUST: Final = 0.9
"""Share of its ttl for which a lease is relied on: our clock may run slower than the cluster's."""
RETRY_S: Final = 0.1
_AWAKE_OR_NOT: Final = getattr(time, "CLOCK_BOOTTIME", None)


def now() -> float:
    """Return the seconds of a clock that never goes back; on Linux it also goes on while the
    machine sleeps, as the cluster's does.
    """
    return time.monotonic() if _AWAKE_OR_NOT is None else time.clock_gettime(_AWAKE_OR_NOT)


class Session:
    """A lease that is kept alive while its block runs, and revoked at its end.

        with Session(client) as session:
            client.put("workers/7", "here", lease=session.lease)

    `lost` is raised as soon as the lease may have ended, also while the cluster cannot be reached;
    `check` raises Lost from then on. The lease counts as lost a tenth of its ttl before it can end.
    """

    def __init__(self, client: SyncClient, *, ttl_s: float = TTL_S) -> None:
        self._client, self._ttl_s = client, ttl_s
        self._lease: str | None = None
        self._held_until = 0.0
        self._background: Background | None = None
        self.lost = Flag()

    def __enter__(self) -> Self:
        self.begin()
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    @property
    def lease(self) -> str:
        """The lease. Raises Lost, NotHeld."""
        self.check()
        assert self._lease is not None
        return self._lease

    @property
    def is_lost(self) -> bool:
        """Whether the lease may have ended."""
        if self._lease is not None and now() >= self._held_until:
            self.lost.set()
        return self.lost.is_set()

    def check(self) -> None:
        """Raise Lost if the lease may have ended, NotHeld outside the block."""
        if self._lease is None:
            raise NotHeld("the session has not begun", code="not_held")
        if self.is_lost:
            raise Lost(f"lease {self._lease} may have ended", code="lost")

    def begin(self) -> None:
        """Grant the lease. Raises NotApplied, Unreachable, OutcomeUnknown, BadRequest."""
        began = now()
        self.lost = Flag()
        granted = self._client.grant_lease(self._ttl_s)
        self._lease, self._held_until = granted.id, began + self._ttl_s * TRUST
        stopping = Flag()

        def run() -> None:
            self._renew(granted.id, self.lost, stopping)

        self._background = Background(run, stopping)

    def end(self) -> None:
        """Revoke the lease, and with it delete its keys. If the cluster cannot be reached, that
        happens when its ttl has passed.
        """
        background, self._background = self._background, None
        if background is not None:
            background.stop()
        lease, self._lease = self._lease, None
        if lease is not None:
            with contextlib.suppress(AcordoError):
                self._client.revoke_lease(lease)

    def _renew(self, lease: str, lost: Flag, stopping: Flag) -> None:
        pause_s = self._ttl_s / RENEWALS
        while True:
            left = self._held_until - now()
            if stopping.wait(max(0.0, min(pause_s, left))):
                return
            began = now()
            if began >= self._held_until:
                lost.set()
                return
            pause_s = self._ttl_s / RENEWALS
            try:
                kept = self._client.keep_alive(lease, timeout_s=self._held_until - began)
            except (AcordoError, RuntimeError):  # RuntimeError: the client was closed
                pause_s = min(RETRY_S, pause_s)
                continue
            if kept is None:
                lost.set()
                return
            self._held_until = began + self._ttl_s * TRUST
