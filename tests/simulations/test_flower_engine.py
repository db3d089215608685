"""Flower's own simulation engine: the same ServerApp and ClientApp, the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedkt.clients import FileStore
from fedkt.errors import RunFailedError
from fedkt.simulations.engines.flower_engine import FlowerEngine
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import RUN, prepare
from fedkt.simulations.runs.run import execute

# Gives up in the third round while a file called "armed" lies beside it.
QUITTER = """
from pathlib import Path
from fedkt.errors import RunFailedError
from fedkt.strategies import {base}

class Quitter({base}):
    def fuse(self, uploads):
        self.memory["fused"] = self.memory.get("fused", 0) + 1
        if self.memory["fused"] == 3 and (Path(__file__).parent / "armed").exists():
            raise RunFailedError("quitter gives up")
        return super().fuse(uploads)
"""


@pytest.mark.flower
@pytest.mark.parametrize(
    ("base", "models"),
    [("KnFu", ["cnn", "mlp", "forest"]), ("FedAvg", ["cnn"])],
    ids=["knfu", "fedavg"],
)
def test_a_run_may_move_to_flower_fail_there_and_come_back(
    here: Path,
    tiny: Any,
    figures: Any,
    final_state: Any,
    base: str,
    models: Any,
    stop_after: Any,
) -> None:
    """Round 1 in this process, round 2 on Flower, round 3 in this process again."""
    (here / "quitter.py").write_text(QUITTER.format(base=base), encoding="utf-8")
    same = {"models": models, "rounds": 3, "strategy": {"name": "quitter.py:Quitter"}}
    same["strategy"]["local_epochs"] = 1
    in_process = prepare(tiny(**same))
    execute(in_process, here / "whole", label="x")
    (here / "armed").touch()
    with pytest.raises(KeyboardInterrupt):
        execute(in_process, here / "run", label="x", progress=stop_after(1))
    on_flower = prepare(tiny(**same, run={"grid": "flower", "workers": 1}))
    with pytest.raises(RunFailedError, match="quitter gives up"):
        execute(on_flower, here / "run", label="x")
    assert [row["round"] for row in read_rounds(here / "run")] == [1, 2]
    assert not (here / "run" / "flower").exists(), "nothing is left behind"
    assert not (here / "run" / "summary.json").exists()
    (here / "armed").unlink()
    execute(in_process, here / "run", label="x")
    assert figures(here / "run") == figures(here / "whole")
    assert final_state(here / "run") == final_state(here / "whole")


def test_state_lies_in_files(tmp_path: Path, tiny: Any) -> None:
    plan = prepare(tiny())
    engine = FlowerEngine(plan.population, plan.federation, 1, tmp_path / "flower")
    assert engine.snapshot() == {}
    where = {"run": RUN, "round": 1, "phase": "train", "first": "1-train"}
    states = {c: {**where, "knowledge": {}, "learner": {"n": c}} for c in (0, 2, 10)}
    engine.restore(states)
    assert engine.snapshot() == states
    assert list(engine.snapshot()) == [0, 2, 10]
    engine.restore({1: states[2]})
    assert engine.snapshot() == {1: states[2]}, "restoring replaces everything"


def test_what_a_killed_run_left_behind_is_not_taken_up(tmp_path: Path, tiny: Any) -> None:
    """State of a round that was cut off before its checkpoint would change the figures."""
    FileStore(tmp_path / "flower" / "state").put(
        RUN, 0, 1, "train", {"started": True, "knowledge": {}}
    )
    plan = prepare(tiny())
    engine = FlowerEngine(plan.population, plan.federation, 1, tmp_path / "flower")
    assert engine.snapshot() == {}
