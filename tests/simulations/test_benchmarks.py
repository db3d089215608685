"""The benchmarks are measured by hand; that they still begin is tested."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

SPEED = Path(__file__).parents[2] / "benchmarks" / "speed"


def test_a_workload_is_prepared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SPEED))
    import bench
    import workloads

    case = workloads.Case("W2", clients=3, private=20, public=30, folder="")
    ready = bench.prepared(case, tmp_path)
    assert (Path(ready.folder) / "federation").is_dir()
    for name in ("bench", "workloads"):
        sys.modules.pop(name)
