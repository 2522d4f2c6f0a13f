"""Configure how members prove their identity to each other: by certificates, a shared secret, or
not at all, which is allowed on loopback only.

It never creates a key or a certificate, and never binds a socket.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias

import msgspec

from coordinator.raft.net.hello import Mode, key_of_secret
from kv.addresses import host_of, is_loopback
from kv.errors import BadRequest

SECRETS_MAX: Final = 4
"""Lines of a file of secrets."""


class Open(msgspec.Struct, frozen=True):
    """No proof at all: every peer that reaches the port is believed. For loopback only."""


class SharedSecret(msgspec.Struct, frozen=True):
    """One secret that all members know. It proves that a peer is a member, but not which one."""

    secret: bytes
    also: tuple[bytes, ...] = ()
    """Further secrets that a peer may have, while the members change from one to another."""

    def __repr__(self) -> str:
        return "SharedSecret(…)"


class Certificates(msgspec.Struct, frozen=True):
    """Mutual TLS with PEM files at these paths. Every member has a certificate that names its id
    and is signed by `ca`.
    """

    cert: str
    key: str
    ca: str


Security: TypeAlias = Open | SharedSecret | Certificates


class Credentials(NamedTuple):
    """The loaded and checked means by which a transport proves its identity."""

    mode: Mode
    key: bytes = b""
    """The key in mode SECRET; otherwise empty."""
    also: tuple[bytes, ...] = ()
    """Further keys that a listener may prove itself with."""
    listener_tls: ssl.SSLContext | None = None
    dialer_tls: ssl.SSLContext | None = None
    """The TLS contexts in mode CERTIFICATE; otherwise None."""

    def accepts(self, key: bytes) -> bool:
        """Say whether a connection may rest on this key."""
        return key == self.key or key in self.also


def credentials_of(security: Security, address: str) -> Credentials:
    """Load the credentials of a member that listens at `address`.

    Raises BadRequest if the secret or the certificates cannot be used, or if there are none and the
    address is not a loopback address.
    """
    match security:
        case Open():
            if not is_loopback(split_address(address)[0]):
                raise BadRequest(
                    "raft_unprotected",
                    f"Raft would listen on {address} with nothing that proves who connects",
                    allowed="a shared secret, certificates, or a loopback address",
                )
            return Credentials(Mode.OPEN)
        case SharedSecret(secret, also):
            where = "the members' secret"
            return Credentials(
                Mode.SECRET,
                check_secret(secret, where),
                tuple(check_secret(each, where) for each in also),
            )
        case Certificates():
            return Credentials(Mode.CERTIFICATE, b"", (), *tls_contexts(security))


def read_secret(path: Path) -> SharedSecret:
    """Read the secrets from their file, one a line: we prove ourselves by the first, and a peer by
    any of them. Raises BadRequest if the file is missing, readable by other users, or has a line
    that is too short.

    The whole text is accepted too: version 0.2.0 took several lines for one secret.
    """
    try:
        readable = path.stat().st_mode & 0o077
        secret = path.read_bytes().strip()
    except OSError as exc:
        raise BadRequest("secret_unreadable", f"{path}: {exc.strerror}") from exc
    if readable:
        raise BadRequest("secret_exposed", f"{path} can be read by others", allowed="mode 0600")
    lines = [line.strip() for line in secret.split(b"\n")]
    if len(lines) > SECRETS_MAX:
        raise BadRequest("secret_too_long", f"{path} has {len(lines)} lines", allowed="up to 4")
    for line in lines:
        check_secret(line, str(path))
    also = [*lines[1:], *([secret] if len(lines) > 1 else [])]
    return SharedSecret(lines[0], tuple(also))


def check_secret(secret: bytes, where: str) -> bytes:
    """Return the key that is derived from a secret. Raises BadRequest if it is too short."""
    try:
        return key_of_secret(secret)
    except ValueError as exc:
        raise BadRequest("secret_too_short", f"{where}: {exc}") from exc


def tls_contexts(files: Certificates) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts for listening and for dialling; both require the peer's certificate.
    Raises BadRequest if a file cannot be used.
    """
    try:
        listener = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        dialer = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for context in (listener, dialer):
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            # We compare the name in the certificate with the member's id ourselves, without
            # wildcards, because ids need not be host names.
            context.check_hostname = False
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_cert_chain(files.cert, files.key)
            context.load_verify_locations(files.ca)
    except (OSError, ssl.SSLError) as exc:
        raise BadRequest(
            "certificates_unusable", f"{files.cert}, {files.key}, {files.ca}: {exc}"
        ) from exc
    return listener, dialer


def certified_names(certificate: dict[str, object] | None) -> frozenset[str]:
    """Return the names in a verified certificate: the subject alternative names, or the common name
    if there are none.
    """
    if not certificate:
        return frozenset()
    alternative = certificate.get("subjectAltName", ())
    assert isinstance(alternative, tuple)
    names = frozenset(value for kind, value in alternative if kind in ("DNS", "URI", "IP Address"))
    if names:
        return names
    subject = certificate.get("subject", ())
    assert isinstance(subject, tuple)
    return frozenset(value for part in subject for kind, value in part if kind == "commonName")


def split_address(address: str) -> tuple[str, int]:
    """Split "host:port" or "[v6]:port" into host and port. Raises BadRequest."""
    host, port = host_of(address), address.rpartition(":")[2]
    if not host or not port.isdecimal() or int(port) > 65535:
        raise BadRequest("address_unusable", f"{address!r} is no address", allowed="host:port")
    return host, int(port)
