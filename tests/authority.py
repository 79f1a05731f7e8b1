"""Certificates for tests: an authority that signs for any name, and who believes it."""

import ssl
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@dataclass
class Authority:
    """Writes what it signs into a folder."""

    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=_key)

    def certificate(self, name: str, valid_s: float = 3600.0) -> Path:
        """A file with a key and a certificate for a server of this name."""
        own, file = _key(), self.folder / f"{name}.pem"
        secret = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(secret + self._signed(name, own, valid_s).public_bytes(Encoding.PEM))
        return file

    def believed(self) -> ssl.SSLContext:
        """What believes this authority and no other."""
        root = self._signed("authority", self.key, 3600.0).public_bytes(Encoding.PEM)
        return ssl.create_default_context(cadata=root.decode())

    def _signed(self, name: str, key: ec.EllipticCurvePrivateKey, valid_s: float) -> x509.Certificate:
        now = datetime.now(UTC)
        issuer, subject = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("authority", name)
        )
        return (
            x509.CertificateBuilder(issuer, subject, key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=2))
            .not_valid_after(now + timedelta(seconds=valid_s))
            .add_extension(x509.BasicConstraints(ca=name == "authority", path_length=None), True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), False)
            .sign(self.key, SHA256())
        )
