"""Validation losses of the client's model and of the weights that it received."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fedkt.about import Model
from fedkt.answers import LARGEST_LOSS, correct, mean_loss
from fedkt.data.samples import Samples
from fedkt.knowledge import Kind, Knowledge
from fedkt.registry import register
from fedkt.shares.share import Asked, Share, ShareWork
from fedkt.shares.sizes import Sizes
from fedkt.upload_check import Expected


@register(name="validation")
@dataclass(frozen=True)
class Validation(Share):
    """Loss and accuracy of two models on the client's validation samples.

    Statistics ``own`` and ``received``, each float32 ``[2]``: mean cross-entropy in nats (at most
    10000) and accuracy, of the client's model as it is when it shares, and of the same model
    with the weights that it last received. A client without validation samples measures both on
    its training samples.

    Parameters
    ----------
    source : str
        The weights that the ``learn`` phase has loaded.
    name : str
        The share's name.
    """

    source: str = "weights"
    name: str = "validation"

    @property
    def kind(self) -> Kind:
        """The kind of knowledge shared."""
        return "statistics"

    def needs(self) -> tuple[str, ...]:
        """Return the name of the weights."""
        return (self.source,)

    def make(self, model: Model, work: ShareWork) -> Knowledge:
        """Return loss and accuracy of both models; the model ends as it was."""
        samples = work.data.validation if len(work.data.validation) else work.data.train
        current, state = _measured(model, samples), model.state()
        model.load_weights(work.knowledge[self.source])
        received = _measured(model, samples)
        model.load_state(state)
        return Knowledge("statistics", {"own": current, "received": received})

    def expected(self, asked: Asked) -> Expected:
        """Return ``own [2]`` and ``received [2]``: losses from 0 on, accuracies in [0, 1]."""
        within = torch.zeros(2), torch.tensor([math.inf, 1.0])
        between = dict.fromkeys(("own", "received"), within)
        return Expected(self.kind, None, dict.fromkeys(between, (2,)), between=between)

    def upload_bytes(self, sizes: Sizes) -> int:
        """Return the bytes of four numbers."""
        return sizes.floats * 4


def _measured(model: Model, samples: Samples) -> Tensor:
    """Return mean cross-entropy and accuracy on labelled samples, float32 ``[2]``."""
    assert samples.y is not None
    if not len(samples):
        return torch.zeros(2)
    logits = model.predict(samples.x)
    loss = mean_loss(logits, samples.y).clamp_max(LARGEST_LOSS)
    return torch.stack([loss, correct(logits, samples.y).float().mean()])
