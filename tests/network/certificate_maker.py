"""A certificate authority, certificates of servers and keys of nodes, for one test run."""

from __future__ import annotations

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

NAMES = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]


def make_certificates(folder: Path) -> Path:
    """Write ``ca.crt``, ``server.crt`` and ``server.key`` for this machine; return the folder."""
    folder.mkdir(parents=True)
    authority, server = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    root = _named("test authority")
    ca = _builder(root, root, authority).add_extension(x509.BasicConstraints(True, None), True)
    crt = _builder(_named("localhost"), root, server).add_extension(
        x509.SubjectAlternativeName(NAMES), False
    )
    for name, certificate in (("ca", ca), ("server", crt)):
        signed = certificate.sign(authority, hashes.SHA256())
        (folder / f"{name}.crt").write_bytes(signed.public_bytes(Encoding.PEM))
    private = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    (folder / "server.key").write_bytes(server.private_bytes(*private))
    return folder


def make_key(path: Path) -> Path:
    """Write the key of a node, and its public half beside it (``.pub``); return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP384R1())
    private = Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    path.write_bytes(key.private_bytes(*private))
    path.chmod(0o600)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_suffix(".pub").write_bytes(public + b" test\n")
    return path


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
    )
