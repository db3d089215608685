"""``fedkt doctor``: whether this machine can run simulations."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable
from functools import partial

PACKAGES = ("torch", "flwr", "ray", "flwr-datasets", "numpy", "scikit-learn", "matplotlib")
NEEDED_GB = 2.0


def examine() -> bool:
    """Print one line for each check; return whether all of them pass."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("Python", platform.python_version),
        *((name, partial(importlib.metadata.version, name)) for name in PACKAGES),
        ("CPUs", lambda: str(os.cpu_count())),
        ("memory", _memory),
        ("disk", _disk),
        ("GPU", _gpu),
        ("Ray starts", _ray),
        ("a federation runs", _federation),
    ]
    well = True
    for name, check in checks:
        try:
            print(f"ok    {name}: {check()}", flush=True)
        except Exception as error:  # any error is a finding
            print(f"FAIL  {name}: {type(error).__name__}: {error}", flush=True)
            well = False
    return well


def _memory() -> str:
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    gigabytes = pages * size / 1e9
    if gigabytes < NEEDED_GB:
        raise RuntimeError(f"{gigabytes:.1f} GB; Ray needs {NEEDED_GB:g} GB or more")
    return f"{gigabytes:.1f} GB"


def _disk() -> str:
    free = shutil.disk_usage(".").free / 1e9
    if free < NEEDED_GB:
        raise RuntimeError(f"{free:.1f} GB free here; {NEEDED_GB:g} GB are needed")
    return f"{free:.1f} GB free here"


def _gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none (CPU is used)"


def _ray() -> str:
    import ray

    from fedkt.simulations.engines.ray_session import join_ray

    joined = join_ray(1, None)
    cpus = int(ray.cluster_resources().get("CPU", 0))
    if joined:
        ray.shutdown()
    return f"{ray.__version__}, {cpus} CPU"


def _federation() -> str:
    import tempfile
    from pathlib import Path

    from fedkt.evaluation.figure import value_of
    from fedkt.evaluation.figures import GLOBAL
    from fedkt.simulations.experiment import config
    from fedkt.simulations.results.rounds import read_rounds
    from fedkt.simulations.runs.plan import prepare
    from fedkt.simulations.runs.run import execute

    tiny = {"clients": 2, "partition": "iid", "samples_per_client": 50, "test_samples": 100}
    experiment = config.parse(
        {"rounds": 1, "models": ["mlp"], "data": tiny, "run": {"grid": "in-process"}}
    )
    with tempfile.TemporaryDirectory() as folder:
        execute(prepare(experiment), Path(folder), label="doctor")
        mean = value_of(read_rounds(Path(folder))[-1], GLOBAL.name) or 0.0
    return f"two clients, one round, global accuracy {100 * mean:.0f} %"
