"""Certificates for local servers: an authority of one's own, made anew each time, and what it vouches for."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_VALID = timedelta(days=1)


@dataclass(frozen=True)
class ServerCertificate:
    """Files that a server takes: its certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class Authority:
    """An authority; ``certificate`` is what clients pin."""

    folder: Path
    certificate: Path
    _issuer: x509.Name = field(repr=False)
    _key: ec.EllipticCurvePrivateKey = field(repr=False)

    def issue(self, *names: str) -> ServerCertificate:
        """A certificate for these host names and addresses, in the authority's folder."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(names[0]), self._issuer, key)
            .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        issued = ServerCertificate(self.folder / f"{names[0]}.crt", self.folder / f"{names[0]}.key")
        issued.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        issued.key.touch(mode=0o600)
        issued.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return issued


def new_authority(folder: Path) -> Authority:
    """An authority that nobody else knows, with its certificate in ``folder``; its key is never written."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = _name("runway local authority")
    certificate = (
        _builder(issuer, issuer, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_MAY_SIGN, critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "authority.crt"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(folder, path, issuer, key)


_MAY_SIGN = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _VALID)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
