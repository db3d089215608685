"""The note beside a node's state: which app it belongs to, and as whom it took part.

The folder of a node has the newest; beside the states of each run lies the one of that run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flwr.app import Context

from fedkt.clients.state import ClientState, FileStore
from fedkt.disk import write_atomic

NODE = "node.json"


class NotedStore(FileStore):
    """Client state in files, with notes of what ``fedkt.deploy.model`` needs.

    Parameters
    ----------
    folder : Path
        The folder of a node's state.
    context : Context
        The node's.
    module : str
        The module of the party's functions; its project is the app.
    """

    def __init__(self, folder: Path, context: Context, module: str) -> None:
        super().__init__(folder)
        about = {
            "app": str(_project(module)),
            "node-config": dict(context.node_config),
            "run-config": dict(context.run_config),
        }
        self._note = json.dumps(about, indent=1) + "\n"
        self._write_note(folder)

    def put(self, run: str, client: int, round: int, phase: str, state: ClientState) -> str:
        """Keep a state in a file, with the note of its run; return its path in the folder."""
        where = super().put(run, client, round, phase, state)
        self._write_note(self._of(run, client).parent)
        return where

    def _write_note(self, folder: Path) -> None:
        path = folder / NODE
        if not path.is_file() or path.read_text(encoding="utf-8") != self._note:
            write_atomic(path, self._note)


def _project(module: str) -> Path:
    """Return the folder of the project that a module is in, or else the module's own."""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or ".").resolve()
    projects = (folder for folder in file.parents if (folder / "pyproject.toml").is_file())
    return next(projects, file.parent)
