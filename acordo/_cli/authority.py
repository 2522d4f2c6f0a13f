"""Make an authority and certificates in a directory. It never overwrites a file unless it is told
to, and never shows a key.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import re
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from acordo._errors import BadRequest

CA: Final = "ca"
"""Stem of the authority's own files."""
DAYS_CA: Final = 3650
DAYS: Final = 825
BACKDATED: Final = datetime.timedelta(hours=1)
"""By how much a certificate begins before it is made: clocks of other machines may be behind."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Shown(NamedTuple):
    """What a certificate says."""

    file: str
    subject: str
    names: tuple[str, ...]
    issuer: str
    ends: datetime.datetime
    fingerprint: str


def make_authority(directory: Path, name: str, days: int) -> Path:
    """Make an authority's key and certificate; return the certificate's file. Raises BadRequest if
    there is one, OSError.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_existing(directory, CA)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        _begun(subject, subject, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_pair(directory, CA, key, made)
    return directory / f"{CA}.pem"


def issue(
    directory: Path, name: str, hosts: Sequence[str], days: int, *, client: bool, replace: bool
) -> Path:
    """Make a key and a certificate for `name` and `hosts`; return the certificate's file.

    `client`: it proves a client, and cannot serve. `replace`: existing files are replaced, the key
    first. Raises BadRequest for a wrong name, files that exist, or an authority that is missing or
    ends earlier; OSError.
    """
    if not _NAME.fullmatch(name) or name == CA:
        raise BadRequest(
            f"{name!r} is no name of a certificate",
            code="bad_name",
            allowed=f"1 to 64 letters, digits and . _ -, a letter or digit first, and not {CA}",
        )
    if not replace:
        _refuse_existing(directory, name)
    key_of_ca, ca = _authority(directory)
    key = ec.generate_private_key(ec.SECP256R1())
    begun = _begun(
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        ca.subject,
        key.public_key(),
        days,
    )
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    if ends > ca.not_valid_after_utc:
        raise BadRequest(
            f"the authority ends on {ca.not_valid_after_utc:%Y-%m-%d}, before the certificate",
            code="bad_days",
            allowed="fewer days, or a new authority",
        )
    purposes = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if not client:
        purposes.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    made = (
        begun.add_extension(
            x509.SubjectAlternativeName([_general(each) for each in dict.fromkeys((name, *hosts))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(key_of_ca.public_key()),
            critical=False,
        )
        .sign(key_of_ca, hashes.SHA256())
    )
    _write_pair(directory, name, key, made)
    return directory / f"{name}.pem"


def shown(file: Path) -> list[Shown]:
    """Return what each certificate in a PEM file says. Raises BadRequest, OSError."""
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except ValueError as exc:
        raise BadRequest(
            f"{file} holds no certificate: {exc}", code="bad_file", allowed="a PEM file"
        ) from exc
    return [
        Shown(
            str(file),
            each.subject.rfc4514_string(),
            _names(each),
            each.issuer.rfc4514_string(),
            each.not_valid_after_utc,
            each.fingerprint(hashes.SHA256()).hex(),
        )
        for each in found
    ]


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATED)
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general(host: str) -> x509.GeneralName:
    """Return a name as certificates carry it. Raises BadRequest."""
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(host))
    try:
        return x509.DNSName(host)
    except ValueError as exc:
        raise BadRequest(
            f"{host!r} is no name of a host", code="bad_name", allowed="a DNS name or an address"
        ) from exc


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(each.value) for each in found.value)


def _authority(directory: Path) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    try:
        key = serialization.load_pem_private_key((directory / f"{CA}.key").read_bytes(), None)
        ca = x509.load_pem_x509_certificate((directory / f"{CA}.pem").read_bytes())
    except FileNotFoundError as exc:
        raise BadRequest(
            f"{exc.filename} is not there",
            code="no_authority",
            allowed=f"a directory in which `acordo cert init {directory}` made an authority",
        ) from exc
    except (ValueError, TypeError) as exc:
        raise BadRequest(f"{directory}: {exc}", code="bad_file", allowed="PEM files") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or ca.public_key() != key.public_key():
        raise BadRequest(
            f"{CA}.key and {CA}.pem in {directory} do not belong together", code="bad_file"
        )
    return key, ca


def _refuse_existing(directory: Path, stem: str) -> None:
    for file in (directory / f"{stem}.key", directory / f"{stem}.pem"):
        if file.exists():
            raise BadRequest(
                f"{file} is there already", code="exists", allowed="another name or directory"
            )


def _write_pair(
    directory: Path, stem: str, key: ec.EllipticCurvePrivateKey, made: x509.Certificate
) -> None:
    """Write the key, which only this user may read, then the certificate: each appears whole."""
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write(directory / f"{stem}.key", private, 0o600)
    _write(directory / f"{stem}.pem", made.public_bytes(serialization.Encoding.PEM), 0o644)


def _write(file: Path, content: bytes, mode: int) -> None:
    number, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(number, "wb") as out:
            out.write(content)
            out.flush()
            os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
