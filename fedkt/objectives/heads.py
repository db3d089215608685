"""Small networks on a model's features that only the losses use: domain classifiers and the like.

A recipe declares its heads; the learner puts their parameters beside the model's, so that they
are optimised, kept, and travel with the weights like any other. A term computes a head from
``outputs.parameters`` alone, which keeps it pure.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from fedkt.errors import ConfigError
from fedkt.objectives.term import weighted_mean_rows
from fedkt.options import checked

PREFIX = "heads"


@checked
@dataclass(frozen=True)
class Head:
    """A multi-layer perceptron with ReLU between its layers.

    Parameters
    ----------
    name : str
        Its parameters are called ``heads.NAME.0.weight``, ...
    layers : tuple[int, ...]
        The width of every layer; 0 stands for the width of the features, -1 for the number
        of classes.
    norm : bool
        Whether hidden layers are normalised over the batch before ReLU (with an affine map,
        without running statistics: a head is used in training only).
    inputs : {"features", "classes", "pair"}
        Its inputs: features ``[n, d]``, one-hot labels ``[n, C]``, or two features side by
        side ``[n, 2 d]``.
    """

    name: str
    layers: tuple[Annotated[int, Ge(-1)], ...]
    norm: bool = False
    inputs: Literal["features", "classes", "pair"] = "features"

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        if not self.layers:
            raise ConfigError(f"Head {self.name} needs at least one layer.")

    def build(self, features: int, classes: int) -> nn.Module:
        """Return a module with the head's parameters, drawn from torch's global generator.

        Parameters
        ----------
        features, classes : int
            d and C.
        """
        input_widths = {"features": features, "classes": classes, "pair": 2 * features}
        sizes = {0: features, -1: classes}
        widths = [input_widths[self.inputs], *(sizes.get(n, n) for n in self.layers)]
        module = nn.Module()
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            module.add_module(str(i), nn.Linear(before, after))
            if self.norm and i < len(self.layers) - 1:
                module.add_module(f"norm{i}", nn.BatchNorm1d(after, track_running_stats=False))
        return module


def apply_head(
    parameters: Mapping[str, Tensor], name: str, x: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Return the outputs of a head.

    Parameters
    ----------
    parameters : Mapping[str, Tensor]
        The model's.
    name : str
        The head's.
    x : Tensor
        ``[n, inputs]``.
    weight : Tensor, optional
        ``[n]``, 0 for padding, which then has no part in the normalisation.

    Returns
    -------
    Tensor
        ``[n, width of the last layer]``.
    """
    layer = 0
    while f"{PREFIX}.{name}.{layer}.weight" in parameters:
        if layer:
            x = F.relu(_normalised(parameters, f"{PREFIX}.{name}.norm{layer - 1}", x, weight))
        at = f"{PREFIX}.{name}.{layer}"
        x = F.linear(x, parameters[f"{at}.weight"], parameters[f"{at}.bias"])
        layer += 1
    return x


def _normalised(
    parameters: Mapping[str, Tensor], at: str, x: Tensor, weight: Tensor | None
) -> Tensor:
    if f"{at}.weight" not in parameters:
        return x
    weight = x.new_ones(len(x)) if weight is None else weight
    mean = weighted_mean_rows(x, weight)
    variance = weighted_mean_rows((x - mean).square(), weight)
    scaled = (x - mean) * (variance + 1e-5).rsqrt()
    return scaled * parameters[f"{at}.weight"] + parameters[f"{at}.bias"]
