"""The note beside a node's state: which app it belongs to, and as whom it took part."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from flwr.app import Context

from fedkt.disk import write_atomic, writing

NODE = "node.json"


def note_node(folder: Path, context: Context, module: str) -> None:
    """Note in the folder of a node's state what ``fedkt.deploy.model`` needs.

    Parameters
    ----------
    folder : Path
        The folder.
    context : Context
        The node's.
    module : str
        The module of the party's functions; its project is the app.
    """
    about = {
        "app": str(_project(module)),
        "node-config": dict(context.node_config),
        "run-config": dict(context.run_config),
    }
    text, path = json.dumps(about, indent=1) + "\n", folder / NODE
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with writing(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, text)


def _project(module: str) -> Path:
    """Return the folder of the project that a module is in, or else the module's own."""
    file = Path(getattr(sys.modules.get(module), "__file__", None) or ".").resolve()
    projects = (folder for folder in file.parents if (folder / "pyproject.toml").is_file())
    return next(projects, file.parent)
