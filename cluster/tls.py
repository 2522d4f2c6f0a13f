"""Reach nodes that serve HTTPS and control access: with what clients trust and show, as ACORDO_CA,
ACORDO_CERT and ACORDO_CERT_KEY say, and with the token of ACORDO_TOKEN or ACORDO_TOKEN_FILE.

It never turns the verification of a node off, and never shows a token.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from acordo import BadRequest as Unusable
from acordo import client_tls
from kv.errors import BadRequest


def session(
    timeout: aiohttp.ClientTimeout, *, own: Path | None = None, token_file: Path | None = None
) -> aiohttp.ClientSession:
    """Return a session that asks nodes, and nobody else: every request carries the token.

    `own`: a certificate that is trusted besides. `token_file`: where the token is, if the
    environment names none and the file is there. Raises BadRequest.
    """
    headers = authorization(token_file)
    return aiohttp.ClientSession(timeout=timeout, connector=connector(own), headers=headers)


def authorization(
    token_file: Path | None = None, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the header that says who asks; none where there is no token.

    Raises BadRequest("token_file") for a file that cannot be read.
    """
    token, named = environ.get("ACORDO_TOKEN", ""), environ.get("ACORDO_TOKEN_FILE", "")
    if not token and not named and token_file is not None and token_file.exists():
        named = str(token_file)
    if not token and named:
        try:
            token = Path(named).read_text(encoding="ascii")
        except (OSError, ValueError) as exc:
            raise BadRequest("token_file", f"{named}: {exc}", allowed="a file with a token") from (
                exc
            )
    token = token.strip()
    return {"Authorization": f"Bearer {token}"} if token else {}


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
