"""Starting measurements: the data of a case, and one fresh process for each variant."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from workloads import HERE, Case, experiment_of, write_samples

from fedkt.data import build_federation
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.runs.plan import federation_spec

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "PYTHONPATH": str(HERE),  # worker processes import these modules too
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


TIMEOUT = 3600.0  # seconds, for one measurement


class MeasurementError(Exception):
    """A variant could not be measured."""


def prepared(case: Case, scratch: Path) -> Case:
    """Write a case's data below ``scratch``, unless they are there; return it with its folder."""
    name = f"{case.workload}-{case.clients}-{case.private}-{case.public}"
    case = replace(case, folder=str((scratch / name).resolve()))
    folder = Path(case.folder)
    if not (folder / "federation").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        write_samples(case)
        experiment = parse(experiment_of(case, "Personalised"))
        build_federation(federation_spec(experiment)).save(folder / "federation")
    return case


def measured(name: str, case: Case) -> dict[str, Any]:
    """Measure a variant of ``child.py`` in a process of its own.

    Raises
    ------
    MeasurementError
        If it fails, with the end of what it said.
    """
    folder = Path(case.folder)
    given = folder / f"{name}.case.json"
    given.write_text(json.dumps(case.as_json()), encoding="utf-8")
    try:
        return spawned("child.py", name, str(given), folder=folder)
    except MeasurementError as error:
        raise MeasurementError(f"{case.workload}, {name}: {error}") from error


def spawned(script: str, *arguments: str, folder: Path) -> dict[str, Any]:
    """Run a script of this folder in a new process; return what it writes.

    Parameters
    ----------
    script : str
        Its file; the last argument it gets is the JSON file to write.
    *arguments
        Those before.
    folder : Path
        For that file, and for what Flower writes.
    """
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [sys.executable, str(HERE / script), *arguments, str(result)],
            env={**os.environ, **ENVIRONMENT, "FLWR_HOME": str(folder / "flwr")},
            capture_output=True,
            encoding="utf-8",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise MeasurementError(f"it took more than {TIMEOUT:.0f} s") from error
    if done.returncode or not result.is_file():
        end = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise MeasurementError(f"it failed with code {done.returncode}:\n{end}")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found


def machine() -> dict[str, Any]:
    """Describe where the figures were measured."""
    packages = ("torch", "flwr", "ray", "numpy", "fedkt")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
        "load": [round(x, 2) for x in os.getloadavg()],
        "date": time.strftime("%Y-%m-%d %H:%M"),
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()
