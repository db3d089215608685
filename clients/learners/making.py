"""Learners of model references: names of registered models, or functions in files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from fedkt import registry
from fedkt.clients.learners.base import Learner
from fedkt.clients.learners.sklearn import SklearnLearner
from fedkt.clients.learners.torch import TorchLearner
from fedkt.models import build_model, is_torch_model
from fedkt.rng import global_torch_stream


def make_learner(
    reference: str, input_shape: tuple[int, ...], num_classes: int, device: str = "cpu"
) -> Learner:
    """Return a learner for a model reference: torch module or scikit-learn classifier."""
    network = torch_models([reference], input_shape, num_classes)
    # Without the check of every build, which takes as long as the build and was done just now.
    build = _build_of(registry.lookup("models", reference), tuple(input_shape), num_classes)
    if network:
        return TorchLearner(build, num_classes, reference, device)
    return SklearnLearner(build, num_classes, reference)


@lru_cache(maxsize=64)
def _build_of(
    part: Callable[..., Any], input_shape: tuple[int, ...], num_classes: int
) -> Callable[[], Any]:
    """Return the builder of a model: the same object each time, for use as a key."""
    return partial(part, input_shape, num_classes)


def torch_models(
    references: Sequence[str], input_shape: tuple[int, ...], num_classes: int
) -> list[str]:
    """Return the references of torch modules among model references, in order, each once."""
    with global_torch_stream(0, "probe"):
        return [
            reference
            for reference in dict.fromkeys(references)
            if is_torch_model(build_model(reference, input_shape, num_classes))
        ]
