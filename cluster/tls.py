"""Reach nodes that serve HTTPS: with what clients trust and show, as ACORDO_CA, ACORDO_CERT and
ACORDO_CERT_KEY say.

It never turns the verification of a node off.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp

from acordo import BadRequest as Unusable
from acordo import client_tls
from kv.errors import BadRequest


def connector(own: Path | None = None) -> aiohttp.TCPConnector:
    """Return what an aiohttp session connects by. `own`: a certificate that is trusted besides,
    because whoever asks gave it to the nodes.

    Raises BadRequest("tls_files") for a file that cannot be used.
    """
    try:
        context = client_tls()
    except Unusable as exc:
        raise BadRequest("tls_files", str(exc), allowed=exc.allowed) from exc
    if own is not None:
        context = context or ssl.create_default_context()
        context.load_verify_locations(own)
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return aiohttp.TCPConnector(ssl=context or True)
