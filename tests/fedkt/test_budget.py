"""The private training of a recipe, in words and as a recipe of its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkt.objectives import KL, AdjustedCrossEntropy, CrossEntropy, Distil
from fedkt.recipe import Load, Predict, Recipe, Train, Weights
from fedkt.recipe.budget import alone, described
from fedkt.strategies.answers.fedmd import FedMD
from fedkt.strategies.answers.fedpf import FedPF
from fedkt.strategies.answers.knfu import KnFu
from fedkt.strategies.baselines.local import Local
from fedkt.strategies.baselines.pooled import Pooled
from fedkt.strategies.domains.fedka_free import FedKAFree
from fedkt.strategies.weights.fedavg import FedAvg

CE = [CrossEntropy()]


def private(epochs: int, **options) -> Train:
    return Train("private", CE, epochs, **options)


def distil(epochs: int, **options) -> Train:
    return Train("public", [Distil(KL())], epochs, rehearse=CE, **options)


@given(
    st.integers(0, 5), st.integers(0, 40), st.integers(0, 30), st.integers(1, 9), st.integers(0, 40)
)
def test_a_step_takes_its_epochs_or_the_least_steps(
    epochs: int, total: int, samples: int, size: int, least: int
) -> None:
    step = private(epochs, samples=samples, least_steps=least)
    passes = step.passes(total, size)
    seen = min(samples or total, total)
    whole = -(-seen // size)
    assert sum(passes) == (max(epochs * whole, least) if whole else 0)
    assert all(count == whole for count in passes[:-1])
    assert all(0 < count <= whole for count in passes) or not whole
    short = whole * size - seen  # rows that the last batch of a whole pass lacks
    assert step.rows(total, size) == sum(passes) * size - short * passes.count(whole)


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
        (
            Recipe(share=[Predict()], absorb=[distil(1, least_steps=9)]),
            [private(1, pace="public", least_steps=9)],
        ),
        (Recipe(learn=[private(2, least_steps=9)] * 2), [private(4, least_steps=18)]),
        (
            Recipe(learn=[private(2, least_steps=9), private(1, least_steps=9)]),
            [private(2, least_steps=9), private(1, least_steps=9)],
        ),
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
        (FedPF(distil_steps=0), 400, "5 epochs + 21 rehearsed batches"),
        (FedPF(), 400, "5 epochs + 30 rehearsed batches"),
        (FedPF(), 700, "5 epochs + 33 rehearsed batches"),
        (FedPF(public_samples=65, distil_steps=5), 400, "5 epochs + 6 rehearsed batches"),
        (FedPF(public_samples=500, distil_steps=3), 64, "5 epochs + 3 rehearsed batches"),
        (
            KnFu(rehearsal=0.5, distil_epochs=1, distil_steps=1),
            50,
            "5 epochs + 1 rehearsed batches",
        ),
        (FedMD(rehearsal=1, local_epochs=0, distil_steps=2), 100, "6 rehearsed batches"),
        (FedKAFree(local_samples=9), 300, "1 epochs of 9 samples + 5 rehearsed batches"),
        (FedPF(readout="mix"), 64, "5 epochs + 30 rehearsed batches + 5 epochs once"),
        (Local(local_epochs=0), 64, "0 epochs"),
        (Pooled(local_steps=32), 64, "32 steps"),
    ],
)
def test_described(strategy, public: int, said: str) -> None:
    assert described(strategy.recipe(), public, 64) == said
