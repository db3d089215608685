"""Certificates and keys: what TLS, Flower and OpenSSH make of them; nothing is overwritten."""

from __future__ import annotations

import shutil
import socket
import ssl
import stat
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from fedkt.deploy.certificates import (
    Authority,
    authority_files,
    fingerprint_of,
    hosts_of,
    new_authority,
    read_authority,
    read_private_key,
    server_files,
)
from fedkt.deploy.client_list import read_clients
from fedkt.deploy.credentials import add, clients_of, make, renew
from fedkt.errors import ConfigError

from .tls_server import tls_server

HOSTS = ("fl.example.org", "10.0.0.5", "localhost", "127.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "certs", HOSTS, ("north", "south"), 365)
    return tmp_path / "certs"


def handshake(port: int, ca: Path, host: str) -> dict[str, object]:
    context = ssl.create_default_context(cafile=str(ca))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # Python 3.13's default
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        return secure.getpeercert() or {}


@pytest.mark.parametrize("host", HOSTS)
def test_tls_takes_the_server_for_each_of_its_hosts(folder: Path, host: str) -> None:
    with tls_server(folder / "server.crt", folder / "server.key") as port:
        seen = handshake(port, folder / "ca.crt", host)
    assert ("DNS" if host[0].isalpha() else "IP Address", host) in seen["subjectAltName"]


def test_tls_refuses_another_host_and_another_authority(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "others", HOSTS, ("north",), 365)
    with tls_server(folder / "server.crt", folder / "server.key") as port:
        with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
            handshake(port, folder / "ca.crt", "other.example.org")
        with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
            handshake(port, tmp_path / "others" / "ca.crt", "localhost")


def test_private_files_are_their_owners_alone(folder: Path) -> None:
    modes = {
        path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode)
        for path in [folder, *folder.rglob("*")]
    }
    for private in ("ca.key", "server.key", "keys/north", "keys/south"):
        assert modes[private] == 0o600
    assert modes["."] == modes["keys"] == 0o700


def test_a_fingerprint_is_the_one_that_ssh_keygen_prints(folder: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    line = ["ssh-keygen", "-lf", str(folder / "keys" / "north.pub")]
    done = subprocess.run(line, capture_output=True, encoding="utf-8", check=True)
    client = read_clients(folder / "clients.toml")[0]
    assert done.stdout.split() == ["384", client.key, "north", "(ECDSA)"]
    again = ["ssh-keygen", "-y", "-f", str(folder / "keys" / "north")]
    done = subprocess.run(again, capture_output=True, encoding="utf-8", check=True)
    assert fingerprint_of(done.stdout.encode()) == client.key
    assert read_private_key(folder / "keys" / "north")[1] == client.key


def test_keys_of_ssh_keygen_are_read_if_flower_takes_them(tmp_path: Path) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed")
    for name, options in {
        "good": ["-t", "ecdsa", "-b", "384", "-N", ""],
        "phrase": ["-t", "ecdsa", "-b", "384", "-N", "secret"],
        "other": ["-t", "ed25519", "-N", ""],
    }.items():
        subprocess.run(["ssh-keygen", "-q", "-f", str(tmp_path / name), *options], check=True)
    assert read_private_key(tmp_path / "good")[0].curve.name == "secp384r1"
    with pytest.raises(ConfigError, match=r"phrase has a pass phrase, and Flower cannot ask"):
        read_private_key(tmp_path / "phrase")
    with pytest.raises(ConfigError, match=r"other is no elliptic-curve key"):
        read_private_key(tmp_path / "other")
    with pytest.raises(ConfigError, match=r"good\.pub is no private key in OpenSSH form"):
        read_private_key(tmp_path / "good.pub")


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match=r"clients\.toml has clients already and is not overw"):
        make(folder, HOSTS, ("north",), 365)
    (folder / "clients.toml").unlink()
    with pytest.raises(ConfigError, match=r"ca\.crt exists and is not overwritten; move it away"):
        make(folder, HOSTS, ("north",), 365)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert after == {p: b for p, b in before.items() if p.name != "clients.toml"}
    half = tmp_path / "half"
    (half / "keys").mkdir(parents=True)
    (half / "keys" / "north.pub").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"keys/north\.pub exists"):
        make(half, HOSTS, ("north",), 365)
    assert [p.name for p in half.rglob("*") if p.is_file()] == ["north.pub"]


def test_a_renewed_certificate_needs_nothing_new_at_the_nodes(folder: Path) -> None:
    ca, before = (folder / "ca.crt").read_bytes(), (folder / "server.crt").read_bytes()
    renew(folder, ("new.example.org", "localhost"), 30)
    assert (folder / "ca.crt").read_bytes() == ca
    assert (folder / "server.crt.old").read_bytes() == before
    with tls_server(folder / "server.crt", folder / "server.key") as port:
        handshake(port, folder / "ca.crt", "new.example.org")
    (folder / "ca.key").unlink()
    with pytest.raises(ConfigError, match=r"ca\.key is missing; put the key of the CA back"):
        renew(folder, HOSTS, 30)


def test_a_key_of_another_authority_is_refused(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "others", HOSTS, ("north",), 365)
    shutil.copy(tmp_path / "others" / "ca.key", folder / "ca.key")
    with pytest.raises(ConfigError, match=r"ca\.key is not the key of .*ca\.crt"):
        read_authority(folder)


def test_a_certificate_ends_no_later_than_its_authority(tmp_path: Path) -> None:
    authority: Authority = new_authority(days=10)
    files = server_files(tmp_path, authority, ("localhost",), 365)
    server = x509.load_pem_x509_certificate(files[tmp_path / "server.crt"][0])
    assert server.not_valid_after_utc <= authority.certificate.not_valid_after_utc


def test_the_end_that_is_told_is_that_of_the_certificate(tmp_path: Path) -> None:
    folder = tmp_path / "certs"
    make(folder, HOSTS, ("north",), 365)
    authority = new_authority(days=10)
    for path, (content, _) in authority_files(folder, authority).items():
        path.write_bytes(content)
    end = authority.certificate.not_valid_after_utc
    (line,) = renew(folder, HOSTS, 365)
    assert f", until {end:%Y-%m-%d}. Restart the proxy" in line


def test_an_authority_that_has_ended_vouches_for_nobody(folder: Path) -> None:
    ended = new_authority(days=0)
    for path, (content, _) in authority_files(folder, ended).items():
        path.write_bytes(content)
    before = (folder / "server.crt").read_bytes()
    with pytest.raises(ConfigError, match=r"certificate of the CA ended on \d+-\d+-\d+; make new"):
        renew(folder, HOSTS, 30)
    assert (folder / "server.crt").read_bytes() == before


def test_whoever_could_read_the_old_certificate_can_read_the_new(folder: Path) -> None:
    """As the unit of the SuperLink asks for: a user of its own reads the server's key."""
    folder.chmod(0o750)
    (folder / "server.key").chmod(0o640)
    renew(folder, HOSTS, 30)
    modes = [stat.S_IMODE(p.stat().st_mode) for p in (folder, folder / "server.key")]
    assert modes == [0o750, 0o640]


def test_a_folder_that_was_there_is_its_owner_s_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make(tmp_path, HOSTS, ("north",), 365)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_a_client_too_many_is_not_added(folder: Path) -> None:
    file = folder / "clients.toml"
    text = file.read_text(encoding="utf-8").replace("id = 1\n", "id = 4095\n")
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="west: its id is '4096'; allowed are integers from 0 to"):
        add(folder, "west")
    assert not (folder / "keys" / "west").exists()


def test_a_client_is_added_with_a_new_key_or_its_own(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "east", HOSTS, ("east",), 365)
    sent = tmp_path / "east" / "keys" / "east.pub"
    add(folder, "west")
    add(folder, "east", sent)
    clients = read_clients(folder / "clients.toml")
    assert [(c.id, c.name) for c in clients] == [
        (0, "north"), (1, "south"), (2, "west"), (3, "east"),
    ]  # fmt: skip
    assert clients[3].key == fingerprint_of(sent.read_bytes())
    assert not (folder / "keys" / "east").exists()
    with pytest.raises(ConfigError, match=r"has a client west already"):
        add(folder, "west")
    with pytest.raises(ConfigError, match=r"east\.pub is the key of east"):
        add(folder, "another", sent)
    with pytest.raises(ConfigError, match=r"ca\.crt is '-----BEGIN CERT.*wanted is the \.pub file"):
        add(folder, "another", folder / "ca.crt")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "hosts is empty"),
        ("a b", "hosts has 'a b'; allowed are DNS names and IP addresses"),
        ("10.0.0.256", "hosts has '10.0.0.256'"),
        ("fl.example.org:443", "hosts has 'fl.example.org:443'"),
        ("-a.org", "hosts has '-a.org'"),
    ],
)
def test_hosts_that_cannot_be(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        hosts_of(text)
    assert str(error.value).startswith(line)


def test_hosts_have_the_loopback_device_once() -> None:
    assert hosts_of(" a.org, ::1,127.0.0.1") == ("a.org", "::1", "127.0.0.1", "localhost")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("0", "clients is 0; allowed are 1 to 4096, or names."),
        ("4097", "clients is 4097; allowed are 1 to 4096, or names."),
        ("a,a", "clients has 'a' twice."),
        ("a,", "clients is ''; allowed are up to 64 letters"),
        ("../a", "clients is '../a'; allowed are"),
        ("a.pub", "clients is 'a.pub'; allowed are"),
    ],
)
def test_clients_that_cannot_be(text: str, line: str) -> None:
    with pytest.raises(ConfigError) as error:
        clients_of(text)
    assert str(error.value).startswith(line)


def test_clients_by_number_or_name() -> None:
    assert clients_of("2") == ("client-0", "client-1")
    assert clients_of("north, south") == ("north", "south")


@pytest.mark.parametrize("days", [0, 4000])
def test_days_that_cannot_be(tmp_path: Path, days: int) -> None:
    with pytest.raises(ConfigError, match=f"days is {days}; allowed are 1 to 3650"):
        make(tmp_path, HOSTS, ("north",), days)
    assert list(tmp_path.iterdir()) == []
