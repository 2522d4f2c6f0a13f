"""Make the TLS context of a client: which authority it trusts, and the certificate that it shows.

It never turns the verification of a server off.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping, Sequence
from pathlib import Path

from acordo._errors import BadRequest


def client_tls(
    *,
    ca: str | Path | None = None,
    cert: str | Path | None = None,
    cert_key: str | Path | None = None,
    environ: Mapping[str, str] = os.environ,
) -> ssl.SSLContext | None:
    """Return a context for https URLs; None: nothing is given, and aiohttp's own does (the system's
    authorities, no certificate).

    `ca`: PEM file of the authorities to trust, instead of the system's; else ACORDO_CA. `cert`: PEM
    file of the certificate to show, else ACORDO_CERT; `cert_key`: its key, else ACORDO_CERT_KEY,
    else in the same file. Raises BadRequest for a file that cannot be used.
    """
    ca = ca or environ.get("ACORDO_CA") or None
    cert = cert or environ.get("ACORDO_CERT") or None
    cert_key = cert_key or environ.get("ACORDO_CERT_KEY") or None
    if cert_key is not None and cert is None:
        raise BadRequest(
            f"{cert_key} is the key of no certificate", code="tls_files", allowed="with a cert"
        )
    if ca is None and cert is None:
        return None
    files = ", ".join(str(each) for each in (ca, cert, cert_key) if each is not None)
    try:
        context = ssl.create_default_context(cafile=ca)
        if cert is not None:
            context.load_cert_chain(cert, cert_key, password=lambda: "")
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        raise BadRequest(
            f"{files}: {exc}",
            code="tls_files",
            allowed="PEM files; a key belongs to its certificate and has no password",
        ) from exc
    return context


def unasked(given: Sequence[str], named: str) -> str:
    """Return why a URL that a node named is not asked; empty: it may be. Whoever speaks HTTPS to
    the nodes shows no token to one in the clear, because that node, or whoever answers for it, says
    so.
    """
    if named.startswith("https://") or not all(url.startswith("https://") for url in given):
        return ""
    return f"{named} is no HTTPS, as the URLs that were given are: not asked, to keep the token"
