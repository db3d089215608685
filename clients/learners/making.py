"""Learners of model references: names of registered models, or functions in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from fedkt import registry
from fedkt.clients.learners.base import Learner
from fedkt.errors import ConfigError
from fedkt.knowledge import Knowledge
from fedkt.models import builder, builder_of
from fedkt.recipe import Recipe
from fedkt.rng import global_torch_stream


def make_learner(
    reference: str, input_shape: tuple[int, ...], num_classes: int, device: str = "cpu"
) -> Learner:
    """Return a learner for a model reference: the registered one that takes such a model."""
    build, shape = builder(reference, input_shape, num_classes), tuple(input_shape)
    return _made(build, num_classes, shape, reference, device)


def learner_of(
    build: Callable[[], Any],
    num_classes: int,
    input_shape: tuple[int, ...] | None = None,
    name: str = "",
    device: str = "cpu",
) -> Learner:
    """Return a learner for the models that a function makes.

    Parameters
    ----------
    build : callable
        Returns a new, untrained torch module or estimator; draws from torch's global generator
        only.
    num_classes : int
        C, the width of the logits.
    input_shape : tuple[int, ...], optional
        The shape of one sample; with it, the model is tried before anything is trained.
    name : str
        The architecture's name; by default that of the model's class.
    device : str
        torch's name of the device.

    Raises
    ------
    ConfigError
        If no learner takes such a model, or it does not fit the data.
    """
    name = name or type(_probed(build)).__name__
    if input_shape is not None:
        build = builder_of(build, name, input_shape, num_classes)
    return _made(build, num_classes, input_shape, name, device)


def _made(
    build: Callable[[], Any],
    num_classes: int,
    input_shape: tuple[int, ...] | None,
    name: str,
    device: str,
) -> Learner:
    made: Learner = _learner_class(build, name)(build, num_classes, name, device)
    made.input_shape = input_shape
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
        if _learner_class(builder(reference, input_shape, num_classes), reference).is_network
    ]


def _learner_class(build: Callable[[], Any], name: str) -> Any:
    """Return the class of the learner that takes a model; one's own come before the built-in."""
    model = _probed(build)
    learners = [registry.lookup("learners", name) for name in registry.names("learners")]
    taking = [learner for learner in learners if learner.takes(model)]
    if not taking:
        raise ConfigError(
            f"model {name!r} gives a {type(model).__name__!r} object, neither a torch module "
            "nor an estimator with fit and predict_proba, and no other learner takes it."
        )
    return min(taking, key=lambda learner: learner.__module__.startswith("fedkt."))


def _probed(build: Callable[[], Any]) -> Any:
    with global_torch_stream(0, "probe"):
        return build()
