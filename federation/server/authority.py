"""The federation's certificates: EC P-256, made and signed by `cryptography`; nothing is kept here.

root            O=netspace:federation, CN=FEDERATION; the founder's
authority       O=netspace:federation, OU=FEDERATION, CN=CLUSTER; each member's own, signed by root
server, node    O=netspace:federation, OU=CLUSTER, CN=its name; signed by their cluster's authority

A server's certificate names the federation, as which it is asked for. A node's is for IKE alone: it
opens no TLS connection.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from netspace.callers import ORGANIZATIONS
from netspace.problems import Problem, invalid

EARLIER: Final = timedelta(hours=1)
"""How long a certificate is valid already, since other machines' clocks differ."""

LIFE: Final = timedelta(days=20 * 365)
"""Of authorities."""

IKE: Final = ObjectIdentifier("1.3.6.1.5.5.7.3.17")
"""id-kp-ipsecIKE (RFC 4945, section 5.1.3.12)."""

LONGEST: Final = 64
"""Characters of a common name (RFC 5280, ub-common-name); alternative names have all of it."""

MOST_ADDRESSES: Final = 32

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Signed:
    """A certificate as PEM; it ends at `expires` and is to be renewed from `renew` on, Unix
    seconds."""

    pem: str
    expires: int
    renew: int


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def read_key(pem: bytes, what: str) -> Key:
    """`Problem` invalid for what is no key of ours."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError) as error:
        raise invalid(what, error) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise invalid(what, "it is no EC key")
    return key


def read_certificate(pem: str, what: str) -> x509.Certificate:
    """`Problem` invalid for what is none."""
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise invalid(what, f"it is no certificate: {error}") from None


def fingerprint(pem: str) -> str:
    """SHA-256 of a certificate in hexadecimal."""
    return hashlib.sha256(
        read_certificate(pem, "certificate").public_bytes(serialization.Encoding.DER)
    ).hexdigest()


def request(key: Key, name: str) -> str:
    """A request for a certificate (PEM); who it is for is for the signer to say."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:LONGEST])])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def public_of(csr: str) -> str:
    """What tells the key of a request from others: SHA-256 in hexadecimal."""
    return hashlib.sha256(
        _requested(csr)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    ).hexdigest()


def make_root(key: Key, federation: str) -> str:
    subject = _name(None, federation)
    builder = _begun(subject, subject, key.public_key()).add_extension(
        x509.BasicConstraints(ca=True, path_length=1), critical=True
    )
    return _finished(builder, key, LIFE, signs=True).pem


def sign_authority(root: str, key: Key, csr: str, federation: str, cluster: str) -> str:
    """A member's authority."""
    issuer = read_certificate(root, "root")
    builder = _begun(
        _name(federation, cluster), issuer.subject, _requested(csr).public_key()
    ).add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    life = issuer.not_valid_after_utc - datetime.now(UTC)
    return _finished(_issued(builder, key), key, life, signs=True).pem


def sign_server(
    authority: str, key: Key, csr: str, federation: str, name: str, life: timedelta
) -> Signed:
    uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return _leaf(authority, key, csr, name, [x509.DNSName(federation)], uses, life)


def sign_node(authority: str, key: Key, csr: str, name: str, life: timedelta) -> Signed:
    """For the node alone: of what it asks for, its addresses are taken over. `Problem` forbidden
    for another's name."""
    asked = _requested(csr)
    named = asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names: list[x509.GeneralName] = [x509.DNSName(name)]
    foreign = [str(each.value) for each in named if each.value != name[:LONGEST]]
    try:
        more = asked.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        more = x509.SubjectAlternativeName([])
    for each in more:
        if isinstance(each, x509.IPAddress) and len(names) <= MOST_ADDRESSES:
            names.append(x509.IPAddress(ip_address(str(each.value))))
        elif each != names[0]:
            foreign.append(str(each.value))
    if foreign:
        raise Problem(
            "forbidden",
            f"node {name} asks for a certificate of {foreign[0][:100]}",
            do="ask for its own name and addresses",
        )
    return _leaf(authority, key, csr, name, names, [IKE], life)


def why_not_genuine(authority: str, root: str, federation: str, cluster: str) -> str:
    """Why a member's authority is none of the federation's; empty where it is."""
    try:
        own, above = read_certificate(authority, "authority"), read_certificate(root, "root")
        own.verify_directly_issued_by(above)
        path = own.extensions.get_extension_for_class(x509.BasicConstraints).value
    except (Problem, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        return f"the authority of cluster {cluster} is not signed by the federation's root: {error}"
    if own.subject != _name(federation, cluster) or not path.ca or path.path_length != 0:
        return f"the authority of cluster {cluster} is made out to {own.subject.rfc4514_string()}"
    return ""


def is_of(pem: str, key: Key) -> bool:
    """Whether the certificate is of this key."""
    return read_certificate(pem, "certificate").public_key() == key.public_key()


def span(pem: str) -> Signed:
    """A certificate that is there, with its times."""
    certificate = read_certificate(pem, "certificate")
    return _signed(certificate, pem)


def _leaf(
    authority: str,
    key: Key,
    csr: str,
    name: str,
    names: list[x509.GeneralName],
    uses: list[ObjectIdentifier],
    life: timedelta,
) -> Signed:
    issuer = read_certificate(authority, "authority")
    cluster = issuer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value
    builder = (
        _begun(_name(str(cluster), name[:LONGEST]), issuer.subject, _requested(csr).public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
    )
    return _finished(_issued(builder, key), key, life, signs=False)


def _requested(csr: str) -> x509.CertificateSigningRequest:
    try:
        asked = x509.load_pem_x509_csr(csr.encode())
    except ValueError as error:
        raise invalid("csr", f"it is no request for a certificate: {error}") from None
    key = asked.public_key()
    good = isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) or (
        isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048
    )
    if not asked.is_signature_valid or not good:
        raise invalid("csr", "its key is none of EC, Ed25519 or RSA from 2048 bits, or not its own")
    return asked


def _name(unit: str | None, common: str) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, ORGANIZATIONS["member"])]
    if unit is not None:
        parts.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _begun(
    subject: x509.Name, issuer: x509.Name, public: CertificatePublicKeyTypes
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - EARLIER)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _issued(builder: x509.CertificateBuilder, key: Key) -> x509.CertificateBuilder:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False)


def _finished(
    builder: x509.CertificateBuilder, key: Key, life: timedelta, *, signs: bool
) -> Signed:
    usage = x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
    builder = builder.add_extension(usage, critical=True)
    made = builder.not_valid_after(datetime.now(UTC) + life).sign(key, hashes.SHA256())
    return _signed(made, made.public_bytes(serialization.Encoding.PEM).decode())


def _signed(certificate: x509.Certificate, pem: str) -> Signed:
    begin = certificate.not_valid_before_utc + EARLIER
    end = certificate.not_valid_after_utc
    return Signed(pem, int(end.timestamp()), int((begin + (end - begin) * 2 / 3).timestamp()))
