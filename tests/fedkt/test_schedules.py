"""Schedules: their values, where they may stand, and what a step is at a moment of the run."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from fedkt.errors import ConfigError
from fedkt.objectives import KL, CrossEntropy, Distil
from fedkt.recipe import Recipe, Train, Weighted
from fedkt.schedules import Constant, Cosine, Linear, Schedule, StepDown, WarmUp, at, is_scheduled


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.3), [0.3, 0.3, 0.3, 0.3, 0.3]),
        (Linear(2.0, 1.0), [2.0, 1.75, 1.5, 1.25, 1.0]),
        (Cosine(2.0, 1.0), [2.0, 1.5 + math.sqrt(0.125), 1.5, 1.5 - math.sqrt(0.125), 1.0]),
        (StepDown(8.0, 0.5, (0.25, 0.75)), [8.0, 4.0, 4.0, 2.0, 2.0]),
        (WarmUp(0.5), [0.0, 0.5, 1.0, 1.0, 1.0]),
        (WarmUp(0.5, Cosine(2.0, 0.0)), [0.0, 0.5, 1.0, 1 - math.sqrt(0.5), 0.0]),
    ],
)
def test_values(schedule: Schedule, values: list[float]) -> None:
    assert [schedule.value(p / 4) for p in range(5)] == pytest.approx(values, abs=1e-12)


STEP = Train(
    "public", [Weighted(Cosine(), Distil(KL(Cosine(4.0, 2.0)))), CrossEntropy()], rate=StepDown()
)


def test_a_step_at_a_moment() -> None:
    expected = Train(
        "public", (Weighted(0.5, Distil(KL(3.0))), CrossEntropy()), rate=StepDown().value(0.5)
    )
    now = at(STEP, 0.5)
    assert now == expected
    assert now.terms[1] is STEP.terms[1]
    assert at(expected, 0.5) is expected


def test_a_recipe_that_holds_one_follows_progress_and_travels() -> None:
    steps = [Train("private", [CrossEntropy()], rate=Cosine())]
    recipe = Recipe(learn=steps)
    assert recipe.follows_progress
    assert not Recipe(learn=[Train("private", [CrossEntropy()])]).follows_progress
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert is_scheduled(STEP)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: KL(WarmUp()), r"kl: temperature must be a finite number above 0, or a schedule"),
        (
            lambda: Train("private", [CrossEntropy()], rate=Cosine(1, -1)),
            "rate must be .* schedule",
        ),
        (lambda: Weighted("much", CrossEntropy()), "factor must be .* schedule of such values"),
        (lambda: WarmUp(0.0), "warm-up: part_of_run must be"),
        (lambda: StepDown(points=(2,)), r"points must be numbers in \[0, 1\]"),
    ],
)
def test_values_that_are_not_allowed(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_temperature_that_changes_has_no_value_outside_a_run() -> None:
    with pytest.raises(ConfigError, match="within a Train step of a run"):
        KL(Cosine(2.0, 1.0))(torch.zeros(1, 2), torch.zeros(1, 2), "logits")
