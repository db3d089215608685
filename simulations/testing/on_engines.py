"""Running a strategy on any engine by the real path, files included."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from fedkt.simulations.results.checkpoints import newest
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import Plan
from fedkt.simulations.runs.progress import Silent
from fedkt.simulations.runs.run import execute
from fedkt.testing.kit import BATCH, Method, figures, plan_for


@lru_cache
def plan_on(
    method: Method, grid: str, workers: int = 1, rounds: int = 2, executor: str = ""
) -> Plan:
    """Five clients, so that two workers hold different numbers of them; three take part.

    Equal plans share their federation, and Ray's workers its tensors.
    """
    run: dict[str, Any] = {"executor": executor} if executor else {}
    return plan_for(
        method,
        models=method.models,
        clients=5,
        rounds=rounds,
        participation=0.6,
        batch=2 * BATCH,
        grid=grid,
        workers=workers,
        **run,
    )


def run_in(folder: Path, plan: Plan, progress: Silent | None = None) -> dict[str, Any]:
    """Run a plan in a folder, or go on there; return what its files say at the end.

    Returns
    -------
    dict
        ``rounds``: the figures; ``strategy`` and ``clients``: the last checkpoint.
    """
    execute(plan, folder, label="conformance", progress=progress)
    saved = newest(folder / "checkpoints", at_most=plan.experiment.rounds)
    assert saved is not None, "a finished run has a checkpoint"
    assert saved[0] == plan.experiment.rounds, "the last checkpoint is of the last round"
    return {"rounds": [figures(r) for r in read_rounds(folder)], **saved[1]}
