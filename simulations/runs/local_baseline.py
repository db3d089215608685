"""Training alone beside a method: the baselines of negative transfer."""

from __future__ import annotations

from typing import Any

from fedkt.recipe import Recipe, trainings
from fedkt.recipe.budget import alone, described
from fedkt.simulations.experiment.config import Experiment
from fedkt.simulations.runs.plan import Plan

Budget = tuple[str, tuple[str, ...]]
"""The private training of a method in words, and the models that are trained."""


def local_twin(plan: Plan, rehearsal: bool = True) -> Experiment:
    """Return the experiment of the same clients, each alone with the same private budget.

    Its clients have the initial weights and the batches that those of a method which shares
    answers have. With methods that share weights it is not paired: their clients begin with one
    model for all and draw their batches from a stream of another name.

    Parameters
    ----------
    plan : Plan
        The method's.
    rehearsal : bool
        Whether the budget is private samples seen, rehearsal included, or private epochs.
    """
    section = _section(alone(plan.recipe, rehearsal)) or {
        "name": "local",
        "like": plan.experiment.strategy,
        "rehearsal": rehearsal,
    }
    return plan.experiment.with_values(strategy=section, models=plan.population.models)


def budget(plan: Plan, rehearsal: bool = True) -> Budget:
    """Return what a local baseline must match."""
    return private_training(plan, rehearsal), plan.population.models


def rehearses(plan: Plan) -> bool:
    """Return whether training alone for the same epochs sees fewer private samples."""
    return private_training(plan) != private_training(plan, rehearsal=False)


def private_training(plan: Plan, rehearsal: bool = True) -> str:
    """Return the private training of a round in words: ``5 epochs + 21 rehearsed batches``."""
    public_batch = plan.experiment.training.public_batch_size
    return described(alone(plan.recipe, rehearsal), len(plan.federation.public_x), public_batch)


def _section(recipe: Recipe) -> dict[str, Any] | None:
    """Return the options of ``local`` that give a recipe; None if there are none."""
    steps = trainings(recipe.learn)
    if (
        recipe.start
        or len(steps) > 1
        or any(step.pace or step.batch_size or step.least_steps for step in steps)
    ):
        return None
    epochs, samples = (steps[0].epochs, steps[0].samples) if steps else (0, 0)
    return {"name": "local", "local_epochs": epochs, "local_samples": samples}
