"""One measurement in a process of its own: ``python child.py NAME CASE.json RESULT.json``.

The figures of one variant are then free of what another has left in memory.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from workloads import Case

Result = dict[str, Any]


def _ours(case: Case, grid: Any, **run: Any) -> Result:
    from ours import run_ours

    return run_ours(case, grid, **run)


def _lean(case: Case, channels_last: bool) -> Result:
    from loops import run_lean

    return run_lean(case, channels_last)


def _typical(case: Case, batch: int) -> Result:
    from loops import run_typical

    return run_typical(replace(case, batch=batch), one_in=10)


def _stock(case: Case) -> Result:
    from stock import run_stock

    return run_stock(case)


def _noop(case: Case) -> Result:
    from stock import run_noop

    return run_noop(case)


def _scaled(case: Case, grid: Any, strategy: str, files: bool = False) -> Result:
    from scale import run_scaled

    return run_scaled(case, grid, strategy, files)


VARIANTS: Mapping[str, Callable[[Case], Result]] = {
    "ours-ray": lambda case: _ours(case, "ray"),
    "ours-in-process": lambda case: _ours(case, "in-process"),
    "ours-ray-compiled": lambda case: _ours(case, "ray", training={"compile": True}),
    "ours-compiled": lambda case: _ours(case, "in-process", training={"compile": True}),
    "ours-bfloat16": lambda case: _ours(case, "in-process", training={"precision": "bfloat16"}),
    "ours-loop": lambda case: _ours(case, "in-process", executor="loop"),
    "ours-batch-10": lambda case: _ours(replace(case, batch=10), "in-process"),
    "stock": _stock,
    "lean": lambda case: _lean(case, False),
    "lean-channels-last": lambda case: _lean(case, True),
    "typical": lambda case: _typical(case, case.batch),
    "typical-batch-10": lambda case: _typical(case, 10),
    "empty-ray": lambda case: _ours(case, "ray", strategy="Empty"),
    "empty-in-process": lambda case: _ours(case, "in-process", strategy="Empty"),
    "exchange-ray": lambda case: _ours(case, "ray", strategy="Exchange"),
    "exchange-in-process": lambda case: _ours(case, "in-process", strategy="Exchange"),
    "noop-stock": _noop,
    "nearest-ray": lambda case: _scaled(case, "ray", "Nearest"),
    "nearest-in-process": lambda case: _scaled(case, "in-process", "Nearest"),
    "averaged-in-memory": lambda case: _scaled(case, "in-process", "Averaged"),
    "averaged-in-files": lambda case: _scaled(case, "in-process", "Averaged", files=True),
}


def main(name: str, case: Path, result: Path) -> None:
    """Measure and write the result."""
    torch.set_num_threads(1)
    found = VARIANTS[name](Case(**json.loads(case.read_text(encoding="utf-8"))))
    result.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
