"""The commands around a real federation: a new app, a run that is watched or continued."""

from __future__ import annotations

import shlex
from pathlib import Path

from fedkt.deploy.new_app import write_app


def write_new(folder: Path, clients: int) -> None:
    """Write a new app and say what to do with it."""
    written = write_app(folder, clients)
    where, package = shlex.quote(str(folder)), written[-2].parent.name
    print(f"Wrote {len(written)} files. Fill in {where}/{package}/data.py, then:")
    print(f"  fedkt simulate {where}      rehearse it here")
    print(f"  flwr run {where} --stream   the same through Flower")
