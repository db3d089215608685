"""What clients keep for themselves is the same in memory, on disk and on Flower's engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fedkt.simulations.experiment.config import parse
from fedkt.simulations.experiment.references import read_strategy
from fedkt.simulations.results import checkpoints
from fedkt.simulations.runs.run import execute, prepare

FILE = Path(__file__).parents[1] / "conformance" / "outside" / "moon.py"


def states(folder: Path, **run: Any) -> dict[int, Any]:
    """Return the clients' states after two rounds of MOON, with images and convolutions."""
    plan = prepare(parse({
        "rounds": 2,
        "models": ("cnn",),
        "strategy": {**read_strategy(f"{FILE}:Moon"), "local_epochs": 1},
        "data": {"clients": 2, "samples_per_client": 16, "test_samples": 20, "public_samples": 10},
        "training": {"batch_size": 8},
        "run": {"grid": "in-process", "workers": 1, "executor": "loop", **run},
    }))  # fmt: skip
    execute(plan, folder, label="moon")
    saved = checkpoints.newest(folder / "checkpoints", at_most=2)
    assert saved is not None
    return saved[1]["clients"]


@pytest.mark.parametrize("run", [{"state": "disk"}, {"grid": "flower"}], ids=str)
def test_every_engine_keeps_the_same(run: dict[str, Any], tmp_path: Path) -> None:
    plain = states(tmp_path / "memory")
    other = states(tmp_path / "other", **run)
    for client, state in plain.items():
        kept = state["own"]["previous"].tensors
        assert all(tensor.is_contiguous() for tensor in kept.values())
        for name, tensor in kept.items():
            assert torch.equal(tensor, other[client]["own"]["previous"].tensors[name]), name
        for name, tensor in state["learner"]["model"].items():
            assert torch.equal(tensor, other[client]["learner"]["model"][name]), name
