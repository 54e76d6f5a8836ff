"""Certificates for tests, made by the test: whatever a subject says, and whenever it is valid."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from netspace.tls import Tls

OIDS = {
    "C": NameOID.COUNTRY_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "CN": NameOID.COMMON_NAME,
}
Subject = Sequence[tuple[str, str]]

NODE_1 = [("O", "netspace:nodes"), ("OU", "east"), ("CN", "node-1")]
NODE_2 = [("O", "netspace:nodes"), ("OU", "east"), ("CN", "node-2")]
WEST_1 = [("O", "netspace:nodes"), ("OU", "west"), ("CN", "node-1")]
CONTROLLER = [("O", "netspace:controllers"), ("OU", "east")]
ADMIN = [("O", "netspace:admins"), ("CN", "alice")]
SERVER = [("O", "netspace:servers"), ("CN", "s1")]


class Pki:
    """One authority and what it signs, as files in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.folder = folder
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.ca = folder / f"{name}.pem"
        self._made = 0
        now = datetime.now(UTC)
        builder = (
            self._builder(self.name, self.key, now - timedelta(days=1000), now + timedelta(days=9))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(False, False, False, False, False, True, True, False, False),
                critical=True,
            )
        )
        self.ca.write_bytes(
            builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )

    def make(
        self,
        subject: Subject,
        hosts: Sequence[str] = (),
        *,
        begin: float = -60,
        end: float = 3600,
        server: bool = False,
        client: bool = True,
        into: Tls | None = None,
    ) -> Tls:
        """Valid from `begin` to `end` seconds from now; `into` names files to be replaced."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        name = x509.Name([x509.NameAttribute(OIDS[part], value) for part, value in subject])
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH] * client
        uses += [ExtendedKeyUsageOID.SERVER_AUTH] * server
        builder = self._builder(
            name, key, now + timedelta(seconds=begin), now + timedelta(seconds=end)
        ).add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        if hosts:
            names = x509.SubjectAlternativeName([_host(host) for host in hosts])
            builder = builder.add_extension(names, critical=False)
        self._made += 1
        stem = self.folder / f"{self.ca.stem}-{self._made}"
        tls = into or Tls(self.ca, stem.with_suffix(".pem"), stem.with_suffix(".key"))
        pem = builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        _replace(tls.cert, pem)
        secret = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        _replace(tls.key, secret)
        return tls

    def server(
        self, hosts: Sequence[str] = ("127.0.0.1", "localhost"), into: Tls | None = None
    ) -> Tls:
        return self.make(SERVER, hosts, server=True, into=into)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, begin: datetime, end: datetime
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
        )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _replace(path: Path, data: bytes) -> None:
    passing = path.with_suffix(".new")
    passing.write_bytes(data)
    passing.replace(path)
