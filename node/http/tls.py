"""Serve HTTPS: the certificate that a node shows, and the names in the certificates that clients
show.

A new context takes the place of the old one for later handshakes; a connection keeps the one that
it began with. It never decides what a client may do.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kv.errors import BadRequest


class TlsFiles(NamedTuple):
    """The PEM files of a node's HTTPS."""

    cert: Path
    """Its certificate, and those between it and the authority."""
    key: Path
    client_ca: Path | None = None
    """Who signs the certificates of clients; None: no client is asked for one."""
    clients_must: bool = True
    """Whether a client without a certificate is refused."""


class HttpTls:
    """What a node's HTTPS is made of, as its files were when they were last usable."""

    def __init__(self, files: TlsFiles) -> None:
        """Read the files. Raises BadRequest("certificates_unusable")."""
        self.files = files
        self.context = context_of(files)
        """The context of new connections."""

    def renew(self) -> None:
        """Read the files again. Raises BadRequest, and keeps what it has, if they cannot be
        used.
        """
        self.context = context_of(self.files)


def context_of(files: TlsFiles) -> ssl.SSLContext:
    """Return a server's context. Raises BadRequest("certificates_unusable") for files that are
    missing, not PEM, or do not belong together.
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # Without a password OpenSSL would ask for one on the terminal, and wait.
        context.load_cert_chain(files.cert, files.key, password=lambda: "")
        if files.client_ca is not None:
            context.load_verify_locations(files.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED if files.clients_must else ssl.CERT_OPTIONAL
    except (OSError, ValueError) as exc:  # an SSLError is an OSError
        given = ", ".join(str(file) for file in files[:3] if file is not None)
        raise BadRequest(
            "certificates_unusable",
            f"{given}: {exc}",
            allowed="PEM files; the key belongs to the certificate and has no password",
        ) from exc
    return context


def certificate_names(transport: asyncio.BaseTransport | None) -> tuple[str, ...]:
    """Return the names in the certificate that a client has proved to have: its common name, then
    its DNS names; empty: it showed none.
    """
    found = None if transport is None else transport.get_extra_info("peercert")
    return tuple(dict.fromkeys(_names(found))) if found else ()


def _names(certificate: dict[str, tuple[tuple[object, ...], ...]]) -> Iterator[str]:
    for part in certificate.get("subject", ()):
        for each in part:
            if isinstance(each, tuple) and each[0] == "commonName":
                yield str(each[1])
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "DNS":
            yield str(value)
