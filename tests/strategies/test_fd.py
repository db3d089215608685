"""FD: algorithm 1 in numbers, masked classes, and its limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fedkt.objectives import KL, Outputs
from fedkt.simulations.experiment.config import parse
from fedkt.simulations.results.rounds import read_rounds
from fedkt.simulations.runs.plan import prepare
from fedkt.simulations.runs.run import execute
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.prototypes.fd import FD, ClassTeacher

from .by_hand import assert_equal_runs, batch_of, uploads_of_rows

TOLD = (
    {0: ([1.0, 0.0, 0.0], 5), 2: ([0.0, 0.0, 4.0], 1)},
    {0: ([3.0, 0.0, 0.0], 1)},
    {0: ([5.0, 2.0, 0.0], 90)},
)


def teachers():
    fused = FD().fuse(uploads_of_rows("class-logits", "class-logits", *TOLD))
    assert fused.shared == {}
    return [fused.personal[client]["class-logits"] for client in range(3)]


def test_each_client_gets_the_mean_of_the_others_with_the_class() -> None:
    """Algorithm 1: [3, 0, 0] and [5, 2, 0] for client 0, whatever their numbers of samples."""
    values, classes = teachers(), torch.tensor([0, 1, 2])
    assert [v.known_at(classes)[1].tolist() for v in values] == [
        [True, False, False],  # nobody else has class 2
        [True, False, True],
        [True, False, True],
    ]
    assert values[0].at(torch.tensor(0)).tolist() == [4.0, 1.0, 0.0]
    assert values[1].at(torch.tensor([0, 2])).tolist() == [[3.0, 1.0, 0.0], [0.0, 0.0, 4.0]]
    assert values[2].at(torch.tensor([0, 2])).tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 4.0]]


def test_alone_there_is_no_teacher() -> None:
    fused = FD().fuse(uploads_of_rows("class-logits", "class-logits", TOLD[0]))
    known = fused.personal[0]["class-logits"].known_at(torch.tensor([0, 2]))[1]
    assert not bool(known.any())


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("form", ["logits", "probabilities"])
def test_the_loss_is_the_divergence_from_the_teacher_of_the_class(form, temperature) -> None:
    """T² Σ_c t_c log(t_c / s_c), the mean over a batch of which one class has no teacher."""
    z = np.array([[1.0, 2.0, 3.0], [0.5, 0.0, 0.0], [9.0, 9.0, 0.0]])
    told = np.array([4.0, 1.0, 0.0])

    def softmax(x):
        return np.exp(x) / np.exp(x).sum()

    teacher = softmax(told / temperature)
    known = teachers()[0]
    if form == "probabilities":
        known = known.with_tensors({"values": torch.softmax(known.values / temperature, -1)})
    student = softmax(z[0] / temperature)
    by_hand = temperature**2 * (teacher * np.log(teacher / student)).sum() / 2
    term = ClassTeacher(KL(temperature), form)
    outputs = Outputs(torch.tensor(z, dtype=torch.float32), None, {})
    loss = term(outputs, batch_of([0, 2, 0], [1, 1, 0]), {"class-logits": known})
    assert float(loss) == pytest.approx(by_hand, rel=1e-5)


def test_the_teacher_is_a_distribution_and_its_loss_has_a_minimum() -> None:
    """Scaling the answers up cannot drive the loss below 0, as it does with raw logits."""
    for scale in (1.0, 100.0):
        outputs = Outputs(scale * torch.tensor([[4.0, 1.0, 0.0]]), None, {})
        assert float(ClassTeacher()(outputs, batch_of([0]), {"class-logits": teachers()[0]})) >= 0


def test_options_reach_the_recipe() -> None:
    recipe = FD(form="probabilities", temperature=2, local_epochs=3).recipe()
    assert (recipe.share[0].form, recipe.share[0].temperature) == ("probabilities", 2)
    assert FD(temperature=2).recipe().share[0].temperature == 1
    assert type(recipe).from_json(recipe.to_json()) == recipe


def test_without_teachers_it_is_local_training(world, with_options) -> None:
    assert_equal_runs(world, with_options(FD(gamma=0)), with_options(Local()))


def test_where_programs_with_raw_targets_end_in_nan_it_finishes(tmp_path: Path) -> None:
    """Cross-entropy against raw mean logits is unbounded below: they diverge in round 3 to 5."""
    given = {
        "rounds": 10,
        "models": ["mlp"],
        "data": {"dataset": "digits", "clients": 20, "partition": "dirichlet:0.1"},
        "training": {"optimiser": "sgd", "learning_rate": 0.01, "batch_size": 10, "momentum": 0},
        "strategy": {"name": "fd", "gamma": 1.0},
        "run": {"grid": "in-process"},
    }
    execute(prepare(parse(given)), tmp_path / "run", label="fd")
    losses = [row["training_loss"]["per_client"] for row in read_rounds(tmp_path / "run")]
    assert all(loss is not None and 0 <= loss < 3 for row in losses for loss in row)
    means = [sum(row) / len(row) for row in losses]
    assert means[-1] < means[0]
