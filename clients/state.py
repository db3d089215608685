"""Stores of client state between messages.

State is a plain value (see ``fedkt.snapshot``). It is read at the start of a message and
written only after the message has been handled. So a client that fails keeps its last state.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from fedkt import snapshot
from fedkt.disk import writing

ClientState = dict[str, Any]


class StateStore(Protocol):
    """A store of client state."""

    def get(self, client: int, handle: str | None = None) -> ClientState | None:
        """Return a client's state: that of a handle, else the newest; None if there is none."""
        ...

    def put(self, client: int, state: ClientState, before: str | None = None) -> str:
        """Keep a state; return its handle. ``before`` is the handle of the state it follows."""
        ...

    def snapshot(self) -> dict[int, ClientState]:
        """Return the newest state of every client."""
        ...

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all states."""
        ...


class MemoryStore:
    """Client state in the memory of the process: for the in-process grid and Ray actors."""

    def __init__(self) -> None:
        self._states: dict[int, ClientState] = {}

    def get(self, client: int, handle: str | None = None) -> ClientState | None:
        """Return the client's newest state; None if there is none."""
        return self._states.get(client)

    def put(self, client: int, state: ClientState, before: str | None = None) -> str:
        """Keep the client's state; return its handle."""
        self._states[client] = state
        return "memory"

    def snapshot(self) -> dict[int, ClientState]:
        """Return the newest state of every client; states are never changed in place."""
        return dict(sorted(self._states.items()))

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all states."""
        self._states = dict(states)


class FileStore:
    """Client state in safetensors files: for deployment, stock Flower and large runs.

    A client's files are ``client-<id>/<version>.safetensors``. The version is the
    handle that the ClientApp keeps in ``context.state``. When Flower drops the context of a
    message, the handle still names the version before. So that version is kept too.

    Parameters
    ----------
    folder : Path
        Folder of the files; made if needed.

    Raises
    ------
    ConfigError, DiskError
        If the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, client: int, handle: str | None = None) -> ClientState | None:
        """Return a client's state: that of a handle, else the newest; None if there is none."""
        versions = self._versions(client)
        version = int(handle) if handle is not None else max(versions, default=-1)
        return snapshot.load(self._path(client, version)) if version in versions else None

    def put(self, client: int, state: ClientState, before: str | None = None) -> str:
        """Keep a state in a file; return its handle."""
        versions = self._versions(client)
        version = max(versions, default=-1) + 1
        snapshot.save(self._path(client, version), state)
        for old in versions:
            if str(old) != before:
                self._path(client, old).unlink(missing_ok=True)
        return str(version)

    def snapshot(self) -> dict[int, ClientState]:
        """Return the newest state of every client."""
        clients = sorted(int(p.name.removeprefix("client-")) for p in self._folders())
        return {c: state for c in clients if (state := self.get(c)) is not None}

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all files."""
        for folder in self._folders():
            shutil.rmtree(folder)
        for client, state in states.items():
            snapshot.save(self._path(client, 0), state)

    def _folders(self) -> list[Path]:
        return list(self._folder.glob("client-*"))

    def _path(self, client: int, version: int) -> Path:
        return self._folder / f"client-{client}" / f"{version}.safetensors"

    def _versions(self, client: int) -> list[int]:
        # One folder a client: a folder of all clients would be read at every put.
        folder = self._folder / f"client-{client}"
        names = os.listdir(folder) if folder.is_dir() else []
        return [int(stem) for n in names if (stem := n.removesuffix(".safetensors")).isdigit()]
