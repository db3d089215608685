"""The commands around a real federation: a new app, a run that is watched or continued."""

from __future__ import annotations

import shlex
from pathlib import Path

import typer

from fedkt.deploy.continuing import resume_deployed
from fedkt.deploy.deployed_run import is_deployed
from fedkt.deploy.new_app import write_app
from fedkt.errors import ConfigError
from fedkt.simulations.results.run_folder import is_run


def write_new(folder: Path, clients: int) -> None:
    """Write a new app and say what to do with it."""
    written = write_app(folder, clients)
    where = shlex.quote(str(folder))
    data = next(path for path in written if path.name == "data.py")
    print(f"Wrote {len(written)} files. Fill in {shlex.quote(str(data))}, then:")
    print(f"  fedkt simulate {where}      rehearse it here")
    print(f"  flwr run {where} --stream --federation-config \\")
    print(f"      'num-supernodes={clients} client-resources-num-cpus=1'   the same through Flower")
    print(f"{where}/deploy has the services of a real federation; see docs/deploy.md.")


def resume_run(folder: Path, app: Path, connection: str, rounds: int) -> None:
    """Go on with a deployed run; exit with Flower's status."""
    if is_run(folder) and not is_deployed(folder):
        raise ConfigError(
            f"{folder} is no deployed run; a simulation goes on with fedkt simulate --out "
            f"{shlex.quote(str(folder))} --resume."
        )
    if status := resume_deployed(folder, app, connection, rounds):
        raise typer.Exit(status)
