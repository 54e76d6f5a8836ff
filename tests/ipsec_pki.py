"""A federation's authorities for tests: root, members' authorities, nodes' certificates, as PEM."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

_O, _OU, _CN = (
    NameOID.ORGANIZATION_NAME,
    NameOID.ORGANIZATIONAL_UNIT_NAME,
    NameOID.COMMON_NAME,
)


class FederationPki:
    """`root` and `members`: PEM certificates."""

    def __init__(self, *clusters: str) -> None:
        self._root_key = ec.generate_private_key(ec.SECP256R1())
        self._root_name = x509.Name([x509.NameAttribute(_CN, "federation one")])
        root = _sign(self._root_name, self._root_key, self._root_name, self._root_key, path=1)
        self.root = _pem(root)
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self._names: dict[str, x509.Name] = {}
        self.members: dict[str, str] = {}
        for cluster in clusters:
            key = ec.generate_private_key(ec.SECP256R1())
            name = x509.Name([x509.NameAttribute(_CN, cluster)])
            self._keys[cluster], self._names[cluster] = key, name
            made = _sign(name, key, self._root_name, self._root_key, path=0)
            self.members[cluster] = _pem(made)

    def node(
        self, cluster: str, node: str, address: str, signer: str = "", days: float = 30
    ) -> tuple[str, str]:
        """A node's key and certificate; `signer`: another cluster whose authority signs it."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = ((_O, "netspace:federation"), (_OU, cluster), (_CN, node))
        name = x509.Name([x509.NameAttribute(kind, value) for kind, value in parts])
        signer = signer or cluster
        names = (x509.DNSName(node), x509.IPAddress(ip_address(address)))
        made = _sign(name, key, self._names[signer], self._keys[signer], names=names, days=days)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        return secret, _pem(made)


def _sign(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    signer: ec.EllipticCurvePrivateKey,
    *,
    path: int | None = None,
    names: tuple[x509.GeneralName, ...] = (),
    days: float = 30,
) -> x509.Certificate:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=60))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(path is not None, path), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(signer, hashes.SHA256())


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()
