"""Sign deliveries: where the cluster keeps the secret it signs, and only what may be told.

A worker holds a secret only of a subscription that still stands as a key, as in version 0.2.0.
"""

from __future__ import annotations

from typing import Final, Protocol

from acordo import BadRequest, Client
from kv.webhooks import acordo_signature, standard_signature

_NO_BODY: Final = frozenset({"malformed_json", "invalid_body", "bad_base64"})
"""Codes of what a node says to a body that is no delivery."""


class Unsignable(Exception):
    """The cluster signs no such body, now or later."""


class Withheld(Exception):
    """The owner of the subscription may not be told that now."""


class Signer(Protocol):
    """What signs the deliveries of one subscription."""

    async def signed(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return the headers with the signatures of a delivery. Raises Withheld, Unsignable,
        AcordoError.
        """
        ...


class ClusterSigner:
    """The cluster, which keeps the secret."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name

    async def signed(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return the headers with the signatures of a delivery. Raises Withheld, Unsignable,
        AcordoError.
        """
        try:
            found = await self._client.sign_delivery(self._name, id, timestamp, body)
        except BadRequest as exc:
            if exc.code in _NO_BODY:
                raise Unsignable(f"cannot be signed: {exc.detail}"[:300]) from exc
            raise
        if not found.told or found.standard is None or found.acordo is None:
            raise Withheld(id)
        return _headers(found.standard, found.acordo)


class OwnSigner:
    """A secret that this worker read from a subscription's key."""

    def __init__(self, secret: str) -> None:
        self._secret = secret

    async def signed(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return the headers with the signatures of a delivery."""
        return _headers(
            standard_signature(self._secret, id, timestamp, body),
            acordo_signature(self._secret, timestamp, body),
        )


def _headers(standard: str, acordo: str) -> dict[str, str]:
    return {"webhook-signature": standard, "Acordo-Signature": acordo}
