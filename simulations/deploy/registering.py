"""Keys at the SuperLink: registered for the first time, and replaced.

Commands of Flower do it, with a connection of Flower's ``config.toml``. Each step is written down
before the next, so that a command which was cut off goes on when it is given again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedkt.deploy.certificates import (
    KEYS,
    fingerprint_of,
    fingerprint_of_bytes,
    key_files,
    public_of,
    read_private_key,
    write_new,
)
from fedkt.deploy.client_list import FILE, Listed, client_named, read_clients, write_clients
from fedkt.deploy.credentials import sent_key
from fedkt.disk import only_user, sync, writing
from fedkt.errors import ConfigError
from fedkt.text import foreign, raised

_SECONDS = 120.0
_IN_USE, _NOT_FOUND, _FORBIDDEN = "[code: 23]", "[code: 24]", "403 Forbidden"


def register(folder: Path, connection: str | None = None) -> Iterator[str]:
    """Register each client's key that has no node yet, and write the node into the list.

    Parameters
    ----------
    folder : Path
        With ``clients.toml`` and, in ``keys``, the public keys.
    connection : str, optional
        A SuperLink in Flower's ``config.toml``; by default its default.

    Yields
    ------
    str
        What was done, one line for each client.

    Raises
    ------
    ConfigError
        If a key is not the one of the list, or the SuperLink refuses it or is that of simulations.
    """
    file = folder / FILE
    _check_connection(connection)
    with only_user(folder):
        for client in read_clients(file):
            if client.node is not None:
                yield f"{client.name}: registered before, node {client.node}."
                continue
            public = public_of(folder / KEYS / client.name)
            if (key := _fingerprint(public)) != client.key:
                raise ConfigError(
                    f"{public} has the fingerprint {key}, and {file} says {client.key}."
                )
            node = _register(public, key, client.name, connection)
            _write(file, replace(client, node=node))
            yield f"{client.name}: node {node}."


def rotate(
    folder: Path, name: str, connection: str | None = None, public: Path | None = None
) -> Iterator[str]:
    """Give a client a new key; the SuperLink refuses the old one afterwards.

    The new key is registered, then the list names it and the node before, then the files change
    places, then the old node is unregistered, then the list forgets it: wherever this is cut off,
    the same command goes on.

    Parameters
    ----------
    folder, connection
        As for :func:`register`.
    name : str
        Of the client.
    public : Path, optional
        The client's new public key, if it has made the pair itself. Else a pair is made here.

    Yields
    ------
    str
        What was done, and what the node's operator has to do.

    Raises
    ------
    ConfigError
        If a rotation to another key was cut off, or the SuperLink refuses the key or is that of
        simulations.
    """
    file = folder / FILE
    private = folder / KEYS / name
    fresh = private.with_name(f"{name}.new")
    _check_connection(connection)
    with only_user(folder):
        client = client_named(read_clients(file), name, file)
        if public is not None:
            _check_is_that(public, public_of(fresh), client)
        if client.former is not None or _is_key(public_of(fresh), client.key):
            yield f"{name}: going on with a rotation that was cut off."
        else:
            client = _begin(folder, client, fresh, connection, public)
        with writing(private.parent):
            _change_places(private, fresh, client.key)
        if client.former is not None:
            _unregister(client.former, connection)
            client = replace(client, former=None)
            _write(file, client)
    yield f"{name}: new key {client.key}, node {client.node}; the old key is refused from now on."
    at_node = f"Replace the key at the node by {private} (mode 600)" if private.exists() else (
        "Let its operator put the new private key in place"
    )  # fmt: skip
    yield f"{at_node}, and restart its SuperNode; until then it stays out."


def _check_connection(connection: str | None) -> None:
    """Refuse the SuperLink that Flower starts for simulations: it would take every key."""
    from fedkt.simulations.engines._flwr_shim import starts_simulation

    try:
        simulates = starts_simulation(connection)
    except Exception as error:  # a file at fault, or another version of Flower
        raise ConfigError(f"The connection of Flower's config.toml: {raised(error)}.") from error
    if simulates:
        which = "default connection" if connection is None else f"connection {foreign(connection)}"
        raise ConfigError(
            f"The {which} of Flower's config.toml is its SuperLink for simulations, which no node "
            "can reach; write the federation's SuperLink there, or name its connection."
        )


def _check_is_that(public: Path, fresh: Path, client: Listed) -> None:
    """Refuse another public key than that of a rotation which was cut off."""
    _, key = sent_key(public, fresh)
    if client.former is not None:
        under_way, drop = client.key, ""
    elif fresh.exists():
        under_way, drop = _fingerprint(fresh), f", or remove {fresh} to drop it"
    else:
        return
    if key != under_way:
        raise ConfigError(
            f"{client.name}: a rotation to the key {under_way} was cut off, and {public} is "
            f"{key}. Finish that rotation first, without --key{drop}."
        )


def _begin(
    folder: Path, client: Listed, fresh: Path, connection: str | None, public: Path | None
) -> Listed:
    """Make and register the new key, and write it into the list beside the old node."""
    file = public_of(fresh)
    if not file.exists():
        fresh.unlink(missing_ok=True)  # half a pair, which nobody knows
        files, _ = key_files(fresh, client.name) if public is None else sent_key(public, fresh)
        write_new(files)
    key = _fingerprint(file)
    node = _register(file, key, client.name, connection)
    after = replace(client, key=key, node=node, former=client.node)
    _write(folder / FILE, after)
    return after


def _change_places(private: Path, fresh: Path, key: str) -> None:
    """Rename ``NAME`` to ``NAME.old`` and ``NAME.new``, which has the key, to ``NAME``."""
    old = private.with_name(f"{private.name}.old")
    if private.exists() and read_private_key(private)[1] != key:
        private.replace(old)
    if fresh.exists():
        fresh.replace(private)
    public = public_of(private)
    if public.exists() and _fingerprint(public) != key:
        public.replace(public_of(old))
    if public_of(fresh).exists():
        public_of(fresh).replace(public)
    sync(private.parent)


def _register(public: Path, key: str, name: str, connection: str | None) -> int:
    """Return the node of a key, registered now or before."""
    answer = _flwr("register", str(public), connection=connection)
    if answer.get("success"):
        return int(answer["node-id"])
    if _IN_USE not in str(answer.get("error-message")):
        raise _refusal(f"{name}: the key could not be registered", answer)
    node, registered = _nodes(connection).get(key, (0, False))
    if not registered:
        raise ConfigError(
            f"{name}: this key was unregistered at the SuperLink, which does not take it again; "
            f"give the client a new key with `fedkt deploy rotate DIR {name}`."
        )
    return node


def _unregister(node: int, connection: str | None) -> None:
    answer = _flwr("unregister", str(node), connection=connection)
    if not answer.get("success") and _NOT_FOUND not in str(answer.get("error-message")):
        raise _refusal(f"node {node} could not be unregistered", answer)


def _nodes(connection: str | None) -> dict[str, tuple[int, bool]]:
    """Return the nodes of a SuperLink, (id, whether still registered), by fingerprint."""
    from fedkt.simulations.engines._flwr_shim import nodes_by_key

    try:
        nodes = nodes_by_key(connection)
        return {fingerprint_of_bytes(key): node for key, node in nodes.items()}
    except Exception as error:  # anything from the network, or another version of Flower
        raise ConfigError(
            f"A key is registered, and the SuperLink does not say for which node: {raised(error)}. "
            "Give the client a new key with `fedkt deploy rotate`."
        ) from error


def _flwr(command: str, value: str, *, connection: str | None) -> dict[str, Any]:
    """Return the answer of ``flwr supernode COMMAND VALUE CONNECTION``."""
    where = [] if connection is None else [connection]
    line = [flower_program("flwr"), "supernode", command, value, *where, "--format", "json"]
    quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
    try:
        done = subprocess.run(
            line,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECONDS,
            env=quiet | os.environ,
        )
        answer: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"flwr supernode {command} did not end within {_SECONDS:g} s; is the SuperLink up?"
        ) from error
    except ValueError as error:
        said = foreign(done.stderr or done.stdout) or f"exit status {done.returncode}"
        raise ConfigError(f"flwr supernode {command}: {said}") from error
    return answer


def flower_program(name: str) -> str:
    """Return the place of a program of Flower's: beside this Python's, else on the PATH.

    Raises
    ------
    ConfigError
        If it is not there.
    """
    beside = Path(sys.executable).with_name(name)
    place = str(beside) if beside.is_file() else shutil.which(name)
    if place is None:
        raise ConfigError(f"{name} is neither beside {sys.executable} nor on the PATH.")
    return place


def _refusal(what: str, answer: dict[str, Any]) -> ConfigError:
    lines = str(answer.get("error-message", "no reason given")).splitlines()
    said = foreign(" ".join(line for line in lines if not line.startswith("Using SuperLink")))
    hint = ""
    if _FORBIDDEN in said:
        said, hint = _FORBIDDEN, (
            ". The proxy lets nodes through and nothing else; run this on the server, with a "
            "connection to the SuperLink itself"
        )  # fmt: skip
    return ConfigError(f"{what}: {said.rstrip('.')}{hint}.")


def _write(file: Path, client: Listed) -> None:
    """Replace one client in the list."""
    others: Sequence[Listed] = [c for c in read_clients(file) if c.id != client.id]
    write_clients(file, [*others, client])


def _fingerprint(public: Path) -> str:
    try:
        return fingerprint_of(public.read_bytes())
    except OSError as error:
        raise ConfigError(f"{public} cannot be read: {error.strerror}.") from error
    except ConfigError as error:
        raise ConfigError(f"{public} is {str(error).rstrip('.')}.") from error


def _is_key(public: Path, key: str) -> bool:
    return public.exists() and _fingerprint(public) == key
