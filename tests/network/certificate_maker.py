"""Certificates and keys of one test run, as ``fedkt deploy certs`` makes them."""

from __future__ import annotations

from pathlib import Path

from fedkt.deploy.certificates import (
    authority_files,
    key_files,
    new_authority,
    server_files,
    write_new,
)

OWN_NETWORK = "10.99.0.1"  # of the server, among hosts of a network of the test's own
HOSTS = ("localhost", "127.0.0.1", OWN_NETWORK)


def make_certificates(folder: Path) -> Path:
    """Write ``ca.crt``, ``server.crt`` and ``server.key`` for this machine; return the folder."""
    authority = new_authority()
    write_new(authority_files(folder, authority) | server_files(folder, authority, HOSTS, 30))
    return folder


def make_key(path: Path) -> Path:
    """Write the key of a node, and its public half beside it (``.pub``); return the path."""
    files, _ = key_files(path, path.parent.name)
    write_new(files)
    return path
