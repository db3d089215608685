"""Weights of the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from fedkt.knowledge import Kind, Knowledge
from fedkt.registry import register
from fedkt.shares.share import Asked, Model, Share, ShareWork
from fedkt.upload_check import Expected


@register(name="weights")
@dataclass(frozen=True)
class Weights(Share):
    """The model's weights (float parameters and buffers).

    Parameters
    ----------
    name : str
        The share's name.
    local_norms : bool
        Whether batch normalisation, its affine map and running statistics, stays with the
        client and is neither shared nor loaded (FedBN).
    """

    name: str = "weights"
    local_norms: bool = False
    private: ClassVar[bool] = False
    group: ClassVar[str] = "architecture"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "weights"

    @property
    def whole_model(self) -> bool:
        """Whether all weights are shared."""
        return not self.local_norms

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the weights."""
        return model.weights(self.local_norms)

    def first(self, model: Model) -> Knowledge:
        """Return the weights of an untrained model."""
        return model.weights(self.local_norms)

    def expected(self, asked: Asked) -> Expected:
        """Return tensors of the shapes of the first global weights."""
        return Expected(self.kind, None, asked.weights)
