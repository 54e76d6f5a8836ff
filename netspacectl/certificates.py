"""Certificates for those who have no authority of their own: EC P-256, made by `cryptography`.

Who a certificate is for stands in its subject, as `netspace.callers` reads it. Nothing here is
remembered but in the files that are written.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from netspace.problems import Problem, invalid

EARLIER: Final = timedelta(minutes=5)
"""How long a certificate is valid already, since other machines' clocks differ."""

LONGEST_NAME: Final = 64
"""Characters of a part of a subject (RFC 5280, appendix A.1, ub-common-name)."""

_PARTS: Final = {
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def pem(self) -> tuple[bytes, bytes]:
        """Certificate and key (PKCS 8, without a password) as files hold them."""
        return (
            self.certificate.public_bytes(serialization.Encoding.PEM),
            self.key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            ),
        )


def authority(name: str, days: int) -> Pair:
    """A new authority, which signs certificates and no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name({"CN": name})
    builder = _begun(subject, subject, key).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True
    )
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return Pair(builder.not_valid_after(_end(days)).sign(key, hashes.SHA256()), key)


def issue(
    ca: Pair, subject: dict[str, str], days: int, *, hosts: Sequence[str] = (), server: bool = False
) -> Pair:
    """A certificate of the authority. `subject` has O, OU and CN; `hosts` are the names and
    addresses of a server, which is a client of other servers as well. It ends with the authority
    at the latest."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _begun(_name(subject), ca.certificate.subject, key)
    uses = [ExtendedKeyUsageOID.CLIENT_AUTH]
    if server:
        uses.insert(0, ExtendedKeyUsageOID.SERVER_AUTH)
    builder = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key()), critical=False
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, critical=False)
    end = min(_end(days), ca.certificate.not_valid_after_utc)
    return Pair(builder.not_valid_after(end).sign(ca.key, hashes.SHA256()), key)


def read_authority(cert: Path, key: Path) -> Pair:
    """The authority in the files; `Problem` where it cannot be used."""
    try:
        certificate = x509.load_pem_x509_certificate(cert.read_bytes())
        found = serialization.load_pem_private_key(key.read_bytes(), None)
    except OSError as error:
        raise Problem(
            "not-found",
            f"there is no authority: {error.filename}: {error.strerror}",
            do="make one with 'netspacectl certs ca', or name its folder with --ca-dir",
        ) from None
    except (ValueError, TypeError) as error:
        raise invalid(f"the authority in {cert} and {key}", error) from None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise invalid(f"{key}", "it is no EC key")
    if found.public_key() != certificate.public_key():
        raise invalid(f"{cert}", f"it is not the certificate of {key}")
    return Pair(certificate, found)


def write_pair(pair: Pair, cert: Path, key: Path, *, force: bool) -> None:
    """Writes the files, the key readable by its owner alone, each whole or not at all. What is
    there already stays: `Problem` exists, unless `force`."""
    there = [path for path in (cert, key) if path.exists() or path.is_symlink()]
    if there and not force:
        raise Problem(
            "exists",
            f"there is a {' and a '.join(map(str, there))} already, and nothing was written",
            do="take another folder with --dir, or replace it with --force",
        )
    certificate, secret = pair.pem()
    try:
        cert.parent.mkdir(parents=True, exist_ok=True)
        _write(key, secret, 0o600, force=force)
        _write(cert, certificate, 0o644, force=force)
    except FileExistsError:
        raise Problem("exists", f"{cert} or {key} was made meanwhile") from None


def _write(path: Path, data: bytes, mode: int, *, force: bool) -> None:
    passing = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    descriptor = os.open(passing, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if force:
            passing.replace(path)
        else:
            path.hardlink_to(passing)
    finally:
        with contextlib.suppress(FileNotFoundError):
            passing.unlink()


def _end(days: int) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - EARLIER)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(parts: dict[str, str]) -> x509.Name:
    for part, value in parts.items():
        if len(value) > LONGEST_NAME:
            raise invalid(
                f"{part}={value[:80]}",
                f"it has {len(value)} characters, and a certificate takes {LONGEST_NAME}",
            )
    return x509.Name([x509.NameAttribute(_PARTS[part], value) for part, value in parts.items()])


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
