"""Weights of the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedkt import about
from fedkt.about import Model
from fedkt.data.samples import ClientData
from fedkt.knowledge import Kind, Knowledge
from fedkt.registry import register
from fedkt.shares.share import Asked, Share, ShareWork
from fedkt.shares.sizes import Sizes
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
    group : {"", "architecture"}
        Whether all clients have one architecture, or the server stacks those of each architecture
        by themselves (``Uploads.groups``).
    """

    name: str = "weights"
    local_norms: bool = False
    group: Literal["", "architecture"] = ""
    private: ClassVar[bool] = False

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "weights"

    @property
    def whole_model(self) -> bool:
        """Whether all weights are shared, by all clients alike."""
        return not self.local_norms and not self.group

    @property
    def one_architecture(self) -> bool:
        """Whether all clients must have one architecture."""
        return not self.group

    def about(self, model: Model, data: ClientData) -> Mapping[str, str]:
        """Return the architecture, the inputs and their preprocessing."""
        return about.of_weights(model, data)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return the weights."""
        return model.weights(self.local_norms)

    def first(self, model: Model) -> Knowledge:
        """Return the weights of an untrained model."""
        return model.weights(self.local_norms)

    def expected(self, asked: Asked) -> Expected:
        """Return tensors of the shapes of the first global weights; of any if there are none."""
        return Expected(self.kind, None, asked.weights or None)

    def upload_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of all floats of the model and its heads, but for those that stay."""
        left_out = sizes.norms if self.local_norms else frozenset()
        return sizes.floats * sum(n for name, n in sizes.tensors.items() if name not in left_out)
