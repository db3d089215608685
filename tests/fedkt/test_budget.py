"""The private training of a recipe, in words and as a recipe of its own."""

from __future__ import annotations

import pytest

from fedkt.objectives import KL, AdjustedCrossEntropy, CrossEntropy, Distil
from fedkt.recipe import Load, Predict, Recipe, Train, Weights
from fedkt.recipe.budget import alone, described
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.answers.fedpf import FedPF
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.domains.fedka_free import FedKAFree
from fedkt.strategies.weights.fedavg import FedAvg

CE = [CrossEntropy()]


def private(epochs: int, **options) -> Train:
    return Train("private", CE, epochs, **options)


def distil(epochs: int, **options) -> Train:
    return Train("public", [Distil(KL())], epochs, rehearse=CE, **options)


@pytest.mark.parametrize("strategy", [KnFu(), FedMD(), FedAvg(), Local(), FedPF(mu=0)])
def test_without_rehearsal_it_is_the_private_epochs(strategy) -> None:
    recipe = strategy.recipe()
    assert alone(recipe) == alone(recipe, rehearsal=False) == Local(local_epochs=5).recipe()
    assert described(recipe, 400, 64) == "5 epochs"


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [
        (Recipe(learn=[private(2), private(3)]), [private(5)]),
        (
            Recipe(learn=[private(2, samples=9), private(1, samples=4), private(1)]),
            [private(2, samples=9), private(1, samples=4), private(1)],
        ),
        (
            Recipe(learn=[Load(), private(2)], share=[Weights()], absorb=[Load(), private(1)]),
            [private(3)],
        ),
        (
            Recipe(learn=[private(1)], share=[Predict()], absorb=[distil(3)]),
            [private(1), private(3, pace="public")],
        ),
        (
            Recipe(share=[Predict(samples=70)], absorb=[distil(2, batch_size=8)]),
            [private(2, pace="public", samples=70, batch_size=8)],
        ),
        (
            Recipe(share=[Predict(samples=70)], absorb=[distil(2, samples=50)]),
            [private(2, pace="public", samples=50)],
        ),
        (Recipe(learn=[private(0)], share=[Predict()], absorb=[distil(0)]), []),
    ],
)
def test_steps_of_training_alone(recipe: Recipe, steps: list[Train]) -> None:
    assert alone(recipe).learn == tuple(steps)
    assert alone(alone(recipe)) == alone(recipe)
    assert alone(recipe).share == alone(recipe).absorb == ()
    assert Recipe.from_json(alone(recipe).to_json()) == alone(recipe)


def test_terms_are_replaced_by_the_cross_entropy() -> None:
    step = Train("private", [AdjustedCrossEntropy()], epochs=2, rate=0.5)
    assert alone(Recipe(learn=[step])).learn == (private(2),)


def test_start_counts_once() -> None:
    recipe = Recipe(start=[private(7), Train("public", CE, 4)], learn=[private(2)])
    assert alone(recipe).start == (private(7),)
    assert described(recipe, 400, 64) == "2 epochs + 7 epochs once"


@pytest.mark.parametrize(("readout", "copies"), [("raw", 0), ("prior", 0), ("mix", 1), ("gate", 1)])
def test_a_read_out_s_copy_counts_once(readout: str, copies: int) -> None:
    recipe = FedPF(readout=readout, local_epochs=2).recipe()
    assert alone(recipe).start == (private(2),) * copies
    assert alone(recipe, rehearsal=False).start == ()


@pytest.mark.parametrize(
    ("strategy", "public", "said"),
    [
        (FedPF(), 400, "5 epochs + 21 rehearsed batches"),
        (FedPF(public_samples=65), 400, "5 epochs + 6 rehearsed batches"),
        (FedPF(public_samples=500), 64, "5 epochs + 3 rehearsed batches"),
        (KnFu(rehearsal=0.5, distil_epochs=1), 50, "5 epochs + 1 rehearsed batches"),
        (FedMD(rehearsal=1, local_epochs=0), 100, "6 rehearsed batches"),
        (FedKAFree(local_samples=9), 300, "1 epochs of 9 samples + 5 rehearsed batches"),
        (FedPF(readout="mix"), 64, "5 epochs + 3 rehearsed batches + 5 epochs once"),
        (Local(local_epochs=0), 64, "0 epochs"),
    ],
)
def test_described(strategy, public: int, said: str) -> None:
    assert described(strategy.recipe(), public, 64) == said
