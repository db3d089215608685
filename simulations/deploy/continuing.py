"""Going on with a deployed run whose server app or SuperLink has died: ``fedkt resume``."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from fedkt.deploy.deployed_run import read_deployment
from fedkt.disk import is_held
from fedkt.errors import ConfigError
from fedkt.simulations.results.run_folder import is_finished, is_run


def resume_deployed(folder: Path, app: Path, connection: str = "", rounds: int = 0) -> int:
    """Start a run again through Flower, with its own configuration; return the exit status.

    Parameters
    ----------
    folder : Path
        The run directory, on the machine of the SuperLink.
    app : Path
        The folder of the app.
    connection : str
        Flower's name of the SuperLink; empty: its default.
    rounds : int
        Rounds of the whole run; 0: as before.

    Raises
    ------
    ConfigError
        If there is nothing to go on with, or ``flwr`` is not installed.
    """
    config = read_deployment(folder)
    if not is_run(folder):
        raise ConfigError(f"{folder} holds no run yet: remove it, and begin the run again.")
    if is_held(folder):
        raise ConfigError(f"{folder} is being written: the run goes on; see fedkt watch.")
    if is_finished(folder) and not rounds:
        raise ConfigError(f"{folder} is finished; with --rounds it can be made longer.")
    if not (app / "pyproject.toml").is_file():
        raise ConfigError(f"{app} holds no app: name its folder with --app.")
    values = {**config, "resume": True, "run-dir": str(folder.resolve())}
    if rounds:
        values["num-server-rounds"] = rounds
    flwr = Path(sys.executable).with_name("flwr")
    if not flwr.is_file():
        raise ConfigError(f"{flwr} is missing: install flwr in this environment.")
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "values.toml"
        file.write_text(tomli_w.dumps(_nested(values)), encoding="utf-8")
        command = [str(flwr), "run", str(app), *filter(None, [connection]), "-c", str(file)]
        status = subprocess.run([*command, "--stream"], check=False).returncode
    # Flower's own status says only that the run has begun.
    return status or int(not is_finished(folder))


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted keys as tables."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *tables, name = key.split(".")
        place = nested
        for table in tables:
            place = place.setdefault(table, {})
        place[name] = value
    return nested
