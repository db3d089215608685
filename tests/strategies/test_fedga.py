"""FedDG-GA: weights that follow generalisation gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkt.context import Round
from fedkt.errors import ConfigError
from fedkt.knowledge import Fused, Knowledge, Upload, Uploads
from fedkt.recipe import Recipe, Validation, Weights
from fedkt.strategies.weights.fedavg import FedAvg
from fedkt.strategies.weights.fedga import FedGA, adjusted

P = 64 * 10 + 10
EQUAL = torch.full((4,), 0.25, dtype=torch.float64)


def uploads(
    own: Mapping[int, float], received: Mapping[int, float], examples: Mapping[int, int]
) -> Uploads:
    """Make uploads with losses; accuracies move the other way."""

    def told(loss: float) -> torch.Tensor:
        return torch.tensor([loss, 1 - loss / 10])

    return Uploads([
        Upload(c, examples[c], {
            "weights": Knowledge("weights", {"w": torch.eye(8)[c]}),
            "validation": Knowledge(
                "statistics", {"own": told(own[c]), "received": told(received[c])}
            ),
        })
        for c in own
    ])  # fmt: skip


class At(FedGA):
    """FedGA in a round that is set."""

    now = Round(1, 1, (), 8, 0, (1,), 0, {})

    @property
    def round(self) -> Round:
        return self.now


def run_rounds(strategy: At, rounds: list[Uploads], total: int) -> list[list[float]]:
    """Fuse some rounds; return the weights of each, by client."""
    found = []
    for number, one in enumerate(rounds, 1):
        strategy.now = replace(strategy.now, number=number, total=total)
        fused: Fused = strategy.fuse(one)
        found.append(fused.shared["weights"].tensors["w"].tolist())
    return found


# --- the rule --------------------------------------------------------------------------------


def test_by_hand() -> None:
    gaps = torch.tensor([0.5, -0.3, 0.1, 0.1])
    expected = 0.25 + 0.05 * np.array([1.0, -1.0, 0.0, 0.0])
    assert np.allclose(adjusted(EQUAL, gaps, 0.05), expected)


def test_weights_stay_on_the_simplex() -> None:
    torch.manual_seed(0)
    for _ in range(200):
        weights = torch.rand(5, dtype=torch.float64)
        weights[torch.randint(5, ())] = 0
        moved = adjusted(weights / weights.sum(), torch.randn(5), float(torch.rand(())))
        assert float(moved.min()) >= 0
        assert float(moved.sum()) == pytest.approx(1)


@pytest.mark.parametrize("gap", [0.0, 2.5, -0.7])
def test_equal_gaps_change_nothing(gap) -> None:
    weights = torch.tensor([0.7, 0.2, 0.1])
    assert torch.equal(adjusted(weights, torch.full((3,), gap), 0.3), weights)


def test_no_step_changes_nothing() -> None:
    weights = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64)
    assert torch.allclose(adjusted(weights, torch.tensor([1.0, 2.0, 3.0]), 0.0), weights)


def test_a_larger_gap_means_a_larger_weight() -> None:
    gaps = torch.tensor([0.4, -1.0, 0.1, 2.0])
    moved = adjusted(EQUAL, gaps, 0.1)
    assert moved.argsort().tolist() == gaps.argsort().tolist()
    assert torch.allclose(moved, adjusted(EQUAL, 3 * gaps + 5, 0.1)), "units do not matter"


def test_the_order_of_clients_does_not_matter() -> None:
    order = torch.tensor([2, 0, 3, 1])
    weights = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    gaps = torch.tensor([0.4, -1.0, 0.1, 2.0])
    moved = adjusted(weights, gaps, 0.15)
    assert torch.allclose(adjusted(weights[order], gaps[order], 0.15), moved[order])


def test_one_client_has_all_the_weight() -> None:
    assert adjusted(torch.ones(1), torch.tensor([3.0]), 0.2).tolist() == [1.0]


# --- rounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["loss", "accuracy"])
def test_gaps_pair_this_rounds_figure_with_the_last_ones(metric) -> None:
    examples = {0: 10, 1: 10}
    first = uploads({0: 1.0, 1: 1.0}, {0: 9.0, 1: 0.0}, examples)
    # Aggregation in round 1 took client 0 from 1.0 to 1.5 and client 1 from 1.0 to 1.1.
    second = uploads({0: 0.0, 1: 5.0}, {0: 1.5, 1: 1.1}, examples)
    found = run_rounds(At(metric, strength=0.2), [first, second], total=4)
    assert found[0][:2] == [0.5, 0.5], "the first round is FedAvg's"
    step = 0.2 / 2 * (1 - 1 / 4)
    assert found[1][:2] == pytest.approx([0.5 + step, 0.5 - step])


def test_steps_shrink_linearly_to_nothing() -> None:
    examples, total = {0: 10, 1: 10}, 10
    same = uploads({0: 1.0, 1: 1.0}, {0: 2.0, 1: 1.0}, examples)
    found = run_rounds(At(strength=0.2), [same] * 10, total)
    moves = np.diff([w[0] for w in found])
    assert moves == pytest.approx([0.1 * (1 - r / total) for r in range(1, 10)], abs=1e-6)
    strategy = At()
    strategy.now = replace(strategy.now, number=total + 1, total=total)
    assert strategy._step(2) == 0


def test_who_sat_out_keeps_its_weight() -> None:
    examples = {0: 10, 1: 30, 2: 40}
    first = uploads({0: 1.0, 1: 1.0}, {0: 1.0, 1: 1.0}, examples)
    second = uploads({1: 1.0, 2: 1.0}, {1: 3.0, 2: 7.0}, examples)
    third = uploads({0: 1.0, 1: 1.0, 2: 1.0}, {0: 9.0, 1: 1.0, 2: 2.0}, examples)
    found = run_rounds(At(strength=0.3), [first, second, third], total=3)
    assert found[0][:3] == pytest.approx([0.25, 0.75, 0.0])
    # One known gap: nothing stands out.
    assert found[1][:3] == pytest.approx([0.0, 3 / 7, 4 / 7])
    # Client 0 was not in round 2: its gap counts as the mean of 0 and 1.
    step = 0.1 * (1 - 2 / 3)
    assert found[2][:3] == pytest.approx([1 / 8, 3 / 8 - step, 1 / 2 + step])


def test_nobody_has_examples() -> None:
    none = uploads({0: 1.0, 1: 1.0}, {0: 2.0, 1: 1.0}, {0: 0, 1: 0})
    assert run_rounds(At(), [none, none], 2) == [[0.5, 0.5, *[0.0] * 6]] * 2


def test_the_first_round_is_that_of_fedavg(world, with_options) -> None:
    one, two = (world().start(with_options(s(local_epochs=1)), 1) for s in (FedGA, FedAvg))
    for name in two.arrays:
        assert np.array_equal(one.arrays[name].numpy(), two.arrays[name].numpy())


def test_no_strength_is_fedavg(world, with_options) -> None:
    one = world().start(with_options(FedGA(strength=0, local_epochs=1)), 3)
    two = world().start(with_options(FedAvg(local_epochs=1)), 3)
    for name in two.arrays:
        assert np.allclose(one.arrays[name].numpy(), two.arrays[name].numpy(), atol=1e-6)


def test_bytes_are_those_of_the_docstring(world, with_options) -> None:
    run = world()
    run.start(with_options(FedGA(local_epochs=1)), 3)
    assert [r.traffic.up for r in run.reports] == [4 * (4 * P + 16)] * 3
    assert [r.traffic.down_broadcast for r in run.reports] == [8 * 4 * P] + [4 * 4 * P] * 2


def test_every_round_tells_its_weights(world, with_options) -> None:
    run = world()
    run.start(with_options(FedGA(local_epochs=1)), 3)
    told = [r.diagnostics for r in run.reports]
    assert [len(d["gaps"]) for d in told] == [0, 4, 4]
    assert told[0]["weights"].tolist() == [0.25] * 4
    assert all(float(d["weights"].sum()) == pytest.approx(1) for d in told)
    assert told[2]["weights"].tolist() != told[1]["weights"].tolist() != [0.25] * 4


def test_recipe() -> None:
    recipe = FedGA(local_epochs=4).recipe()
    assert recipe.share == (Weights(), Validation())
    assert recipe.learn[1].epochs == 4
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "f1"}, "one of loss, accuracy, not 'f1'"),
        ({"strength": 1.5}, r"\[0, 1\], not 1.5"),
    ],
)
def test_options_are_checked(options, said) -> None:
    with pytest.raises(ConfigError, match=said):
        FedGA(**options)
