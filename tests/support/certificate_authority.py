"""A certificate authority for tests, and a server certificate signed by it: `own_authority`; or by itself."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


def own_authority(folder: Path, *names: str, expired: bool = False) -> tuple[ssl.SSLContext, Path]:
    """Return a server's TLS context for these names, and the root certificate's file."""
    root_key, root = _certificate(f"i2v test authority {folder.name}", None, None, [])
    key, leaf = _certificate(names[0], root_key, root, list(names), expired=expired)
    (folder / "root.pem").write_bytes(root.public_bytes(serialization.Encoding.PEM))
    return _server_context(folder, key, leaf), folder / "root.pem"


def self_signed(folder: Path, *names: str) -> ssl.SSLContext:
    """Return the TLS context of a server whose certificate no authority signed."""
    return _server_context(folder, *_certificate(names[0], None, None, list(names)))


def _server_context(folder: Path, key: ec.EllipticCurvePrivateKey, leaf: x509.Certificate) -> ssl.SSLContext:
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    (folder / "leaf.pem").write_bytes(
        leaf.public_bytes(pem) + key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "leaf.pem")
    return context


def _certificate(
    subject: str,
    signer: ec.EllipticCurvePrivateKey | None,
    issuer: x509.Certificate | None,
    names: list[str],
    *,
    expired: bool = False,
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=0 if expired else 1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(text) for text in names]), critical=False)
    return key, builder.sign(signer or key, hashes.SHA256())


def _general(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
