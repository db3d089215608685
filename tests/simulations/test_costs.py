"""The arithmetic of a round, and the warning where the fusion is most of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from fedkt.simulations.runs.costs import flops_by_client, forward_flops, fusion_warning
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute
from fedkt.strategies.answers.knfu import KnFu

OUTSIDE = Path(__file__).parents[1] / "conformance" / "outside"
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
        super().__init__(local_epochs=2, distil_epochs=3, rehearsal=1.0, distil_steps=0)
        self._flops = flops
        self.asked: list[Any] = []

    def fusion_flops(self, clients: int, rows: float, classes: int) -> float:
        self.asked.append((clients, rows, classes))
        return self._flops


def test_an_answer_costs_its_matrix_products() -> None:
    layers = nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)
    assert forward_flops(nn.Sequential(*layers), (1, 8, 8)) == 2 * (64 * 32 + 32 * 10)


def rehearsed(private: int, public: int, plan: Any) -> int:
    """Return the private samples in as many batches as there are of three passes of 40."""
    sizes = plan.population.training
    batches = 3 * -(-(public // 3) // sizes.public_batch_size)
    full, rest = divmod(private, sizes.batch_size)
    of_a_pass = [sizes.batch_size] * full + [rest] * bool(rest)
    return sum(of_a_pass[number % len(of_a_pass)] for number in range(batches))


def test_the_warning_comes_where_the_fusion_outgrows_the_clients(tiny: Any) -> None:
    plan = prepare(tiny(models=["linear"]))
    # Two passes over private data; three over 40 public samples, with a private batch beside each
    # public one; and an answer for each.
    rows = 0
    for client in range(3):
        private = len(plan.federation.client(client).train)
        rows += 3 * (2 * private + 3 * 40 + rehearsed(private, 3 * 40, plan)) + 40
    own = rows * 2 * 64 * 10
    strategy = Costing(own)
    assert fusion_warning(strategy, plan.population, plan.federation) is None
    assert strategy.asked == [(3, 40, 10)]
    warning = fusion_warning(Costing(1.01 * own), plan.population, plan.federation)
    assert warning is not None
    assert "for each of 3 clients" in warning


def flops(tiny: Any, strategy: Any, **changes: Any) -> tuple[float, float, int]:
    """Return the FLOPs of client 0 by answers of the linear model, and its training samples."""
    plan = prepare(tiny(models=["linear"], strategy=strategy, **changes))
    before, after = flops_by_client(plan.recipe, plan.population, plan.federation)(0)
    answer = 2 * 64 * 10
    return before / answer, after / answer, len(plan.federation.client(0).train)


def test_a_client_costs_its_training_and_its_answers(tiny: Any) -> None:
    fedmd = {"name": "fedmd", "local_epochs": 2, "distil_epochs": 3, "distil_steps": 0}
    before, after, private = flops(tiny, {**fedmd, "public_samples": 16})
    assert before == 3 * 2 * private + 16, "it distils, and answers, only what is drawn"
    assert after == 3 * 3 * 16
    before, after, private = flops(tiny, {"name": "fedpf", "local_epochs": 2, "readout": "mix"})
    assert before == 3 * 2 * private + 40
    _, plain, _ = flops(tiny, {"name": "fedpf", "local_epochs": 2, "readout": "raw"})
    assert after - plain == 3 * 2 * private, "the copy of the read-out is trained once more"


def test_class_means_cost_an_answer_for_each_sample(tiny: Any) -> None:
    (before, after, private) = flops(tiny, {"name": f"{OUTSIDE / 'fd.py'}:FD", "local_epochs": 2})
    assert (before, after) == (3 * 2 * private + private, 0)


def test_a_net_beside_the_model_costs_as_much_again(tiny: Any) -> None:
    plan = prepare(tiny(models=["mlp"], strategy={"name": f"{OUTSIDE / 'fml.py'}:FML"}))
    assert plan.recipe.heads[0].model == "mlp"
    before, _ = flops_by_client(plan.recipe, plan.population, plan.federation)(0)
    rows = before / (2 * 2 * (64 * 64 + 64 * 10))
    private = len(plan.federation.client(0).train)
    assert rows == 3 * sum(step.epochs for step in plan.recipe.learn[-1:]) * private


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
