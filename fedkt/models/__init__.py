"""Models: small reference networks and classifiers by name, and makers of any other.

A model is a function ``(input_shape, num_classes)`` that returns a torch module or an
estimator with scikit-learn's interface, a class of either, or an object of either. It draws its
parameters from torch's global generator, which the caller seeds; an object keeps its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from torch import nn

from fedkt.models.builder import Builder, builder_of
from fedkt.registry import lookup, names

__all__ = ["Builder", "build_model", "builder", "builder_of"]


def builder(
    reference: str, input_shape: tuple[int, ...], num_classes: int, files: bool = True
) -> Builder:
    """Return the builder of a model: the same object for the same model, for use as a key.

    Parameters
    ----------
    reference : str
        A registered name (``cnn``), ``path/to/file.py:Attribute``, or a registered name with what
        it makes the model of (``transformers:bert(hidden_size=64)``).
    input_shape : tuple[int, ...]
        The shape of one sample: ``(C, H, W)``, ``(T, C)`` or ``(d,)``.
    num_classes : int
        The width that the outputs must have.
    files : bool
        Whether a file may be named; never in what came over the wire.

    Raises
    ------
    ConfigError
        If there is no such model, or it does not fit the data.
    """
    return builder_of(_thing(reference, files), reference, input_shape, num_classes)


def build_model(
    reference: str, input_shape: tuple[int, ...], num_classes: int, files: bool = True
) -> Any:
    """Return a new model, checked against the shape of the data; see :func:`builder`.

    Returns
    -------
    torch.nn.Module or object
        A module that returned float logits ``[2, num_classes]`` for two samples, or what a learner
        of another framework takes, as an estimator with ``fit`` and ``predict_proba``.

    Raises
    ------
    ConfigError
        If there is no such model, or it does not fit the data.
    """
    build = builder(reference, input_shape, num_classes, files)
    model = build()
    if isinstance(model, nn.Module):
        build.checked(model)
    return model


def _thing(reference: str, files: bool) -> Any:
    """Return what a reference names; of ``NAME:SOURCE``, the part with its ``source``."""
    name, colon, source = reference.partition(":")
    if files and colon and name in names("models"):
        return _sourced(lookup("models", name), source)
    return lookup("models", reference, files)


@lru_cache(maxsize=64)
def _sourced(part: Callable[..., Any], source: str) -> Callable[..., Any]:
    """Return a model's function with its source: the same object each time, for use as a key."""
    return partial(part, source=source)
