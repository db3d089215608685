"""The certificates of a server and the keys of its clients.

A certificate authority (CA) of the federation's own vouches for the server: every node gets its
certificate, nobody its key. A client is known by a key pair on the curve P-384 in the files that
``ssh-keygen -t ecdsa -b 384`` makes, which Flower reads.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedkt.disk import writing
from fedkt.errors import ConfigError
from fedkt.text import foreign

CA, CA_KEY = "ca.crt", "ca.key"
SERVER, SERVER_KEY = "server.crt", "server.key"
KEYS = "keys"  # the folder of the clients' key pairs
LOOPBACK = ("localhost", "127.0.0.1")  # the proxy and Flower's own processes use them

_CA_DAYS = 3650
_EARLY = timedelta(days=1)  # clocks of nodes may be behind
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_CURVE = ec.SECP384R1

_Files = dict[Path, tuple[bytes, int]]  # content and permissions


@dataclass(frozen=True)
class Authority:
    """A certificate authority: its certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey


def hosts_of(text: str) -> tuple[str, ...]:
    """Return the hosts of a server from ``"a,b"``, and those of the loopback device.

    Raises
    ------
    ConfigError
        If one is neither a DNS name nor an IP address, or there is none.
    """
    given = [host.strip() for host in text.split(",") if host.strip()]
    if not given:
        raise ConfigError("hosts is empty; nodes reach the server by at least one name or address.")
    for host in given:
        if _address(host) is None and (not _HOST.fullmatch(host) or _only_digits(host)):
            raise ConfigError(
                f"hosts has {foreign(host)!r}; allowed are DNS names and IP addresses, as in "
                "fl.example.org,10.0.0.5, without a port."
            )
    return tuple(dict.fromkeys((*given, *LOOPBACK)))


def new_authority(days: int = _CA_DAYS) -> Authority:
    """Return a new certificate authority.

    Parameters
    ----------
    days : int
        Until its certificate ends.
    """
    key = ec.generate_private_key(_CURVE())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "fedkt federation CA")])
    builder = (
        _certificate(name, name, key.public_key(), key.public_key(), _now() + timedelta(days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
    )
    return Authority(builder.sign(key, hashes.SHA384()), key)


def read_authority(folder: Path) -> Authority:
    """Return the certificate authority whose files a folder holds.

    Raises
    ------
    ConfigError
        If a file is missing, cannot be read, or they do not belong together.
    """
    try:
        certificate = x509.load_pem_x509_certificate((folder / CA).read_bytes())
        key = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{error.filename} is missing; put the key of the CA back there while it is needed."
        ) from error
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"The CA in {folder} cannot be read: {foreign(error)}.") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != (
        certificate.public_key()
    ):
        raise ConfigError(f"{folder / CA_KEY} is not the key of {folder / CA}.")
    return Authority(certificate, key)


def end_of(authority: Authority, days: int) -> datetime:
    """Return when a certificate of so many days ends: no later than that of its authority.

    Raises
    ------
    ConfigError
        If that of the authority has ended.
    """
    last = authority.certificate.not_valid_after_utc
    if last <= _now():
        raise ConfigError(
            f"The certificate of the CA ended on {last:%Y-%m-%d}; make new ones in another folder "
            "(fedkt deploy certs), and give each node the new ca.crt."
        )
    return min(_now() + timedelta(days=days), last)


def server_files(folder: Path, authority: Authority, hosts: Sequence[str], days: int) -> _Files:
    """Return the files of a server's certificate and its key, for the given hosts."""
    key = ec.generate_private_key(_CURVE())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, hosts[0][:64])])
    alternatives = [
        x509.DNSName(host) if (address := _address(host)) is None else x509.IPAddress(address)
        for host in hosts
    ]
    issuer = authority.certificate.subject
    end = end_of(authority, days)
    builder = (
        _certificate(name, issuer, key.public_key(), authority.key.public_key(), end)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    certificate = builder.sign(authority.key, hashes.SHA384())
    return {
        folder / SERVER: (_pem(certificate), 0o644),
        folder / SERVER_KEY: (_pem_key(key), 0o600),
    }


def authority_files(folder: Path, authority: Authority) -> _Files:
    """Return the files of a certificate authority."""
    return {
        folder / CA: (_pem(authority.certificate), 0o644),
        folder / CA_KEY: (_pem_key(authority.key), 0o600),
    }


def key_files(private: Path, comment: str) -> tuple[_Files, str]:
    """Return the files of a new key pair (``NAME`` and ``NAME.pub``), and its fingerprint."""
    key = ec.generate_private_key(_CURVE())
    line = _ssh_line(key.public_key())
    files: _Files = {
        private: (
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            ),
            0o600,
        ),
        public_of(private): (line + f" {comment}\n".encode(), 0o644),
    }
    return files, fingerprint_of(line)


def public_of(private: Path) -> Path:
    """Return the place of the public half of a key pair."""
    return private.with_name(f"{private.name}.pub")


def write_new(files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Write files that do not exist yet; new folders may be entered by their owner alone.

    Raises
    ------
    ConfigError
        If one of them exists: then none is written.
    """
    for path in files:
        if path.exists():
            raise ConfigError(f"{path} exists and is not overwritten; move it away, or take a "
                              "folder without it.")  # fmt: skip
    for path, (content, mode) in files.items():
        with writing(path.parent):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with open(number, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(number)


def fingerprint_of(line: bytes) -> str:
    """Return the fingerprint of a public key in OpenSSH form, as ``ssh-keygen -lf`` prints it.

    Raises
    ------
    ConfigError
        If the line is no such key.
    """
    try:
        serialization.load_ssh_public_key(line)
        blob = base64.b64decode(line.split()[1], validate=True)
    except (ValueError, IndexError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"not a public key in OpenSSH form: {foreign(error)}") from error
    digest = base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
    return f"SHA256:{digest}"


def read_private_key(path: Path) -> tuple[ec.EllipticCurvePrivateKey, str]:
    """Return a client's private key, and its fingerprint.

    Raises
    ------
    ConfigError
        If it cannot be read, has a pass phrase, or is not on one of the curves that Flower takes.
    """
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except TypeError as error:
        raise ConfigError(f"{path} has a pass phrase, and Flower cannot ask for it.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(
            f"{path} is no private key in OpenSSH form: {foreign(error).rstrip('.')}."
        ) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is no elliptic-curve key; Flower takes those alone.")
    return key, fingerprint_of(_ssh_line(key.public_key()))


def fingerprint_of_bytes(public: bytes) -> str:
    """Return the fingerprint of a public key in the form in which a SuperLink keeps it (PEM)."""
    key = serialization.load_pem_public_key(public)
    line = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return fingerprint_of(line)


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    end: datetime,
) -> x509.CertificateBuilder:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _EARLY)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(identifier, critical=False)
    )


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


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _only_digits(host: str) -> bool:
    return host.replace(".", "").isdecimal()  # an address with a fault


def _now() -> datetime:
    return datetime.now(UTC)


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _pem_key(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _ssh_line(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
