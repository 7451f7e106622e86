"""A certificate that servers of one machine show each other (mutual TLS): its holder is one of us."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from flows.stack.private import write_private

_YEARS = 10


def keep_certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate and its key in `folder`, made where they are missing.

    Returns:
        The paths of both, PEM. The certificate is its own authority.
    """
    certificate, key = folder / "grpc.crt", folder / "grpc.key"
    if not (certificate.exists() and key.exists()):
        certificate_pem, key_pem = _draw()
        write_private(key, key_pem)
        write_private(certificate, certificate_pem)
    return certificate, key


def _draw() -> tuple[bytes, bytes]:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, "jpu services")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=365 * _YEARS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
