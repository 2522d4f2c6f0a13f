"""Sign deliveries: where the cluster keeps the secret it signs, and only what may be told.

A worker holds a secret only of a subscription that still stands as a key, as in version 0.2.0.
"""

from __future__ import annotations

from typing import Protocol

from acordo import Client
from kv.webhooks import acordo_signature, standard_signature


class Withheld(Exception):
    """The owner of the subscription may not be told that now."""


class Signer(Protocol):
    """What signs the deliveries of one subscription."""

    async def signed(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return the headers with the signatures of a delivery. Raises Withheld, AcordoError."""
        ...


class ClusterSigner:
    """The cluster, which keeps the secret."""

    def __init__(self, client: Client, name: str) -> None:
        self._client, self._name = client, name

    async def signed(self, id: str, timestamp: int, body: bytes) -> dict[str, str]:
        """Return the headers with the signatures of a delivery. Raises Withheld, AcordoError."""
        found = await self._client.sign_delivery(self._name, id, timestamp, body)
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
