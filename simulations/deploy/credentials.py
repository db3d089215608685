"""What a federation's organiser makes: certificates, keys, and the list of clients."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fedkt.deploy.certificates import (
    CA,
    CA_KEY,
    KEYS,
    SERVER,
    SERVER_KEY,
    authority_files,
    end_of,
    fingerprint_of,
    key_files,
    new_authority,
    public_of,
    read_authority,
    server_files,
    write_new,
)
from fedkt.deploy.client_list import (
    FILE,
    MOST_CLIENTS,
    Listed,
    check_id,
    check_name,
    read_clients,
    write_clients,
)
from fedkt.disk import only_user, writing
from fedkt.errors import ConfigError
from fedkt.text import foreign

_LONGEST = 3650  # days


def clients_of(text: str) -> tuple[str, ...]:
    """Return the names of new clients, from their number or from ``"north,south"``.

    Raises
    ------
    ConfigError
        If the number is out of range, or a name is not allowed or stands twice.
    """
    if text.strip().isdecimal():
        number = int(text)
        if not 1 <= number <= MOST_CLIENTS:
            raise ConfigError(f"clients is {number}; allowed are 1 to {MOST_CLIENTS}, or names.")
        return tuple(f"client-{n}" for n in range(number))
    names = [check_name(name.strip(), "clients") for name in text.split(",")]
    if twice := [name for n, name in enumerate(names) if name in names[:n]]:
        raise ConfigError(f"clients has {twice[0]!r} twice.")
    return tuple(names)


def make(folder: Path, hosts: Sequence[str], names: Sequence[str], days: int) -> list[str]:
    """Make a certificate authority, a server's certificate, and a key pair for each client.

    Parameters
    ----------
    folder : Path
        Made if it does not exist; its owner alone may enter it afterwards.
    hosts : Sequence[str]
        The server's names and addresses.
    names : Sequence[str]
        Of the clients, whose ids are 0, 1, ... in this order.
    days : int
        Until the server's certificate ends.

    Returns
    -------
    list[str]
        What was made, one line each.

    Raises
    ------
    ConfigError
        If a file exists: then nothing is made.
    """
    _check_days(days)
    authority, listed = new_authority(), folder / FILE
    if listed.exists() and read_clients(listed):
        raise ConfigError(
            f"{listed} has clients already and is not overwritten; take another folder, or add a "
            "client with `fedkt deploy add`."
        )
    files = authority_files(folder, authority) | server_files(folder, authority, hosts, days)
    clients = []
    for number, name in enumerate(names):
        pair, key = key_files(folder / KEYS / name, name)
        files |= pair
        clients.append(Listed(number, name, key))
    write_new(files)
    with writing(folder):
        folder.chmod(0o700)  # one that was there before
    write_clients(listed, clients)
    return [
        f"{folder / CA}: the certificate that every node needs.",
        f"{folder / CA_KEY}: whoever has it can pass for the server. Keep it offline, away from "
        "this machine; it is needed to renew the server's certificate.",
        _server_line(folder, hosts, end_of(authority, days)),
        *(
            f"{folder / KEYS / client.name}: the key of {client.name} (client {client.id}), for "
            f"that node alone. {client.key}"
            for client in clients
        ),
        f"{listed}: who is who, for the server. Next, where the SuperLink runs: "
        f"fedkt deploy register {folder}",
    ]


def renew(folder: Path, hosts: Sequence[str], days: int) -> list[str]:
    """Make a new certificate and key for the server; the old ones stay, as ``*.old``.

    Whoever may read the old ones may read the new ones. Nodes need nothing new: the same authority
    vouches for it.
    """
    _check_days(days)
    authority = read_authority(folder)
    files = server_files(folder, authority, hosts, days)
    with only_user(folder), writing(folder):
        before = {path: path.with_name(f"{path.name}.old") for path in files if path.exists()}
        for path, old in before.items():
            path.replace(old)
        write_new(files)
        for path, old in before.items():
            shutil.copymode(old, path)
            if hasattr(os, "chown"):
                os.chown(path, old.stat().st_uid, old.stat().st_gid)
    return [
        f"{_server_line(folder, hosts, end_of(authority, days))} Restart the proxy and the "
        "SuperLink; nodes need nothing new. Take the key of the CA away again."
    ]


def _server_line(folder: Path, hosts: Sequence[str], end: datetime) -> str:
    return (
        f"{folder / SERVER}, {SERVER_KEY}: of the server, for {', '.join(hosts)}, until "
        f"{end:%Y-%m-%d}."
    )


def add(folder: Path, name: str, public: Path | None = None) -> list[str]:
    """Add a client to the list, with a new key pair or with the public key that it has sent.

    Raises
    ------
    ConfigError
        If the name or the key is taken, or a file exists.
    """
    check_name(name, "NAME")
    listed, private = folder / FILE, folder / KEYS / name
    with only_user(folder):
        clients = read_clients(listed)
        if any(client.name == name for client in clients):
            raise ConfigError(f"{listed} has a client {name} already.")
        files, key = key_files(private, name) if public is None else sent_key(public, private)
        number = max((client.id for client in clients), default=-1) + 1
        if taken := [client.name for client in clients if client.key == key]:
            raise ConfigError(f"{public} is the key of {taken[0]}.")
        check_id(number, f"{name}: its id")
        write_new(files)
        write_clients(listed, [*clients, Listed(number, name, key)])
    return [f"{name} is client {number}. {key}", f"Next: fedkt deploy register {folder}"]


def sent_key(public: Path, private: Path) -> tuple[dict[Path, tuple[bytes, int]], str]:
    """Return the file of a public key that somebody has sent, and its fingerprint.

    Raises
    ------
    ConfigError
        If it cannot be read, or is no elliptic-curve key.
    """
    try:
        line = public.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{public} cannot be read: {error.strerror}.") from error
    if not line.startswith(b"ecdsa-sha2-nistp") or b"\n" in line:
        raise ConfigError(
            f"{public} is {foreign(line[:40].decode(errors='replace'))!r}...; wanted is the .pub "
            "file of `ssh-keygen -t ecdsa -b 384`."
        )
    try:
        return {public_of(private): (line + b"\n", 0o644)}, fingerprint_of(line)
    except ConfigError as error:
        raise ConfigError(f"{public} is {str(error).rstrip('.')}.") from error


def _check_days(days: int) -> None:
    if not 1 <= days <= _LONGEST:
        raise ConfigError(f"days is {days}; allowed are 1 to {_LONGEST}.")
