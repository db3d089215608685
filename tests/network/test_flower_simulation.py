"""The app that ``fedkt new`` writes, under Flower's simulation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tomli_w

from ..deploy.federating import figures
from .hospitals import CLIENTS, SECONDS, ended, new_app, rehearsed
from .processes import QUIET, end_all


@pytest.mark.network
def test_flower_s_simulation_runs_the_same_folder(alone: None, tmp_path: Path) -> None:
    app, home = new_app(tmp_path / "hospitals"), tmp_path / "flwr"
    strategy = "knfu(local_epochs=1, distil_epochs=1)"
    config = {"run-dir": str(tmp_path / "run")}
    config |= {"strategy": strategy, "num-server-rounds": 1}
    (tmp_path / "values.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    try:
        done = subprocess.run(
            [
                *(str(Path(sys.executable).with_name("flwr")), "run", str(app), "--stream"),
                *("-c", str(tmp_path / "values.toml"), "--federation-config"),
                f"num-supernodes={CLIENTS} client-resources-num-cpus=1",
            ],
            env=flower_home(home),
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        rows = ended(tmp_path / "run")
    finally:
        end_all(f"FLWR_HOME={home}")
    assert figures(rows) == figures(rehearsed(app, tmp_path / "rehearsal", strategy, 1))


def flower_home(home: Path) -> dict[str, str]:
    """Return an environment in which Flower keeps to itself, with a SuperLink of its own."""
    home.mkdir()
    ports = {"FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": "23391", "FLWR_LOCAL_CONTROL_API_PORT": "23392"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **QUIET, **ports, "PATH": path, "FLWR_HOME": str(home)}
