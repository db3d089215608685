"""``clients.toml``: which client of a federation has which key and which Flower node.

Flower lets in whoever has a registered key, and the server must know which client that is: the list
says it. One ``[[client]]`` table each, with ``id``, ``name``, ``key`` (the fingerprint as
``ssh-keygen -lf`` prints it) and, once the key is registered, ``node`` (the id that Flower gave).
"""

from __future__ import annotations

import logging
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from fedkt.disk import sync, write_atomic
from fedkt.errors import ConfigError
from fedkt.text import foreign

logger = logging.getLogger("fedkt")

FILE = "clients.toml"
MOST_CLIENTS = 4096  # ids are below: a run's lists over clients have a place for each
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a client; becomes a file's name
_KEY = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
_MOST = 2**64  # Flower's node ids are below
_HEAD = """\
# The clients of this federation. The server lets a node speak for a client only if its key stands
# here: key is what `ssh-keygen -lf NAME.pub` prints, node the id that Flower gave to that key.
# Ids are for ever: a client keeps its id when its key changes. Written by `fedkt deploy`.
"""


@dataclass(frozen=True)
class Listed:
    """A client of a federation, as ``clients.toml`` has it.

    Parameters
    ----------
    id : int
        0 to 4095; never changes, never goes to somebody else.
    name : str
        Letters, digits, dots, dashes and underscores; the name of its key file too.
    key : str
        The fingerprint of its public key.
    node : int, optional
        The id of its Flower node; None until the key is registered.
    former : int, optional
        The node of the key before, while that is being replaced.
    """

    id: int
    name: str
    key: str
    node: int | None = None
    former: int | None = None


def read_clients(file: Path) -> tuple[Listed, ...]:
    """Return the clients of a ``clients.toml``, by ascending id.

    Raises
    ------
    ConfigError
        If the file cannot be read or an entry is at fault, named.
    """
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not TOML: {foreign(error).rstrip('.')}.") from error
    if unknown := sorted(set(tables) - {"client"}):
        raise ConfigError(f"{file} has {foreign(unknown[0])!r}; allowed is [[client]].")
    entries = tables.get("client", [])
    if not isinstance(entries, list):
        raise ConfigError(f"{file}: write [[client]] with two brackets, once for each client.")
    clients = [_listed(entry, f"{file}: client {n}") for n, entry in enumerate(entries, 1)]
    _check_unique(clients, file)
    return tuple(sorted(clients, key=lambda client: client.id))


def write_clients(file: Path, clients: Iterable[Listed]) -> None:
    """Write a ``clients.toml``, whole or not at all.

    Raises
    ------
    ConfigError
        If two clients share what must be unique, or the file cannot be written.
    """
    ordered = sorted(clients, key=lambda client: client.id)
    _check_unique(ordered, file)
    tables = (f"\n[[client]]\n{tomli_w.dumps(_table(client))}" for client in ordered)
    write_atomic(file, _HEAD + "".join(tables))
    sync(file)
    sync(file.parent)


def client_named(clients: Sequence[Listed], name: str, file: Path) -> Listed:
    """Return the client of a name.

    Raises
    ------
    ConfigError
        If there is none.
    """
    for client in clients:
        if client.name == name:
            return client
    names = ", ".join(client.name for client in clients) or "none"
    raise ConfigError(f"{file} has no client {foreign(name)!r}; it has {names}.")


def nodes_of(clients: Sequence[Listed]) -> dict[int, int]:
    """Return the Flower node of each client, ``{client id: node id}``, for the server.

    Raises
    ------
    ConfigError
        If no client has a node yet.
    """
    nodes = {client.id: client.node for client in clients if client.node is not None}
    without = [client.name for client in clients if client.node is None]
    whose = ", ".join(without)
    line = f"{FILE}: {whose} has no node; register the keys with `fedkt deploy register DIR`"
    if clients and not nodes:
        raise ConfigError(f"{line}.")
    if without:
        logger.warning("%s. Until then nobody is let in for it.", line)
    return nodes


def names_of(clients: Sequence[Listed]) -> dict[int, str]:
    """Return the name of each client, ``{client id: name}``."""
    return {client.id: client.name for client in clients}


def check_name(name: str, where: str) -> str:
    """Return a client's name if it may be one.

    Raises
    ------
    ConfigError
        If not.
    """
    if not NAME.fullmatch(name) or name.endswith((".pub", ".old", ".new")):
        raise ConfigError(
            f"{where} is {foreign(name)!r}; allowed are up to 64 letters, digits, dots, dashes and "
            "underscores, a letter or digit first, and no ending .pub, .old or .new."
        )
    return name


def check_id(number: Any, what: str) -> None:
    """Raise ConfigError if a client cannot have an id."""
    if type(number) is not int or not 0 <= number < MOST_CLIENTS:
        raise ConfigError(
            f"{what} is {foreign(number)!r}; allowed are integers from 0 to {MOST_CLIENTS - 1}."
        )


def _listed(entry: Any, where: str) -> Listed:
    """Return the client of a table; ConfigError that names the entry if it is at fault."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is no table; write [[client]] and its keys below.")
    allowed = tuple(Listed.__dataclass_fields__)
    if unknown := sorted(set(entry) - set(allowed)):
        raise ConfigError(f"{where} has {foreign(unknown[0])!r}; allowed: {', '.join(allowed)}.")
    if missing := [key for key in ("id", "name", "key") if key not in entry]:
        raise ConfigError(f"{where} has no {missing[0]}.")
    number, name, key = entry["id"], entry["name"], entry["key"]
    check_id(number, f"{where}: id")
    if not isinstance(name, str):
        raise ConfigError(f"{where}: name is {foreign(name)!r}; allowed is text.")
    check_name(name, f"{where}: name")
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise ConfigError(
            f"{where} ({name}): key is {foreign(key)!r}; allowed is a fingerprint, SHA256: and 43 "
            "characters, as ssh-keygen -lf prints it."
        )
    node, former = (_node(entry.get(k), f"{where} ({name}): {k}") for k in ("node", "former"))
    return Listed(number, name, key, node, former)


def _node(value: Any, what: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isdecimal() and value.isascii():
        value = int(value)
    if type(value) is not int or not 0 < value < _MOST:
        raise ConfigError(f"{what} is {foreign(value)!r}; allowed is the id of a Flower node.")
    return int(value)


def _table(client: Listed) -> dict[str, int | str]:
    table: dict[str, int | str] = {"id": client.id, "name": client.name, "key": client.key}
    # As text: TOML's integers end at 2**63, Flower's ids at 2**64.
    places = {"node": client.node, "former": client.former}
    return table | {place: str(node) for place, node in places.items() if node is not None}


def _check_unique(clients: Sequence[Listed], file: Path) -> None:
    """Raise ConfigError that names both entries where two share an id, name, key or node."""
    for what in ("id", "name", "key", "node"):
        seen: dict[Any, Listed] = {}
        for client in clients:
            value = getattr(client, what)
            before = seen.setdefault(value, client)
            if value is not None and before is not client:
                raise ConfigError(
                    f"{file}: {before.name} (id {before.id}) and {client.name} (id {client.id}) "
                    f"have the same {what}, {value}."
                )
