"""The arithmetic of a round, and the warning where the fusion is most of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fedkt.simulations.runs.costs import forward_flops, fusion_warning
from fedkt.simulations.runs.run import execute, prepare
from fedkt.strategies.answers.knfu import KnFu

# Counts so many FLOPs of fusion that any federation is warned of it.
DEAR = """
from fedkt.strategies.answers.knfu import KnFu

class Dear(KnFu):
    def fusion_flops(self, clients, rows, classes):
        return 1e18
"""


class Costing(KnFu):
    """Its fusion costs what it is told."""

    def __init__(self, flops: float) -> None:
        super().__init__(local_epochs=2, distil_epochs=3, rehearsal=1.0)
        self._flops = flops
        self.asked: list[Any] = []

    def fusion_flops(self, clients: int, rows: float, classes: int) -> float:
        self.asked.append((clients, rows, classes))
        return self._flops


def test_an_answer_costs_its_matrix_products() -> None:
    layers = nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    assert forward_flops(nn.Sequential(*layers), (1, 8, 8)) == 2 * (64 * 32 + 32 * 10)


def test_the_warning_comes_where_the_fusion_outgrows_the_clients(tiny: Any) -> None:
    plan = prepare(tiny(models=["linear"]))
    private = len(plan.federation.rows) / 3
    # Two passes over private data; three over 40 public samples with as many private ones
    # beside them; and an answer for each.
    own = 3 * (3 * (2 * private + 3 * 40 * 2) + 40) * 2 * 64 * 10
    strategy = Costing(own)
    assert fusion_warning(strategy, plan.population, plan.federation) is None
    assert strategy.asked == [(3, 40, 10)]
    warning = fusion_warning(Costing(1.01 * own), plan.population, plan.federation)
    assert warning is not None
    assert "for each of 3 clients" in warning


@pytest.mark.parametrize("models", [["forest"], ["linear", "forest"], ["forest", "logistic"]])
def test_what_nobody_can_count_is_no_reason_for_a_warning(tiny: Any, models: list[str]) -> None:
    plan = prepare(tiny(models=models))
    assert fusion_warning(Costing(1e18), plan.population, plan.federation) is None


def test_knfu_counts_its_neighbours() -> None:
    assert KnFu().fusion_flops(100, 2000, 10) == 2 * 100 * 100 * 2000 * 10
    assert KnFu(nearest=5).fusion_flops(100, 2000, 10) == 2 * 100 * 5 * 2000 * 10
    assert KnFu(nearest=500).fusion_flops(100, 2000, 10) == KnFu().fusion_flops(100, 2000, 10)


def test_a_run_says_so(tmp_path: Path, tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "dear.py").write_text(DEAR, encoding="utf-8")
    strategy = {"name": f"{tmp_path / 'dear.py'}:Dear", "local_epochs": 1, "distil_epochs": 1}
    with caplog.at_level(logging.WARNING, logger="fedkt"):
        execute(prepare(tiny(rounds=1, strategy=strategy)), tmp_path / "run", label="x")
        execute(prepare(tiny(rounds=1)), tmp_path / "cheap", label="x")
    assert [r.message for r in caplog.records if "FLOP" in r.message] == [
        m for m in caplog.messages if m.startswith("dear: fusing for each of 3 clients")
    ]
    assert sum("FLOP" in message for message in caplog.messages) == 1
