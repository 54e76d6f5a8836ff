"""The node's certificates, one for each federation: made here, signed by its cluster's server.

The key is made on the node and never leaves it. What a certificate lacks is a pure function of it,
its authority, the node's addresses and the clock.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from federation.node.findings import Finding, finding
from netspace.disk import write_synced
from netspace.problems import Problem

logger = logging.getLogger(__name__)

ORGANIZATION: Final = "netspace:federation"
RENEWED_AT: Final = 2 / 3
"""Of a certificate's life is gone when the next one is asked for."""
SLACK: Final = timedelta(minutes=1)
"""By so much clocks may differ before it is said."""

Sign = Callable[[str, str], Awaitable[str]]
"""By federation and request (PEM) the certificate (PEM); raises `Problem`."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the node shows in one federation: PEM, its own certificate alone. `until`: its end."""

    key: str = field(repr=False)
    certificate: str
    until: datetime


def lacks(
    certificate: x509.Certificate | None,
    authority: x509.Certificate,
    addresses: Iterable[str],
    now: datetime,
) -> str:
    """Why another certificate is needed; empty where this one does."""
    if certificate is None:
        return "there is none"
    if not issued_by(certificate, authority):
        return "it is not the cluster's authority's"
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now >= end:
        return "it has expired"
    if now >= begin + (end - begin) * RENEWED_AT:
        return "it expires soon"
    if not {ip_address(text) for text in addresses} <= _addresses(certificate):
        return "the node has other addresses now"
    return ""


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def faults(
    federation: str,
    certificate: x509.Certificate | None,
    authority: x509.Certificate,
    now: datetime,
    why: str,
) -> list[Finding]:
    """What is wrong with the certificate as it stands; `why` another could not be had."""
    subject = f"certificate of federation {federation}"
    if certificate is None:
        return [finding("certificate", subject, f"there is none: {why}")]
    if not issued_by(certificate, authority):
        return [finding("certificate", subject, f"it is not the cluster's authority's: {why}")]
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now + SLACK < begin:
        text = f"it is valid from {begin:%Y-%m-%d %H:%M:%S} UTC on, and it is {now:%H:%M:%S} here"
        return [finding("clock", "clock", text)]
    if now >= end:
        text = f"it expired at {end:%Y-%m-%d %H:%M:%S} UTC"
        return [finding("certificate", subject, f"{text}: {why}" if why else text)]
    if why:
        text = f"it ends at {end:%Y-%m-%d %H:%M:%S} UTC, and no other can be had: {why}"
        return [finding("certificate", subject, text, "warning")]
    return []


class Certificates:
    """Keeps the certificates under `folder`, a folder for each federation. `now` is UTC."""

    def __init__(
        self,
        folder: Path,
        cluster: str,
        node: str,
        sign: Sign,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._folder, self._cluster, self._node = folder, cluster, node
        self._sign, self._now = sign, now
        self.credentials: dict[str, Credentials] = {}
        self.findings: list[Finding] = []

    async def keep(self, authorities: Mapping[str, str], addresses: tuple[str, ...]) -> bool:
        """Has a certificate in each of these federations, by the PEM of the cluster's authority in
        it, and none in others; whether any changed. What could not be done is in `findings`."""
        before, self.credentials, self.findings = self.credentials, {}, []
        for federation, pem in authorities.items():
            try:
                await self._one(federation, pem, addresses)
            except (OSError, ValueError) as error:
                subject = f"certificate of federation {federation}"
                self.findings.append(finding("certificate", subject, str(error)))
        for folder in sorted(self._folder.iterdir()) if self._folder.is_dir() else ():
            if folder.name not in authorities:
                # What an agent that was killed left half written is there too.
                shutil.rmtree(folder, ignore_errors=True)
        return self.credentials != before

    async def _one(self, federation: str, pem: str, addresses: tuple[str, ...]) -> None:
        folder = self._folder / federation
        authority = x509.load_pem_x509_certificate(pem.encode())
        key_file, cert_file = folder / "node.key", folder / "node.pem"
        certificate, why = _certificate(cert_file), ""
        key = _key(key_file)
        if key is None or (certificate is not None and not _fits(certificate, key)):
            certificate = None
        lack = lacks(certificate, authority, addresses, self._now())
        if lack:
            logger.info("a certificate is asked for", extra={"federation": federation, "why": lack})
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # A new key with each certificate; the old pair counts until the new one is there.
            fresh = ec.generate_private_key(ec.SECP256R1())
            try:
                told = await self._sign(federation, self._request(fresh, addresses))
                given = x509.load_pem_x509_certificate(told.encode())
                if not _fits(given, fresh):
                    raise ValueError("the server's answer is no certificate for the node's key")
                if not issued_by(given, authority):
                    raise ValueError("the server's answer is not of the cluster's authority")
            except Problem as problem:
                why = str(problem)
            except ValueError as error:
                why = str(error)
            else:
                write_synced(key_file, _pem_of(fresh))
                write_synced(cert_file, told.encode())
                key, certificate = fresh, given
        self.findings += faults(federation, certificate, authority, self._now(), why)
        if certificate is not None and key is not None:
            pem = certificate.public_bytes(Encoding.PEM).decode()
            until = certificate.not_valid_after_utc
            self.credentials[federation] = Credentials(_pem_of(key).decode(), pem, until)

    def _request(self, key: ec.EllipticCurvePrivateKey, addresses: tuple[str, ...]) -> str:
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATION),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, self._cluster),
                x509.NameAttribute(NameOID.COMMON_NAME, self._node),
            ]
        )
        names: list[x509.GeneralName] = [x509.DNSName(self._node)]
        names += [x509.IPAddress(ip_address(text)) for text in addresses]
        made = x509.CertificateSigningRequestBuilder().subject_name(subject)
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def _fits(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> bool:
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return certificate.public_key().public_bytes(*form) == key.public_key().public_bytes(*form)


def _addresses(certificate: x509.Certificate) -> set[object]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return set(names.get_values_for_type(x509.IPAddress))


def _certificate(path: Path) -> x509.Certificate | None:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None


def _key(path: Path) -> ec.EllipticCurvePrivateKey | None:
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return None
    return key if isinstance(key, ec.EllipticCurvePrivateKey) else None


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
