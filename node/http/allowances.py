"""Bound what one client may have of a node: requests in a second, requests and watches under way.
Pure.

A refusal comes before anything is done, so it is definite. A client is a principal, or an address
where nobody signs in. Without a limit nothing is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from kv.errors import NotApplied
from node.settings import ServerSettings

CLIENTS_MAX: Final = 8192
"""Clients whose rate is remembered. Beyond, the one that was seen longest ago may begin anew."""
BURST_S: Final = 2.0
"""A burst for which no setting says how large it may be has what comes in this time."""


class RateLimited(NotApplied):
    """One client asks for more than its share. `headers` say how much it may have, and when."""

    def __init__(self, detail: str, *, retry_after_s: float, headers: dict[str, str]) -> None:
        super().__init__("rate_limited", detail, retry_after_s=retry_after_s)
        self.headers = headers


class Rate:
    """How often each client may come: `per_s` times a second, and up to `burst` times at once.

    It is the generic cell rate algorithm (ITU-T I.371), a leaky bucket of one number per client:
    the time at which its bucket is empty.
    """

    def __init__(self, per_s: float, burst: int) -> None:
        self._step_s = 1 / per_s
        self._slack_s = (burst - 1) / per_s
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def spend(self, client: str, now_s: float) -> float:
        """Return 0 and count one, or return in how many seconds the client may come again."""
        empty_at = max(self._empty_at.get(client, now_s), now_s)
        wait_s = empty_at - now_s - self._slack_s
        if wait_s > 1e-9:
            return wait_s
        self._empty_at[client] = empty_at + self._step_s
        self._empty_at.move_to_end(client)
        if len(self._empty_at) > CLIENTS_MAX:
            self._empty_at.popitem(last=False)
        return 0.0

    def __len__(self) -> int:
        return len(self._empty_at)


class PerClient:
    """An amount of which each client may hold so much; 0: as much as it likes."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._held: dict[str, int] = {}

    def take(self, client: str) -> bool:
        """Take one. Return False, and take nothing, if the client has its share."""
        if not self.most:
            return True
        held = self._held.get(client, 0)
        if held >= self.most:
            return False
        self._held[client] = held + 1
        return True

    def give_back(self, client: str) -> None:
        """Return one that was taken."""
        held = self._held.get(client, 0)
        if held > 1:
            self._held[client] = held - 1
        else:
            self._held.pop(client, None)

    def __len__(self) -> int:
        """Return how many clients hold any."""
        return len(self._held)


class Allowances:
    """What each client of one node may have."""

    def __init__(self, settings: ServerSettings) -> None:
        per_s = settings.client_rate_max
        self._per_s = per_s
        self._burst = settings.client_rate_burst or max(1, round(per_s * BURST_S))
        self._rate = Rate(per_s, self._burst) if per_s else None
        self._requests = PerClient(settings.client_requests_max)
        self._streams = PerClient(settings.client_watchers_max)
        self.connections = PerClient(settings.client_connections_max)
        self.bounded = bool(per_s or self._requests.most or self._streams.most)
        """Whether any limit of requests is set; if not, `enter` need not be called."""
        self.refused: dict[str, int] = {}
        """Refusals since the start, by the limit that was reached."""

    def enter(self, client: str, *, stream: bool, now_s: float) -> None:
        """Admit a request, which `leave` must end. Raises RateLimited."""
        wait_s = self._rate.spend(client, now_s) if self._rate is not None else 0.0
        if wait_s:
            self.note("rate")
            window_s = max(1, round(self._burst / self._per_s))
            raise RateLimited(
                f"this client may ask {self._per_s:g} times a second",
                retry_after_s=wait_s,
                headers={
                    "RateLimit-Policy": f'"rate";q={self._burst};w={window_s}',
                    "RateLimit": f'"rate";r=0;t={max(1, -int(-wait_s // 1))}',
                },
            )
        kind, held = ("watches", self._streams) if stream else ("requests", self._requests)
        if not held.take(client):
            self.note(kind)
            raise RateLimited(
                f"this client has {held.most} {kind} under way",
                retry_after_s=1.0,
                headers={
                    "RateLimit-Policy": f'"{kind}";q={held.most}',
                    "RateLimit": f'"{kind}";r=0',
                },
            )

    def leave(self, client: str, *, stream: bool) -> None:
        """End a request that `enter` admitted."""
        (self._streams if stream else self._requests).give_back(client)

    def note(self, limit: str) -> None:
        """Count a refusal."""
        self.refused[limit] = self.refused.get(limit, 0) + 1
