"""Learners of model references: names of registered models, or functions in files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedkt import registry
from fedkt.clients.learners.base import Learner
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.models import builder
from fedkt.recipe import Recipe
from fedkt.rng import global_torch_stream


def make_learner(
    reference: str, input_shape: tuple[int, ...], num_classes: int, device: str = "cpu"
) -> Learner:
    """Return a learner for a model reference: the registered one that takes such a model."""
    learner = _learner_class(reference, input_shape, num_classes)
    build = builder(reference, input_shape, num_classes)
    made: Learner = learner(build, num_classes, reference, device)
    made.input_shape = tuple(input_shape)
    return made


def first_weights(learner: Learner, recipe: Recipe, seed: int, name: int) -> Knowledge:
    """Return the first global weights of a recipe: of all shares that begin with some.

    Parameters
    ----------
    learner : Learner
        A learner of the clients' architecture; where only nets beside the models are shared, of any
        that can follow the recipe. It ends as the untrained model with these weights.
    recipe : Recipe
        The recipe.
    seed, name : int
        They name the random stream; ``name`` is the server's.
    """
    learner.follow(recipe)
    learner.reset(seed, name)
    parts = [share.first(learner) for share in recipe.share if share.begins]
    tensors = {n: t for part in parts if part is not None for n, t in part.tensors.items()}
    return Knowledge("weights", tensors) if tensors else learner.weights()


def networks_among(
    references: Sequence[str], input_shape: tuple[int, ...], num_classes: int
) -> list[str]:
    """Return the references of networks among model references, in order, each once."""
    return [
        reference
        for reference in dict.fromkeys(references)
        if _learner_class(reference, input_shape, num_classes).is_network
    ]


def _learner_class(reference: str, input_shape: tuple[int, ...], num_classes: int) -> Any:
    """Return the class of the learner that takes a model; one's own come before the built-in."""
    build = builder(reference, input_shape, num_classes)
    with global_torch_stream(0, "probe"):
        model = build()
    learners = [registry.lookup("learners", name) for name in registry.names("learners")]
    taking = [learner for learner in learners if learner.takes(model)]
    if not taking:
        raise ConfigError(
            f"model {reference!r} gives a {type(model).__name__!r} object, neither a torch module "
            "nor an estimator with fit and predict_proba, and no other learner takes it."
        )
    return min(taking, key=lambda learner: learner.__module__.startswith("fedkt."))
