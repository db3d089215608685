"""Heads: networks beside a model that only the losses use, such as domain classifiers.

A recipe declares its heads; the learner puts their parameters beside the model's, so that they
are optimised, kept, and travel with the weights like any other. A term computes a head from
``outputs.parameters`` alone, which keeps it pure.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

import torch.nn.functional as F
from annotated_types import Ge
from torch import Tensor, nn

from fedkt.errors import ConfigError
from fedkt.objectives.term import Outputs, weighted_mean_rows
from fedkt.options import checked
from fedkt.registry import register

PREFIX = "heads"

# From tensors by their names in ``outputs.parameters`` and inputs [n, ...] to outputs.
Answer = Callable[[Mapping[str, Tensor], Tensor], Outputs]


@dataclass(frozen=True)
class Place:
    """The model beside which a head is built.

    Parameters
    ----------
    model : torch.nn.Module
        The model; not to be changed.
    classes : int
        C, the number of classes.
    width : callable
        Returns d, the width of the model's features; raises ``ConfigError`` if it has none.
    network : callable
        Returns a new, untrained network for the same inputs and classes: of a registered model
        by its name, or like the model itself (``"own"``).
    """

    model: nn.Module
    classes: int
    width: Callable[[], int]
    network: Callable[[str], nn.Module]


class HeadPart(ABC):
    """Base of all heads, which are registered frozen dataclasses with a field ``name``.

    Attributes
    ----------
    name : str
        What its parameters are called: ``heads.NAME.…``.
    """

    part: ClassVar[str] = "heads"
    name: str

    @abstractmethod
    def build(self, place: Place) -> nn.Module:
        """Return a module with the head's parameters, drawn from torch's global generator.

        It must have no buffers; they would not be trained in a cohort as in the loop.
        """

    def answers(self) -> bool:
        """Return whether the module itself answers, called by the head's name: see ``Net``."""
        return False


@register(name="head")
@checked
@dataclass(frozen=True)
class Head(HeadPart):
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

    def build(self, place: Place) -> nn.Module:
        """Return the layers; see the base."""
        return self.module(place.width(), place.classes)

    def module(self, features: int, classes: int) -> nn.Module:
        """Return the layers for features of width d and C classes."""
        input_widths = {"features": features, "classes": classes, "pair": 2 * features}
        sizes = {0: features, -1: classes}
        widths = [input_widths[self.inputs], *(sizes.get(n, n) for n in self.layers)]
        module = nn.Module()
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            module.add_module(str(i), nn.Linear(before, after))
            if self.norm and i < len(self.layers) - 1:
                module.add_module(f"norm{i}", nn.BatchNorm1d(after, track_running_stats=False))
        return module


@register(name="net")
@dataclass(frozen=True)
class Net(HeadPart):
    """A whole network beside the model, from inputs to logits, used by terms only.

    A term that holds it asks it with ``net(outputs.parameters, batch.x)``, or with fused weights
    of the same names (``net(knowledge["net"].tensors, batch.x)``). It is trained where a loss
    reaches it, and shared by ``Weights(of="heads.NAME.")``.

    Parameters
    ----------
    name : str
        Its parameters are called ``heads.NAME.…``.
    model : str
        Name of a registered model, the same for all clients; ``"own"`` is one like the client's.
        Without buffers: batch normalisation is refused.
    """

    name: str
    model: str = "mlp"

    def build(self, place: Place) -> nn.Module:
        """Return an untrained network."""
        return place.network(self.model)

    def answers(self) -> bool:
        """Return True: terms ask the network itself."""
        return True

    def __call__(self, tensors: Mapping[str, Tensor], x: Tensor) -> Outputs:
        """Return the network's outputs for inputs, in training mode.

        Parameters
        ----------
        tensors : Mapping[str, Tensor]
            Its parameters by their whole names, among others.
        x : Tensor
            ``[n, ...]``.

        Raises
        ------
        ConfigError
            If the recipe lists no such head, or a parameter is missing.
        """
        answers = _answers.get()
        if self.name not in answers:
            raise ConfigError(f"Net {self.name!r} is asked, and the recipe's heads do not list it.")
        return answers[self.name](tensors, x)


_NONE: Mapping[str, Answer] = MappingProxyType({})
_answers: ContextVar[Mapping[str, Answer]] = ContextVar("answers", default=_NONE)


@contextmanager
def answering(answers: Mapping[str, Answer]) -> Iterator[None]:
    """Let nets answer by their names while inside; executors do so around their terms.

    A :class:`Net` is plain data, and only an executor knows the network that stands for ``"own"``.
    """
    token = _answers.set(answers)
    try:
        yield
    finally:
        _answers.reset(token)


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
