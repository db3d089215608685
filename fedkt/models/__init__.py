"""Small reference models, by name.

A model is a function ``(input_shape, num_classes)`` that returns a torch module or an
estimator with scikit-learn's interface. It draws its parameters from torch's global
generator, which the caller seeds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedkt.errors import ConfigError
from fedkt.registry import lookup
from fedkt.text import raised

__all__ = ["build_model"]


def build_model(
    reference: str, input_shape: tuple[int, ...], num_classes: int, files: bool = True
) -> Any:
    """Return a new model, checked against the shape of the data.

    Parameters
    ----------
    reference : str
        A registered name (``cnn``) or ``path/to/file.py:Attribute``.
    input_shape : tuple[int, ...]
        The shape of one sample: ``(C, H, W)``, ``(T, C)`` or ``(d,)``.
    num_classes : int
        The width that the outputs must have.
    files : bool
        Whether a file may be named; never in what came over the wire.

    Returns
    -------
    torch.nn.Module or object
        A module that gave float ``[2, num_classes]`` for two samples, or what a learner of another
        framework takes, as an estimator with ``fit`` and ``predict_proba``.

    Raises
    ------
    ConfigError
        If there is no such model, or it does not fit the data.
    """
    part = lookup("models", reference, files)
    try:
        model = part(tuple(input_shape), num_classes)
    except ConfigError:
        raise
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(f"model {reference!r} cannot be built: {raised(error)}") from error
    if isinstance(model, nn.Module):
        _check_outputs(reference, model, tuple(input_shape), num_classes)
    return model


def _check_outputs(
    reference: str, model: nn.Module, input_shape: tuple[int, ...], num_classes: int
) -> None:
    lazy = next((name for name, parameter in model.named_parameters() if is_lazy(parameter)), None)
    if lazy is not None:
        raise ConfigError(
            f"model {reference!r} has no shape for {lazy!r} before it is called (nn.LazyLinear and "
            "the like); give the widths: nn.Linear(inputs, outputs)"
        )
    was_training = model.training
    try:
        with torch.no_grad():
            outputs: object = model.eval()(torch.zeros(2, *input_shape))
    except Exception as error:  # a user's code may raise anything
        raise ConfigError(
            f"model {reference!r} cannot take samples of shape {list(input_shape)}: {raised(error)}"
        ) from error
    finally:
        model.train(was_training)
    if not isinstance(outputs, Tensor):
        raise ConfigError(f"model {reference!r} gives a {type(outputs).__name__}, not logits")
    if outputs.dim() == 2 and len(outputs) == 2 and outputs.shape[1] != num_classes:
        raise ConfigError(
            f"model {reference!r} gives outputs of width {outputs.shape[1]}; the data has "
            f"{num_classes} classes"
        )
    if tuple(outputs.shape) != (2, num_classes) or not outputs.is_floating_point():
        raise ConfigError(
            f"model {reference!r} gives {outputs.dtype} {list(outputs.shape)} for 2 samples; "
            f"float logits [2, {num_classes}] are needed"
        )
