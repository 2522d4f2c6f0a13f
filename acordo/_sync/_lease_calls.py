# Made by `make sync` from acordo/_lease_calls.py; do not edit.
"""Grant leases, keep them alive and end them: the calls for keys that live as their owner does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from acordo import _results as results
from acordo._errors import BadRequest
from acordo._messages import Reply, Request
from acordo._sync._base_client import BaseClient
from acordo._sync._calls.caller import OpIds
from acordo._wire import answers, requests

NOT_FOUND = "lease_not_found"

T = TypeVar("T")


class LeaseCalls(BaseClient):
    """A client with the calls about leases.

    A key that is put with a lease is deleted when the lease ends: when it is revoked, or when its
    ttl has passed since it was kept alive last. All its keys go at one revision. A lease is named
    by 16 hexadecimal digits.
    """

    def grant_lease(
        self,
        ttl_s: float,
        *,
        lease: str | None = None,
        op_id: str | None = None,
        timeout_s: float | None = None,
    ) -> results.Lease:
        """Grant a lease that lives `ttl_s` seconds (0.1 to ten years) unless it is kept alive.

        `lease`: its id; None: the node chooses one. Raises BadRequest("lease_exists") for an id in
        use, NotApplied, Unreachable, OutcomeUnknown.
        """

        def make(op_id: str) -> Request:
            return requests.grant_request(ttl_s, lease, op_id)

        op_ids, limit_s = OpIds(op_id, self._new_op_id), timeout_s or self._timeout_s
        granted, _ = self._caller.write(op_ids, make, answers.parse_granted, timeout_s=limit_s)
        return granted

    def keep_alive(self, lease: str, *, timeout_s: float | None = None) -> results.Lease | None:
        """Let a lease live its whole ttl, at least, from the moment of the call; None: it has
        ended, or was never granted. It may be repeated freely. Raises ReadFailed, Unreachable,
        BadRequest.
        """
        request = requests.keep_alive_request(lease)
        return self._or_none(request, answers.parse_lease, timeout_s)

    def lease(
        self, lease: str, *, keys: bool = False, timeout_s: float | None = None
    ) -> results.Lease | None:
        """Return how long a lease lives, and with `keys` also which keys are attached to it; None:
        there is no such lease. Raises ReadFailed, Unreachable, BadRequest.
        """
        request = requests.lease_request(lease, keys=keys)
        return self._or_none(request, answers.parse_lease, timeout_s)

    def leases(self, *, timeout_s: float | None = None) -> Iterator[results.Lease]:
        """Iterate over all leases by id; `timeout_s` bounds each page. Raises ReadFailed,
        Unreachable.
        """
        token: str | None = None
        while True:
            request = requests.leases_request(token)
            page, token = self._call(request, answers.parse_leases, timeout_s)
            for each in page:
                yield each
            if token is None:
                return

    def revoke_lease(
        self, lease: str, *, op_id: str | None = None, timeout_s: float | None = None
    ) -> int | None:
        """End a lease and delete all its keys at one revision, which is returned; None: there is no
        such lease. Raises NotApplied, Unreachable, OutcomeUnknown, BadRequest.
        """

        def make(op_id: str) -> Request:
            return requests.revoke_request(lease, op_id)

        op_ids, limit_s = OpIds(op_id, self._new_op_id), timeout_s or self._timeout_s
        try:
            revision, _ = self._caller.write(op_ids, make, answers.parse_revoked, timeout_s=limit_s)
        except BadRequest as exc:
            if exc.code == NOT_FOUND:
                return None
            raise
        return revision

    def _or_none(
        self, request: Request, parse: Callable[[Reply], T], timeout_s: float | None
    ) -> T | None:
        try:
            return self._call(request, parse, timeout_s)
        except BadRequest as exc:
            if exc.code == NOT_FOUND:
                return None
            raise
