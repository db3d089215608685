"""Where client state lives between messages.

State is a plain value (see ``fedkt.snapshot``). It is read at the start of a message and
written only when the message has been handled, so a client that fails keeps the state
it had.
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
    """Keeps the state of clients."""

    def get(self, client: int, handle: str | None = None) -> ClientState | None:
        """Return the state that ``put`` answered with ``handle`` for; without one, the newest."""
        ...

    def put(self, client: int, state: ClientState, before: str | None = None) -> str:
        """Keep a state; return its handle. ``before`` is the handle of what it was made from."""
        ...

    def snapshot(self) -> dict[int, ClientState]:
        """Return the newest state of every client."""
        ...

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace everything by ``states``."""
        ...


class MemoryStore:
    """In the process itself: for the in-process grid and Ray actors."""

    def __init__(self) -> None:
        self._states: dict[int, ClientState] = {}

    def get(self, client: int, handle: str | None = None) -> ClientState | None:
        """Return the client's state."""
        return self._states.get(client)

    def put(self, client: int, state: ClientState, before: str | None = None) -> str:
        """Keep the client's state."""
        self._states[client] = state
        return "memory"

    def snapshot(self) -> dict[int, ClientState]:
        """Return the state of every client; states are never changed in place."""
        return dict(sorted(self._states.items()))

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace everything by ``states``."""
        self._states = dict(states)


class FileStore:
    """In safetensors files: for deployment, for Flower's own simulation engine, for large runs.

    A client's files are ``client-<id>/<version>.safetensors``. The version is the
    handle that the ClientApp keeps in ``context.state``. When Flower drops the context of a
    message, the handle goes on naming the version before, so the version a state was
    made from is kept beside it.

    Parameters
    ----------
    folder : Path
        Made if needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def get(self, client: int, handle: str | None = None) -> ClientState | None:
        """Read a state; without a handle, the newest."""
        versions = self._versions(client)
        version = int(handle) if handle is not None else max(versions, default=-1)
        return snapshot.load(self._path(client, version)) if version in versions else None

    def put(self, client: int, state: ClientState, before: str | None = None) -> str:
        """Write a state."""
        versions = self._versions(client)
        version = max(versions, default=-1) + 1
        snapshot.save(self._path(client, version), state)
        for old in versions:
            if str(old) != before:
                self._path(client, old).unlink(missing_ok=True)
        return str(version)

    def snapshot(self) -> dict[int, ClientState]:
        """Read the newest state of every client."""
        clients = sorted(int(p.name.removeprefix("client-")) for p in self._folders())
        return {c: state for c in clients if (state := self.get(c)) is not None}

    def restore(self, states: Mapping[int, ClientState]) -> None:
        """Replace all files by ``states``."""
        for folder in self._folders():
            shutil.rmtree(folder)
        for client, state in states.items():
            snapshot.save(self._path(client, 0), state)

    def _folders(self) -> list[Path]:
        return list(self._folder.glob("client-*"))

    def _path(self, client: int, version: int) -> Path:
        return self._folder / f"client-{client}" / f"{version}.safetensors"

    def _versions(self, client: int) -> list[int]:
        # In a folder of its own, because a folder of all clients would be read at every put.
        folder = self._folder / f"client-{client}"
        names = os.listdir(folder) if folder.is_dir() else []
        return [int(stem) for n in names if (stem := n.removesuffix(".safetensors")).isdigit()]
